"""For every text and every way of cutting it: the deltas joined are the whole parse, and no character is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_nemotron.reply import arguments, endings, markdown, markup, output, reasoning, tools
from sglang_nemotron.reply.events import ContentDelta, ReasoningDelta
from sglang_nemotron.reply.grammar import ReplyParser, collect, parse_reply
from sglang_nemotron.reply.markup import NO
from sglang_nemotron.reply.reasoning import ReasoningStage
from sglang_nemotron.reply.tools import ToolStage
from support.reply_reference import MARKUP, Reference
from support.reply_texts import TOOLS, cuttings, made, noise, replies, tight

REFERENCE = Reference(TOOLS)
COUNTED = {"texts": 0}
FIXED = dict(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
MODES = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))


def check(text: str, thinking: bool, split: bool, nonempty: bool, seed: int) -> None:
    """All that must hold of one text. Of the seed it depends too whether the reply was cut off, and has one call."""
    COUNTED["texts"] += 1
    cut, max_calls = seed % 5 == 0, 1 if seed % 7 == 0 else None
    parts = REFERENCE.parse(text, thinking, split, cut)
    assert "".join(piece for _, piece in parts.parts) == text, "the reference itself lost something"
    for part, piece in parts.parts:
        assert part != "markup" or MARKUP.fullmatch(piece), f"{piece!r} is no markup"
    expected = REFERENCE.reply(parts, nonempty and split, max_calls)
    options = dict(thinking=thinking, reasoning=split, force_nonempty_content=nonempty, max_calls=max_calls)
    assert parse_reply(text, TOOLS, **options, cut=cut) == expected
    for call in expected.calls[: None if not cut else -1]:
        assert isinstance(json.loads(call.arguments, object_pairs_hook=names_once), dict)
    for pieces in cuttings(text, seed):
        parser = ReplyParser(TOOLS, **options, stream_reasoning=seed % 3 > 0)
        events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish(cut=cut)
        assert collect(events) == expected, pieces
    assert apart(pieces, thinking, split, nonempty, cut, max_calls) == expected, pieces


def names_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({name for name, _ in pairs}) == len(pairs), "a name is written twice"
    return dict(pairs)


def apart(pieces: list[str], thinking: bool, split: bool, nonempty: bool, cut: bool, max_calls: int | None):
    """The two stages run one behind the other, as a server with two parsers does."""
    first = ReasoningStage([tool.name for tool in TOOLS], thinking=thinking, force_nonempty_content=nonempty)
    second = ToolStage(TOOLS, thinking=thinking and not split, max_calls=max_calls)
    events = []
    for piece in pieces:
        thought, rest = first.feed(piece) if split else ("", piece)
        events += [ReasoningDelta(thought), *second.feed(rest)]
    thought, rest = first.finish() if split else ("", "")
    return collect([*events, ReasoningDelta(thought), *second.feed(rest), *second.finish(cut=cut)])


@settings(max_examples=8000, **FIXED)
@given(noise(), MODES)
def test_noise_of_tags(text: str, mode: tuple[bool, bool, bool, int]) -> None:
    check(text, *mode)


@settings(max_examples=12500, **FIXED)
@given(replies(), MODES)
def test_replies_whole_and_cut_off(text: str, mode: tuple[bool, bool, bool, int]) -> None:
    check(text, *mode)


@settings(max_examples=1500, **FIXED)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_texts_at_the_bounds(seed: int, split: bool) -> None:
    check(tight(seed), False, split, False, seed)


def test_blanks_behind_words_count_as_their_line() -> None:
    head = "<tool_call>\n<function=set>\n<parameter=i>\n1</parameter>words"
    for blanks in (64, 65, 129, 194, 195, 258, 259):
        check(f"{head}{' ' * blanks}<function=now>\n</function>\n</tool_call>", False, False, False, 1)


def test_enough_texts_were_tried() -> None:
    if COUNTED["texts"] == 0:
        pytest.skip("the two tests above did not run")
    assert COUNTED["texts"] >= 20_000


@settings(max_examples=500, **FIXED)
@given(noise(), st.booleans())
def test_without_tools_nothing_is_a_call(text: str, thinking: bool) -> None:
    whole = parse_reply(text, (), thinking=thinking)
    assert whole.calls == ()
    assert collect(map(ContentDelta, [parse_reply(text, (), reasoning=False).content])).content == text
    parser = ReplyParser((), thinking=thinking)
    assert collect([e for c in text for e in parser.feed(c)] + parser.finish()) == whole


FAULTS = {
    "a tag cut by a chunk is not waited for, in thinking": (reasoning, "is_cut", lambda tag, text, at: False),
    "a tag cut by a chunk is not waited for, in content": (tools, "is_cut", lambda tag, text, at: False),
    "a tag cut by a chunk is not waited for, in calls": (tools, "is_cut_closer", lambda text, at: False),
    "a tag cut by a chunk is not waited for, in values": (endings, "is_cut_closer", lambda text, at: False),
    "a parameter cut by a chunk is not waited for, in values": (endings, "is_cut", lambda tag, text, at: False),
    "calls are not found in thinking": (reasoning, "call_header", lambda text, at, names: NO),
    "calls are not found in content": (tools, "strict_header", lambda text, at, names: NO),
    "calls in a loose form are not found in content": (tools, "loose_header", lambda text, at, names: NO),
    "calls are not found behind a value": (endings, "any_call", lambda text, at, names: NO),
    "calls need no body": (markup, "_has_body", lambda text, end: end),
    "any words may stand in a header": (markup, "_is_line", lambda between: True),
    "Markdown quotes nothing": (markdown.Markdown, "quotes", False),
    "fences quote nothing": (markdown.Markdown, "_behind", lambda self: ""),
    "the newline before a tag is kept": (tools, "before_newline", lambda text, start, at: at),
    "the margin of a call is kept": (tools, "margin", lambda text, start, at, begins_line: at),
    "an end tag cut by the end of the text is kept": (tools, "sure_closer", lambda fragment: ""),
    "no space is allowed between the tags of an ending": (endings, "after_space", lambda text, at: at),
    "no space is allowed between the tags of a call": (tools, "after_space", lambda text, at: at),
    "words behind a value do not end it": (endings, "line_of_words", lambda text, at, final: NO),
    "words between tags end the call": (tools, "line_of_words", lambda text, at, final: NO),
    "every value ends at its first end tag": (endings, "_parameter_end", lambda *a: endings.Verdict.END),
    "a value has no parameters of its own": (endings, "_own", lambda text, at, *a: text_at(at)),
    "no parameter begins without the end of the one before": (
        endings,
        "_opening",
        lambda text, at, begins_line, known, final: text_at(at),
    ),
    "a value within its tag is a part of the name": (markup, "assigned_name", lambda text, at, missing: ""),
    "a value within its tag does not end the one before": (endings, "assigned_name", lambda text, at, missing: ""),
    "quoted calls are not followed": (endings, "quotation", lambda text, at, begins_line: NO),
    "tags that are indented begin no line": (tools, "BLANK", ""),
    "a doubled end in a line, or words behind it, are text": (
        endings,
        "_function_end",
        lambda text, at, known, final: endings.Verdict.TEXT,
    ),
    "words before a bare call are prose": (tools, "behind_function", lambda text, at, line, names: follows(text, line)),
    "a limit of tokens ends what it cuts": (
        endings,
        "_at_end",
        lambda known, loose, final: endings.Verdict.END if final else endings.Verdict.MORE,
    ),
    "a fragment behind markup ends what a limit cuts": (endings.Known, "may_want", lambda self, tag: False),
    "markup in a value that is cut is not seen": (endings.Known, "marked", property(lambda self: False)),
    "a name is written twice": (
        arguments.Arguments,
        "_leaves",
        property(lambda self: False, lambda self, leaves: None),
    ),
    "the first of two values counts": (arguments.Arguments, "open", lambda self, name: open_second(self, name)),
    "an empty value is a text": (arguments, "leaves_out", lambda text, wanted: False),
    "a value that is cut off is whole": (output.Output, "abandon", lambda self: (self.end_value(), self.close())),
    "text before a call and behind it run together": (output.Joint, "cut", lambda self: None),
}


OPEN = arguments.Arguments.open


def open_second(written: arguments.Arguments, name: str) -> None:
    written._write_waiting()
    OPEN(written, name)


def follows(text: str, line: markup.Line) -> int:
    if markup.closer(text, line.end):
        return line.end
    return markup.MORE if markup.is_cut_closer(text, line.end) else NO


def text_at(at: int) -> endings.Ending:
    return endings.Ending(endings.Verdict.TEXT, at + 1)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, value = FAULTS[fault]
    monkeypatch.setattr(module, name, value)
    with pytest.raises(AssertionError):
        for seed in range(3000):
            check(made(seed), seed % 3 > 0, True, False, seed)
