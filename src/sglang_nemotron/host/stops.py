"""Stop strings of chats, in the scheduler and in the detokenizer: a reply ends at the first one in its answer.

Requests are marked by `stop_requests`; all others, raw prompts among them, are SGLang's own. SGLang looks for a stop
string among as many tokens as its usual spelling has, thoughts included; and cuts the text at the first place where it
stands, which may be a thought. Of a reply that is not streamed it sends pieces on without looking for one's beginning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from sglang_nemotron.host.names.stops import (
    FINISH_MATCHED_STR,
    DetokenizerManager,
    Req,
    _GenerationStreamAccumulator,
)
from sglang_nemotron.host.prompt_tail import prompt_tail
from sglang_nemotron.host.reply_flags import STOPS
from sglang_nemotron.host.wrapping import Wrapped, first_unwrapped, wrap_once
from sglang_nemotron.reply.reasoning import ReasoningStage, opening
from sglang_nemotron.reply.stops import StopMatch, StopWatch

# where a request keeps what it has read of its reply
_WATCH: Final = "nemotron_stop_watch"
# beside SGLang's own fields of a finish reason: characters of the reply before the stop string
_AT: Final = "nemotron_matched_at"
# tokens that may spell one character; more that make none are text as they are
_MOST_PENDING: Final = 8
_NO_CHARACTER: Final = "\ufffd"


class FinishedAtStop(FINISH_MATCHED_STR):
    """SGLang's reason for a stop string, which also tells where it stands."""

    def __init__(self, match: StopMatch) -> None:
        super().__init__(matched=match.stop)
        self.at = match.at

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), _AT: self.at}


class ReplyWatch:
    """One request's reply, token by token: what text it has become, and whether that holds a stop string."""

    def __init__(self, req: Any, names: list[str] | None) -> None:
        """`names` are the declared tools where thoughts go apart; None where all text is answer."""
        stage = None
        if names is not None:
            seen = opening(prompt_tail(req.origin_input_ids_unpadded, req.tokenizer))
            stage = ReasoningStage(names, thinking=seen.thinking, line_start=seen.line_start)
        self._watch = StopWatch(req.sampling_params.stop_strs, stage)
        self._tokenizer = req.tokenizer
        self._options = {
            "skip_special_tokens": req.sampling_params.skip_special_tokens,
            "clean_up_tokenization_spaces": False,
        }
        self._pending: list[int] = []
        self.num_read = 0

    @property
    def holding(self) -> bool:
        """Whether the text ends with what may become a stop string."""
        return self._watch.holding

    def read(self, token: int) -> StopMatch | None:
        """Take the next token; a match ends the reply with it."""
        self.num_read += 1
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending, **self._options)
        # the bytes of a character may lie in several tokens
        if text.endswith(_NO_CHARACTER) and len(self._pending) < _MOST_PENDING:
            return None
        self._pending.clear()
        return self._watch.feed(text)


def watch_of(req: Any) -> ReplyWatch | None:
    """What has been read of a marked request's reply; None for any other request."""
    marked = (req.sampling_params.custom_params or {}).get(STOPS)
    if marked is None or not req.sampling_params.stop_strs or req.tokenizer is None:
        return None
    watch = getattr(req, _WATCH, None)
    if watch is None:
        watch = ReplyWatch(req, None if marked is False else marked)
        setattr(req, _WATCH, watch)
    return watch


def _check_stops(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def check(self: Any, new_accepted_len: int = 1) -> bool:
        watch = watch_of(self)
        if watch is None:
            return original(self, new_accepted_len)
        for number in range(watch.num_read, len(self.output_ids)):
            match = watch.read(self.output_ids[number])
            if match is not None:
                self.finished_reason = FinishedAtStop(match)
                self.finished_len = number + 1
                return True
        return _check_patterns(original, self, new_accepted_len)

    return check


def _check_patterns(original: Callable[..., Any], req: Any, new_accepted_len: int) -> bool:
    """SGLang's own look at `stop_regex`, which the same method is for."""
    params = req.sampling_params
    if not params.stop_regex_strs:
        return False
    stops, params.stop_strs = params.stop_strs, []
    try:
        return original(req, new_accepted_len)
    finally:
        params.stop_strs = stops


def _holds(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def holds(self: Any) -> bool:
        watch = watch_of(self)
        return original(self) if watch is None else watch.holding

    return holds


def _accept(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def accept(self: Any, *, req: Any) -> None:
        # SGLang asks this of streams alone, though of a whole reply it sends every 50 tokens on as well
        if not req.stream and not req.finished():
            watch = watch_of(req)
            if watch is not None and watch.holding:
                return
        original(self, req=req)

    return accept


def _trim(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def trim(self: Any, output: Any, finished_reason: Any, no_stop_trim: bool) -> Any:
        at = finished_reason.get(_AT) if finished_reason else None
        if at is None or not isinstance(output, str):
            return original(self, output, finished_reason, no_stop_trim)
        matched = finished_reason["matched"]
        return output[: at + len(matched)] if no_stop_trim else output[:at]

    return trim


_WRAPPED: tuple[Wrapped, ...] = (
    (Req, "_check_str_based_finish", _check_stops),
    (Req, "check_match_stop_str_prefix", _holds),
    (_GenerationStreamAccumulator, "accept", _accept),
    (DetokenizerManager, "trim_matched_stop", _trim),
)
_MARK = "stops_answers"


def open_stops() -> None:
    """Puts ours around SGLang's methods; may be repeated."""
    wrap_once(_WRAPPED, _MARK)


def stops_are_ours() -> str | None:
    """None if marked replies end our way, else what would end them."""
    unwrapped = first_unwrapped(_WRAPPED, _MARK)
    if unwrapped:
        return f"{unwrapped} looks for stop strings without us"
    told = {**FINISH_MATCHED_STR(matched="a").to_json(), _AT: 2}
    cut = DetokenizerManager.trim_matched_stop(None, "a a", told, False)  # type: ignore[arg-type]
    return None if cut == "a " else f"SGLang cuts 'a a' before its second 'a' to {cut!r}"
