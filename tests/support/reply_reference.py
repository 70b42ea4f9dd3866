"""The reply grammar once more, over whole texts, with regular expressions: what the incremental parser is held to.

It shares with the parser only the conversion of values. It lists every character of the text with the part it plays, so
that nothing can get lost unseen: all parts joined are the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

# transformers needs it too; it can tell whether a text could still become a match
import regex as re

from sglang_nemotron.reply.grammar import Call, Reply
from sglang_nemotron.reply.schema import ToolSpec, parameter_types
from sglang_nemotron.reply.values import STRING, ValueType, as_json, leaves_out, literal

WS = r"[ \t\r\n]{0,64}"
P, F, T = "</parameter>", "</function>", "</tool_call>"
CLOSER = f"(?:{P}|{F}|{T})"
PARAMETER = r"<parameter=([^<>\n]{1,128})>"
ANY_HEADER = r"<tool_call>\n<function=[^<>\n]{1,128}>"
COMMITTED = rf"(?={WS}(?:{PARAMETER}|{F}))"
QUOTATION = rf"<tool_call>{WS}<function=[^<>\n]{{1,128}}>{COMMITTED}"
OWN = r"<(parameter|function)(?=[=> \t\r\n])([^<>]{0,129})>"
WORDS = rf"([^ \t\r\n<][^\n<]{{0,199}})(?=[\n<]|\Z){WS}"
HEADER_WORDS = rf"{WS}(?:(?P<words>(?=[^ \t\r\n])(?:(?!<tool_call>|<function=)[^\n]){{1,200}}(?<=[^ \t\r\n])){WS})?"
MARGIN = re.compile(r"(?:\n|\A)[ \t]{0,64}\Z")


def cut(tag: str) -> str:
    """A pattern for the proper, non-empty prefixes of a tag, at the end of the text."""
    return "(?:" + "|".join(re.escape(tag[:size]) for size in range(len(tag) - 1, 0, -1)) + r")\Z"


CUT_CLOSER = f"(?:{cut(P)}|{cut(F)}|{cut(T)})"
CUT_PARAMETER = rf"(?:{cut('<parameter=')}|<parameter=[^<>\n]{{0,128}}\Z)"
# what may be left out of reasoning, content and values: whole tags, and tags that the end of the text cut
MARKUP = re.compile(
    rf"\n?<think>\n?|\n?</think>\n?|\n?[ \t]{{0,64}}|{WS}\n?{WS}|{WS}<tool_call>{WS}(?:<function=[^<>]+>\n?)?|"
    # a line of words may end in as many blanks as it has room for
    rf"[ \t\r]{{0,199}}{WS}|{WS}<function=[^<>]+>\n?|{WS}{PARAMETER}\n?|{WS}{CLOSER}\n?|"
    rf"{WS}(?:{CUT_CLOSER}|{CUT_PARAMETER})"
)


@dataclass
class Written:
    """The arguments of one call: what is written for sure, and the last value, which another may replace."""

    items: dict[str, str] = field(default_factory=dict)
    waiting: tuple[str, str | None] | None = None
    given: set[str] = field(default_factory=set)
    # the text of a value that was cut off, and its name
    open: tuple[str, str] | None = None

    def settle(self) -> None:
        if self.waiting and self.waiting[1] is not None:
            self.items[self.waiting[0]] = self.waiting[1]
        self.waiting = None

    def json(self) -> str:
        pairs = [f"{as_json(name, STRING)}: {value}" for name, value in self.items.items()]
        if self.open is None:
            return "{" + ", ".join(pairs) + "}"
        name, text = self.open
        if name not in self.items:
            pairs.append(f"{as_json(name, STRING)}: {as_json(text, STRING)[:-1]}")
        return "{" + ", ".join(pairs)


@dataclass
class Parts:
    """The text in order, as (part, characters): reasoning, content, markup, tag (of a value within it), value, dropped
    (a value that another replaced)."""

    parts: list[tuple[str, str]] = field(default_factory=list)
    calls: list[tuple[str, Written]] = field(default_factory=list)

    def add(self, part: str, text: str) -> None:
        if text:
            self.parts.append((part, text))

    def texts(self, part: str) -> list[str]:
        return [text for name, text in self.parts if name == part]


class Reference:
    def __init__(self, tools: tuple[ToolSpec, ...]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        names = "|".join(re.escape(name) for name in sorted(self.tools, key=len, reverse=True)) or r"(?!)"
        self.header = rf"<tool_call>\n<function=(?P<name>{names})>"
        function = rf"<function=(?P<name>{names})>"
        self.strict = re.compile(self.header)
        self.bare = re.compile(function + COMMITTED)
        self.loose = re.compile(rf"<tool_call>{HEADER_WORDS}{function}{COMMITTED}")
        body = rf"{WS}(?:{PARAMETER}|{F})"
        # the same without lookahead, for texts that end inside
        self.cuttable = [
            re.compile(pattern) for pattern in (function + body, rf"<tool_call>{HEADER_WORDS}{function}{body}")
        ]
        self.end_of_think = re.compile(rf"\n?</think>\n?|(?:\n|\A)(?={self.header})")

    def parse(self, text: str, thinking: bool = True, reasoning: bool = True, cut_off: bool = False) -> Parts:
        out = Parts()
        self.cut_off = cut_off
        raw = thinking and not reasoning
        if reasoning and (thinking or text.startswith("<think>")):
            opener = re.match(r"(?:<think>\n?)?", text)
            assert opener
            out.add("markup", opener[0])
            body = text[opener.end() :]
            end = self.end_of_think.search(body)
            out.add("reasoning", body[: end.start()] if end else body)
            if end is None:
                return out
            out.add("markup", end[0])
            text = body[end.end() :]
        # the content as Markdown sees it: a call is the end of a line
        seen = ""
        while text:
            at, call = self._first_call(text, seen, raw and "</think>" not in seen)
            if call is None:
                out.add("content", text)
                break
            before = MARGIN.sub("", text[:at])
            out.add("content", before)
            out.add("markup", text[len(before) : at])
            seen += text[:at] + "\n"
            text = self._call(text[at:], call, out)
        return out

    # ---- where a call begins

    def _first_call(self, text: str, seen: str, thinking: bool) -> tuple[int, re.Match | None]:
        for mark in re.finditer(r"</think>|<tool_call>|<function=", text):
            at = mark.start()
            if mark[0] == "</think>":
                thinking = False
                continue
            begins_line = at == 0 or text[at - 1] == "\n"
            call = self.strict.match(text, at) if begins_line else None
            if call is None and not thinking and not is_quoted(seen + text[:at]):
                call = self.loose.match(text, at)
                if call is None and MARGIN.search(text[:at]):
                    call = self.bare.match(text, at)
            if call:
                return at, call
        return 0, None

    def _any_call(self, text: str) -> re.Match | None:
        return self.strict.match(text) or self.loose.match(text) or self.bare.match(text)

    def _is_cut_call(self, text: str, loose: bool = True) -> bool:
        """Whether the text ends inside what may be the header of a call."""
        patterns = [self.strict, *(self.cuttable if loose else [])]
        found = (pattern.fullmatch(text, partial=True) for pattern in patterns)
        return bool(text) and any(match is not None and match.partial for match in found)

    # ---- a call

    def _call(self, text: str, call: re.Match, out: Parts) -> str:
        """Read a call whose header is `call`; returns the text behind it."""
        header, words = call[0], call.groupdict().get("words") or ""
        before = call.start("words") - call.start() if words else 0
        out.add("markup", header[:before])
        out.add("content", words)
        newline = "\n" if text[len(header) :].startswith("\n") else ""
        out.add("markup", header[before + len(words) :] + newline)
        out.calls.append((call["name"], Written()))
        return self._body(text[len(header) + len(newline) :], out)

    def _body(self, text: str, out: Parts) -> str:
        name, written = out.calls[-1]
        while True:
            declared = parameter_types(self.tools[name].parameters)[0].keys()
            if assigned := assigned_tag(text, declared - written.given):
                out.add("tag", assigned[0])
                text, closed = self._assigned(text[assigned.end() :], name, assigned[1], written, out)
                if closed:
                    return ""
            elif parameter := re.match(rf"{WS}{PARAMETER}\n?", text):
                out.add("markup", parameter[0])
                text, closed = self._value(text[parameter.end() :], name, parameter[1], written, out)
                if closed:
                    return ""
            elif closing := re.match(rf"{WS}({CLOSER})\n?", text):
                out.add("markup", closing[0])
                text = text[closing.end() :]
                if closing[1] != P:
                    written.settle()
                    return self._behind(text, closing[1] == F, out)
            elif stopped := re.match(rf"{WS}(?:\Z|{CUT_CLOSER}|{CUT_PARAMETER})", text):
                out.add("markup", stopped[0])
                written.settle()
                return text[stopped.end() :]
            elif call := self._any_call(text[(blank := space(text)) :]):
                written.settle()
                out.add("markup", text[:blank])
                return self._call(text[blank:], call, out)
            elif (words := re.match(rf"({WS}){WORDS}", text)) and self._goes_on(text[words.end() :]):
                add_words(words, out)
                text = text[words.end() :]
            else:
                written.settle()
                return text

    def _goes_on(self, text: str) -> bool:
        """Whether a tag of a call, or the end of the text, comes next."""
        tag = re.match(rf"{CLOSER}|{PARAMETER}|\Z|{CUT_CLOSER}|{CUT_PARAMETER}", text)
        return bool(tag or self._any_call(text) or self._is_cut_call(text))

    def _behind(self, text: str, in_block: bool, out: Parts) -> str:
        """Read what belongs to a call that is complete; returns the text behind it."""
        while True:
            if closing := re.match(rf"{WS}({CLOSER})\n?", text):
                out.add("markup", closing[0])
                text = text[closing.end() :]
                in_block &= closing[1] != T
            elif in_block and (stopped := re.match(rf"{WS}(?:\Z|{CUT_CLOSER})", text)):
                out.add("markup", stopped[0])
                return text[stopped.end() :]
            elif in_block and (words := re.match(rf"({WS}){WORDS}", text)) and self._are_between(words, text):
                add_words(words, out)
                text = text[words.end() :]
            else:
                return text

    def _are_between(self, words: re.Match, text: str) -> bool:
        """Whether a closing tag follows words behind a function, or a bare call on their line."""
        if re.match(CLOSER, text[words.end() :]):
            return True
        same_line = "\n" not in words[0][len(words[1]) :]
        return same_line and not is_quoted(words[2]) and bool(self.bare.match(text, words.end()))

    # ---- a value

    def _assigned(self, text: str, tool: str, name: str, written: Written, out: Parts) -> tuple[str, bool]:
        """Read one value that begins within its tag."""
        closed = re.match(r"([^<>\n]*)>(?=\n|\Z)", text)
        whole = closed and len(name) + 1 + len(closed[1]) <= 128
        if closed and whole and closed[1]:
            return self._value(text[closed.end() :], tool, name, written, out, closed[1])
        skipped = re.match(r"(?:>(?=\n|\Z))?\n?" if whole else r"\n?", text)
        assert skipped
        out.add("tag", skipped[0])
        return self._value(text[skipped.end() :], tool, name, written, out)

    def _value(
        self, text: str, tool: str, name: str, written: Written, out: Parts, begun: str = ""
    ) -> tuple[str, bool]:
        """Read one value; returns the text behind it, and whether the reply ended in it."""
        types, other = parameter_types(self.tools[tool].parameters)
        wanted = types.get(name, other)
        if written.waiting and written.waiting[0] == name:
            written.waiting = None
            out.parts = [("dropped" if part == "waiting" else part, piece) for part, piece in out.parts]
        written.settle()
        out.parts = [("value" if part == "waiting" else part, piece) for part, piece in out.parts]
        written.given.add(name)
        end = self._value_end(text, wanted, types.keys(), written.given)
        if end is None:
            self._last_value(text, name, wanted, written, out, begun)
            return "", True
        value = text[: end - 1] if end > 0 and text[end - 1] == "\n" else text[:end]
        self._write(begun + value, name, wanted, written, out, begun)
        out.add("markup", text[len(value) : end])
        return text[end:], False

    def _write(self, value: str, name: str, wanted: ValueType, written: Written, out: Parts, begun: str = "") -> None:
        if name in written.items:
            out.add("content", value)
            return
        if wanted.streams or (value and not wanted.undecided(value)):
            written.items[name] = as_json(value, STRING)
            add_value("value", value, begun, out)
            return
        written.waiting = (name, None if leaves_out(value, wanted) else as_json(value, wanted))
        add_value("waiting", value, begun, out)

    def _last_value(
        self, text: str, name: str, wanted: ValueType, written: Written, out: Parts, begun: str = ""
    ) -> None:
        tail = re.search(CUT_CLOSER, text)
        if tail and (begins_line(text[: tail.start()]) or tail[0].startswith("</par")):
            value, end = text[: tail.start()].removesuffix("\n"), ""
        else:
            tail = re.search(rf"{CUT_CLOSER}|\n\Z", text)
            end = tail[0] if tail else ""
            value = text[: len(text) - len(end)]
        out_end = text[len(value) + len(end) :]
        value = begun + value
        tag = out_end.lstrip("\n")
        if self.cut_off and (len(tag) < len("</par") or any(kind.startswith(tag[2:]) for kind in self.left_open)):
            part = "content" if name in written.items else "value"
            add_value(part, value + end, begun, out)
            written.open = (name, value + end)
        elif end and "string" not in wanted.types and literal(value, wanted) and name not in written.items:
            self._write(value, name, wanted, written, out, begun)
            out.add("markup" if end == "\n" else "cut", end)
            written.settle()
        else:
            self._write(value + end, name, wanted, written, out, begun)
            written.settle()
        out.add("markup", out_end)

    def _value_end(self, text: str, wanted: ValueType, declared: Iterable[str], given: set[str]) -> int | None:
        """Where a value ends, or None: nowhere."""
        plain = wanted.types.isdisjoint(("string", "array", "object"))
        quoted = at = 0
        own = {"parameter": 0, "function": 0}
        self.marked = False
        # parameters that quoted calls opened
        inner = 0
        while (at := text.find("<", at)) >= 0:
            first = begins_line(text[:at])
            rest = text[at:]
            if quoted and not self.cut_off and re.match(rf"(?:{P}{WS}(?:{F}{WS})?|{F}{WS}){T}{WS}\Z", rest):
                return at
            close = re.match(rf"{F}{WS}{T}", rest) if quoted else None
            if not quoted and self._ends(rest, first, first or plain, set(declared), given, own):
                return at
            # no quoted parameter is open: judged as behind one of the value's own
            alone = bool(quoted) and not inner and rest.startswith(P)
            if alone and self._ends(rest, False, False, set(declared), given, {**own, "parameter": 1}):
                return at
            quote = (re.match(ANY_HEADER, rest) if first else None) or re.match(QUOTATION, rest)
            opened = re.match(OWN, rest)
            self.marked |= bool(quote or (opened and not opened[2].endswith("/"))) or rest.startswith("<tool_call>")
            if not quoted and opened and not opened[2].endswith("/"):
                own[opened[1]] += 1
            if quoted and opened and opened[1] == "parameter" and not opened[2].endswith("/"):
                inner += 1
            inner -= bool(quoted and inner and rest.startswith(P))
            for kind in own:
                if not quoted and rest.startswith(f"</{kind}>") and own[kind]:
                    own[kind] -= 1
            quoted += bool(quote) - bool(close)
            inner = inner if quoted else 0
            at += quote.end() if quote else close.end() if close else 1
        # the kinds of closing tags that may be the value's own
        self.left_open = ["parameter"] * bool(quoted or own["parameter"]) + ["function", "tool_call"] * self.marked
        return None

    def _ends(
        self, rest: str, begins_line: bool, column: bool, declared: set[str], given: set[str], own: dict[str, int]
    ) -> bool:
        """Whether the value ends where `rest` begins."""
        unclosed = re.match(rf"{PARAMETER}(?:\n|\Z)", rest) if begins_line and not own["function"] else None
        if unclosed and unclosed[1] in declared - given:
            return True
        outside = not own["parameter"]
        for tags, first, loose in (
            (rf"{P}{WS}{F}", True, outside),
            (P, True, outside),
            (F, begins_line, not own["function"]),
            (T, begins_line, True),
        ):
            closing = re.match(rf"{tags}{WS}", rest) if first else None
            if closing is None:
                continue
            behind = rest[closing.end() :]
            further = {P: rf"{F}|{T}", T: r"(?!)"}.get(tags, T)
            # P F without T is judged above
            if re.match(further, behind) and (tags != P or not behind.startswith(F)):
                return True
            if self._any_call(behind) if loose else self.strict.match(behind):
                return True
            # where a limit cut the text off, the tag may be the value's own
            told = outside if tags.startswith(P) else not self.marked
            if (told or not self.cut_off) and self._is_end(behind, further, loose):
                return True
        if not rest.startswith(P):
            return False
        behind = rest[len(P) + space(rest[len(P) :]) :]
        if outside and behind.startswith(F) and self._ends_function(behind[len(F) + space(behind[len(F) :]) :]):
            return True
        if assigned_tag(behind, declared - given, whole=False):
            return True
        parameter = re.match(PARAMETER, behind)
        weak = outside and column
        if parameter and parameter[1] not in given and (outside or parameter[1] in declared):
            return True
        if re.match(CUT_PARAMETER, behind) and (outside or not self.cut_off):
            return True
        if not weak:
            return False
        if parameter or re.match(rf"{P}|{F}|{cut(P)}", behind):
            return True
        words = re.match(WORDS, behind)
        return bool(words) and self._ends_words(behind[words.end() :], declared)

    def _is_end(self, text: str, tags: str, loose: bool) -> bool:
        """Whether nothing is left but what may have become one of the tags, or a call."""
        ends = not text or any(re.match(cut(tag), text) for tag in tags.split("|") if tag in (F, T))
        return ends or self._is_cut_call(text, loose)

    def _ends_function(self, text: str) -> bool:
        """Whether the text behind P F in the middle of a line makes them an end."""
        if re.match(cut(F), text):
            return True
        if again := re.match(rf"{F}{WS}", text):
            text = text[again.end() :]
            if text.startswith(T) or self._any_call(text) or self._is_end(text, T, True):
                return True
        words = re.match(WORDS, text)
        return bool(words and self._any_call(text[words.end() :]))

    def _ends_words(self, text: str, declared: set[str]) -> bool:
        tag = re.match(rf"{F}|{T}", text)
        parameter = re.match(PARAMETER, text)
        named = parameter is not None and parameter[1] in declared
        if tag or named or self._any_call(text):
            return True
        cut_tag = re.match(rf"\Z|{cut(F)}|{cut(T)}|{CUT_PARAMETER}", text)
        return not self.cut_off and bool(cut_tag or self._is_cut_call(text))

    # ---- the reply

    def reply(self, parts: Parts, nonempty: bool = False, max_calls: int | None = None) -> Reply:
        """What the parts come to."""
        calls = [Call(name, written.json()) for name, written in parts.calls]
        reasoning, content = "".join(parts.texts("reasoning")), joined(parts.texts("content"))
        if nonempty and not calls and not content.strip():
            # it is content then in every respect
            instead = self.parse(reasoning + content, thinking=False, reasoning=False, cut_off=self.cut_off)
            return self.reply(instead, max_calls=max_calls)
        return Reply(reasoning, content, tuple(calls[:max_calls]))


def begins_line(before: str) -> bool:
    """Whether a tag behind this text is the first of its line."""
    before = before.rstrip(" \t")
    return not before or before.endswith("\n")


def space(text: str) -> int:
    found = re.match(WS, text)
    assert found
    return found.end()


def assigned_tag(text: str, missing: Set[str], whole: bool = True) -> re.Match | None:
    """The beginning of a parameter whose value stands within its tag; `whole`: unless all of it is a name."""
    names = "|".join(re.escape(name) for name in missing) or r"(?!)"
    tag = re.match(rf"{WS}{PARAMETER}", text)
    if whole and tag and tag[1] in missing:
        return None
    return re.match(rf"{WS if whole else ''}<parameter=({names})=", text)


def add_value(part: str, value: str, begun: str, out: Parts) -> None:
    """A value; behind what of it began within its tag, the tag ends."""
    if begun:
        out.add(part, begun)
        out.add("tag", ">")
    out.add(part, value[len(begun) :])


def add_words(words: re.Match, out: Parts) -> None:
    """Words between tags, and the space around them."""
    said = words[2].rstrip(" \t\r\n")
    out.add("markup", words[1])
    out.add("content", said)
    out.add("markup", words[0][len(words[1]) + len(said) :])


def is_quoted(seen: str) -> bool:
    """Whether Markdown makes what stands behind `seen` prose."""
    fence = ""
    lines = seen.split("\n")
    for number, line in enumerate(lines):
        last = number == len(lines) - 1
        mark = re.match(r"[ \t]*(`{3,}|~{3,})(.*)", line, re.DOTALL)
        if fence:
            if mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not mark[2].strip():
                fence = ""
                if last:
                    return False
        elif mark and not (mark[1][0] == "`" and "`" in mark[2]):
            fence = mark[1]
    return bool(fence) or lines[-1].count("`") % 2 == 1


def joined(pieces: list[str]) -> str:
    """Content before and behind calls: a newline is put in where text would run into text."""
    out, blank = "", ""
    for piece in pieces:
        piece = blank + piece
        blank = ""
        run_together = out.strip() and "\n" not in out[len(out.rstrip()) :]
        if run_together and not piece.strip() and "\n" not in piece:
            blank = piece
            continue
        if run_together and "\n" not in piece[: len(piece) - len(piece.lstrip())]:
            out += "\n"
        out += piece
    return out + blank
