"""Stop strings as SGLang's scheduler and detokenizer meet them, token by token, with its own classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.managers.detokenizer_manager import DetokenizerManager
from sglang.srt.managers.schedule_batch import FINISH_MATCHED_STR, Req
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.utils.hf_transformers_utils import attach_additional_stop_token_ids
from transformers import AutoTokenizer

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.host import stopping
from sglang_nemotron.host.http.stop_requests import take_stops
from sglang_nemotron.host.reply_flags import STOPS

THINKING = "<|im_start|>assistant\n<think>\n"
ANSWERING = "<|im_start|>assistant\n<think></think>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(PRESETS["toy"], folder, overwrite=True)
    stopping.STOPS.open()
    made = AutoTokenizer.from_pretrained(folder)
    # as SGLang does when it loads one
    attach_additional_stop_token_ids(made)
    return made


def request(tokenizer: Any, prompt: str, stop: list[str], marked: Any = (), **params: Any) -> Req:
    custom = {STOPS: list(marked) if isinstance(marked, tuple) else marked} if marked is not None else None
    sampling = SamplingParams(stop=stop, max_new_tokens=500, custom_params=custom, **params)
    sampling.normalize(tokenizer)
    made = Req("r", prompt, tokenizer.encode(prompt), sampling, vocab_size=1280)
    made.tokenizer = tokenizer
    return made


def reply(req: Req, tokens: list[int], at_once: int = 1) -> tuple[str, Any]:
    """What SGLang's own steps make of a reply: the text that a client gets, and why it ended."""
    for at in range(0, len(tokens), at_once):
        step = tokens[at : at + at_once]
        req.output_ids.extend(step)
        req.update_finish_state(len(step))
        if req.finished():
            break
    text = req.tokenizer.decode(list(req.output_ids[: req.finished_len]))
    reason = req.finished_reason.to_json() if req.finished_reason else None
    return DetokenizerManager.trim_matched_stop(None, text, reason, req.sampling_params.no_stop_trim), reason  # type: ignore[arg-type]


def letters(tokenizer: Any, text: str) -> list[int]:
    """A spelling of a token a character, which nobody's encoder chooses."""
    return [token for letter in text for token in tokenizer.encode(letter, add_special_tokens=False)]


@pytest.mark.parametrize("spelled", ["usual", "letters"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_however_it_is_spelled(spelled: str, at_once: int, tokenizer: Any) -> None:
    """SGLang looks at as many tokens as the usual spelling has, and would pass over this one."""
    text = "one Observation: two"
    tokens = tokenizer.encode(text, add_special_tokens=False) if spelled == "usual" else letters(tokenizer, text)
    req = request(tokenizer, ANSWERING, ["Observation:"])
    said, reason = reply(req, tokens, at_once)
    assert said == "one " and reason["matched"] == "Observation:"
    # no token after the one that completes it counts
    assert req.tokenizer.decode(list(req.output_ids[: req.finished_len])).rstrip().endswith("Observation:")


def test_characters_of_several_tokens(tokenizer: Any) -> None:
    text = "zwölf 猫 und ENDE 猫"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) > len(text), "each character is one token: nothing is shown"
    assert reply(request(tokenizer, ANSWERING, ["ENDE"]), tokens)[0] == "zwölf 猫 und "
    assert reply(request(tokenizer, ANSWERING, ["猫"]), tokens)[0] == "zwölf "


@pytest.mark.parametrize("prompt", [THINKING, ANSWERING])
def test_thoughts_do_not_stop(prompt: str, tokenizer: Any) -> None:
    text = "END in thoughts\n</think>\nan END"
    said, _ = reply(request(tokenizer, prompt, ["END"]), letters(tokenizer, text))
    assert said == ("END in thoughts\n</think>\nan " if prompt == THINKING else "")


def test_all_is_answer_where_thoughts_stay(tokenizer: Any) -> None:
    assert reply(request(tokenizer, THINKING, ["END"], False), letters(tokenizer, "so END</think>"))[0] == "so "


def test_what_is_not_marked_is_left_to_sglang(tokenizer: Any) -> None:
    req = request(tokenizer, THINKING, ["END"], None)
    said, reason = reply(req, tokenizer.encode("so END", add_special_tokens=False))
    assert said == "so " and reason == FINISH_MATCHED_STR("END").to_json()
    assert not hasattr(req, "nemotron_stop_watch")


def test_patterns_work_beside(tokenizer: Any) -> None:
    req = request(tokenizer, ANSWERING, ["END"], stop_regex=["[0-9]{3}"])
    _, reason = reply(req, letters(tokenizer, "so 123 END"))
    assert reason["matched"] == "[0-9]{3}" and req.sampling_params.stop_strs == ["END"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_beginning_of_a_stop_is_not_sent(stream: bool, tokenizer: Any) -> None:
    """Whether SGLang would send a piece on, after each token."""
    from sglang.srt.managers.scheduler_components.output_streamer import _GenerationStreamAccumulator

    sent: list[int] = []
    accumulator = SimpleNamespace(rids=sent)
    accept = stopping._accept(lambda self, *, req: self.rids.append(len(req.output_ids)))
    req = request(tokenizer, ANSWERING, ["END"])
    req.stream = stream
    for token in letters(tokenizer, "an EN or END"):
        req.output_ids.append(token)
        req.update_finish_state(1)
        if stream and req.check_match_stop_str_prefix() and not req.finished():
            continue
        accept(accumulator, req=req)
    # after "E" and "EN" of either nothing is; the last is the end itself
    assert sent == [1, 2, 3, 6, 7, 8, 9, 12]
    assert _GenerationStreamAccumulator.accept.nemotron_stops  # type: ignore[attr-defined]


# ---- marks


def marked(path: str, body: dict[str, Any], **params: Any) -> dict[str, Any]:
    obj = SimpleNamespace(sampling_params=params)
    take_stops(obj, body, path, names=lambda: ["f"], apart=True)
    return obj.sampling_params


def test_chats_are_marked() -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/prefix/v1/chat/completions"):
        assert marked(path, {}, stop=["a"])["custom_params"] == {STOPS: ["f"]}
        assert marked(path, {"separate_reasoning": False}, stop="a")["custom_params"] == {STOPS: False}
        kept = marked(path, {}, stop=["a"], custom_params={"mine": 1})["custom_params"]
        assert kept == {"mine": 1, STOPS: ["f"]}
        assert marked(path, {}, stop=[]) == {"stop": []} and marked(path, {}) == {}


def test_nothing_else_is_and_a_client_cannot() -> None:
    for path in ("/generate", "/v1/completions"):
        assert marked(path, {}, stop=["a", ""]) == {"stop": ["a", ""]}
        assert marked(path, {}, custom_params={STOPS: []})["custom_params"] == {}


def test_proved() -> None:
    assert stopping.STOPS.is_ours() is None
