"""The reply grammar once more, over whole texts, with regular expressions: what the incremental parser is held to.

It shares with the parser only the conversion of values. It lists every character of the text with the part it plays, so
that nothing can get lost unseen: all parts joined are the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sglang_nemotron.reply.grammar import Call, Reply
from sglang_nemotron.reply.schema import ToolSpec, as_json, literal, parameter_types

WS = r"[ \t\r\n]{0,64}"
P, F, T = "</parameter>", "</function>", "</tool_call>"
PARAMETER = r"<parameter=([^<>\n]{1,128})>"
ANY_HEADER = r"<tool_call>\n<function=[^<>\n]{1,128}>"


def cut(tag: str) -> str:
    """A pattern for the proper, non-empty prefixes of a tag, at the end of the text."""
    return "(?:" + "|".join(re.escape(tag[:size]) for size in range(len(tag) - 1, 0, -1)) + r")\Z"


CUT_PARAMETER = rf"(?:{cut('<parameter=')}|<parameter=[^<>\n]{{0,128}}\Z)"
# what may be left out of reasoning, content and values: whole tags, and tags that the end of the text cut
MARKUP = re.compile(
    rf"\n?<think>\n?|\n?</think>\n?|\n|\n?<tool_call>\n<function=[^<>]+>\n?|{WS}{PARAMETER}\n?|"
    rf"\n?(?:{P})?{WS}(?:{F})?{WS}(?:{T})?{WS}|{WS}(?:{cut(F)}|{cut(T)}|{cut(P)}|{CUT_PARAMETER})|"
    rf"\n?(?:{P})?{WS}(?:{F})?{WS}(?:{cut(F)}|{cut(T)}|{CUT_PARAMETER})"
)


@dataclass
class Parts:
    """The text in order, as (part, characters); parts are reasoning, content, markup, name, value."""

    parts: list[tuple[str, str]] = field(default_factory=list)
    # per call: name, then (parameter, value, cut end tag)
    calls: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)

    def add(self, part: str, text: str) -> None:
        if text:
            self.parts.append((part, text))

    def joined(self, part: str) -> str:
        return "".join(text for name, text in self.parts if name == part)


class Reference:
    def __init__(self, tools: tuple[ToolSpec, ...]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        names = "|".join(re.escape(name) for name in self.tools) or r"(?!)"
        self.header = rf"<tool_call>\n<function=(?:{names})>"
        whole = max(self.tools, key=len, default="")
        # prefixes of any declared header
        heads = {f"<tool_call>\n<function={name}>"[:size] for name in self.tools for size in range(1, 24 + len(whole))}
        heads -= {f"<tool_call>\n<function={name}>" for name in self.tools}
        self.cut_header = "(?:" + "|".join(map(re.escape, sorted(heads, key=len, reverse=True))) + r")\Z"
        self.end_of_think = re.compile(rf"\n?</think>\n?|(?:\n|\A)(?={self.header})")
        self.call = re.compile(rf"(?:\n|\A)<tool_call>\n<function=({names})>\n?")

    def parse(self, text: str, thinking: bool = True, reasoning: bool = True) -> Parts:
        out = Parts()
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
        while text:
            call = self.call.search(text)
            out.add("content", text[: call.start()] if call else text)
            if call is None:
                break
            out.add("markup", call[0])
            out.calls.append((call[1], []))
            text = self._body(text[call.end() :], out)
        return out

    def _body(self, text: str, out: Parts) -> str:
        """Read parameters and end tags; returns the text behind the call."""
        name, values = out.calls[-1]
        while True:
            parameter = re.match(rf"{WS}{PARAMETER}\n?", text)
            if parameter is None:
                break
            out.add("markup", parameter[0])
            text, over = self._value(text[parameter.end() :], name, parameter[1], values, out)
            if over:
                return text
        end = re.match(rf"{WS}{F}\n?{WS}{T}\n?|{WS}{T}\n?|{WS}{F}\n?{WS}(?:{cut(T)}|\Z)|{WS}{F}\n?", text)
        if end is None:
            end = re.match(rf"{WS}(?:\Z|{cut(F)}|{cut(T)}|{CUT_PARAMETER})", text)
        out.add("markup", end[0] if end else "")
        return text[end.end() :] if end else text

    def _value(
        self, text: str, tool: str, name: str, values: list[tuple[str, str, str]], out: Parts
    ) -> tuple[str, bool]:
        """Read one value; returns the text behind it, and whether the call is over."""
        given = {given for given, _, _ in values} | {name}
        declared = parameter_types(self.tools[tool].parameters)[0]
        quoted = at = 0
        while (at := text.find("<", at)) >= 0:
            begins_line = at == 0 or text[at - 1] == "\n"
            rest = text[at:]
            quotation = re.match(ANY_HEADER, rest) if begins_line else None
            end, over = self._end(rest, begins_line, quoted, declared.keys() - given, given)
            if end is not None:
                value = text[: at - 1] if at > 0 and text[at - 1] == "\n" else text[:at]
                out.add("value", value)
                out.add("markup", text[len(value) : at + end])
                values.append((name, value, ""))
                return text[at + end :], over
            unquote = re.match(rf"{F}{WS}{T}", rest) if quoted else None
            quoted += bool(quotation) - bool(unquote)
            at += quotation.end() if quotation else unquote.end() if unquote else 1
        tail = re.search(rf"(?:\n|\A)(?:{cut(P)}|{cut(F)}|{cut(T)})|{cut(P)}|\n\Z", text)
        kept = tail.start() if tail else len(text)
        out.add("value", text)
        values.append((name, text[:kept], text[kept:]))
        return "", True

    def _end(
        self, rest: str, begins_line: bool, quoted: int, missing: set[str], given: set[str]
    ) -> tuple[int | None, bool]:
        """How much markup ends the value where `rest` begins (None: it goes on), and whether the call ends."""
        column = rf"{P}(?:{WS}{F})?|{F}|{T}" if begins_line else rf"{P}(?:{WS}{F})?"
        if quoted:
            last = re.match(rf"(?:{P}{WS}(?:{F}{WS})?|{F}{WS}){T}{WS}\Z", rest)
            return (last.end(), True) if last else (None, True)
        whole = re.match(rf"(?:{P}{WS}(?:{F}{WS})?|{f'{F}{WS}' if begins_line else '(?!)'}){T}\n?", rest)
        if whole:
            return whole.end(), True
        stopped = re.match(
            rf"(?:{column}){WS}\Z|{P}{WS}(?:{cut(F)}|{cut(T)}|{CUT_PARAMETER})|"
            rf"(?:{P}{WS}{F}{'|' + F if begins_line else ''}){WS}{cut(T)}",
            rest,
        )
        if stopped:
            return stopped.end(), True
        called = re.match(rf"(?:{column}){WS}(?={self.header}|{self.cut_header})", rest)
        if called:
            return called.end(), True
        parameter = re.match(rf"{P}(?={WS}{PARAMETER})", rest)
        if parameter and parameter[1] not in given:
            return parameter.end(), False
        unclosed = re.match(rf"{PARAMETER}(?:\n|\Z)", rest) if begins_line else None
        return (0, False) if unclosed and unclosed[1] in missing else (None, True)

    def reply(self, parts: Parts, nonempty: bool = False) -> Reply:
        """What the parts come to."""
        calls = []
        for name, values in parts.calls:
            types, other = parameter_types(self.tools[name].parameters)
            items = []
            for parameter, value, end in values:
                wanted = types.get(parameter, other)
                found = literal(value, wanted) if end and "string" not in wanted.types else None
                items.append(f"{as_json(parameter, other)}: {found or as_json(value + end, wanted)}")
            calls.append(Call(name, "{" + ", ".join(items) + "}"))
        reasoning, content = parts.joined("reasoning"), parts.joined("content")
        if nonempty and not calls and not content.strip():
            reasoning, content = "", reasoning + content
        return Reply(reasoning, content, tuple(calls))
