"""For every text and every way of cutting it: the deltas joined are the whole parse, and no character is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_nemotron.reply import endings, reasoning, tools
from sglang_nemotron.reply.grammar import ReplyParser, collect, parse_reply
from sglang_nemotron.reply.markup import NO
from sglang_nemotron.reply.reasoning import ReasoningStage
from sglang_nemotron.reply.tools import ContentDelta, ReasoningDelta, ToolStage
from support.reply_reference import MARKUP, Reference
from support.reply_texts import TOOLS, cuttings, made, noise, replies

REFERENCE = Reference(TOOLS)
COUNTED = {"texts": 0}
FIXED = dict(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
MODES = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))


def check(text: str, thinking: bool, split: bool, nonempty: bool, seed: int) -> None:
    """All that must hold of one text."""
    COUNTED["texts"] += 1
    parts = REFERENCE.parse(text, thinking, split)
    assert "".join(piece for _, piece in parts.parts) == text, "the reference itself lost something"
    for part, piece in parts.parts:
        assert part != "markup" or MARKUP.fullmatch(piece), f"{piece!r} is no markup"
    expected = REFERENCE.reply(parts, nonempty and split)
    options = dict(thinking=thinking, reasoning=split, force_nonempty_content=nonempty)
    assert parse_reply(text, TOOLS, **options) == expected
    for call in expected.calls:
        assert isinstance(json.loads(call.arguments), dict)
    for pieces in cuttings(text, seed):
        parser = ReplyParser(TOOLS, **options, stream_reasoning=seed % 3 > 0)
        events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
        assert collect(events) == expected, pieces
    assert apart(pieces, thinking, split, nonempty) == expected, pieces


def apart(pieces: list[str], thinking: bool, split: bool, nonempty: bool):
    """The two stages run one behind the other, as a server with two parsers does."""
    first = ReasoningStage([tool.name for tool in TOOLS], thinking=thinking, force_nonempty_content=nonempty)
    second = ToolStage(TOOLS)
    events = []
    for piece in pieces:
        thought, rest = first.feed(piece) if split else ("", piece)
        events += [ReasoningDelta(thought), *second.feed(rest)]
    thought, rest = first.finish() if split else ("", "")
    return collect([*events, ReasoningDelta(thought), *second.feed(rest), *second.finish()])


@settings(max_examples=8000, **FIXED)
@given(noise(), MODES)
def test_noise_of_tags(text: str, mode: tuple[bool, bool, bool, int]) -> None:
    check(text, *mode)


@settings(max_examples=12500, **FIXED)
@given(replies(), MODES)
def test_replies_whole_and_cut_off(text: str, mode: tuple[bool, bool, bool, int]) -> None:
    check(text, *mode)


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
    "a tag cut by a chunk is not waited for, in values": (endings, "is_cut", lambda tag, text, at: False),
    "calls are not found in thinking": (reasoning, "call_header", lambda text, at, names: NO),
    "calls are not found in content": (tools, "call_header", lambda text, at, names: NO),
    "calls are not found behind a value": (endings, "call_header", lambda text, at, names: NO),
    "the newline before a tag is kept": (tools, "_before_newline", lambda text, start, at: at),
    "an end tag cut by the end of the text is kept": (tools, "_cut_closer", lambda text, start: -1),
    "no space is allowed between the tags of an ending": (endings, "after_space", lambda text, at: at),
    "no space is allowed between the tags of a call": (tools, "after_space", lambda text, at: at),
    "every value ends at its first end tag": (
        endings,
        "_closed",
        lambda *a: endings.Ending(endings.Verdict.OVER, a[2]),
    ),
    "no parameter begins without the end of the one before": (
        endings,
        "_next_unclosed",
        lambda text, at, known, final: endings.Ending(endings.Verdict.TEXT, at + 1),
    ),
    "quoted calls are not followed": (endings, "CALL_HEADER", "\0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, value = FAULTS[fault]
    monkeypatch.setattr(module, name, value)
    with pytest.raises(AssertionError):
        for seed in range(3000):
            check(made(seed), seed % 3 > 0, True, False, seed)
