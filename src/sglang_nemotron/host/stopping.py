"""Stop strings of chats, in the scheduler and in the detokenizer: a reply ends at the first one in its answer.

Requests are marked by `stop_requests`; all others, raw prompts among them, are SGLang's own. SGLang looks for a stop
string among as many tokens as its usual spelling has, thoughts included; and cuts the text at the first place where it
stands, which may be a thought. Of a reply that is not streamed it sends pieces on without looking for one's beginning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.wrapping import Wrap

# beside SGLang's own fields of a finish reason: characters of the reply before the stop string
AT: Final = "nemotron_matched_at"


def _check_stops(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def check(self: Any, new_accepted_len: int = 1) -> bool:
        from sglang_nemotron.host.stops import FinishedAtStop, watch_of

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
        from sglang_nemotron.host.stops import watch_of

        watch = watch_of(self)
        return original(self) if watch is None else watch.holding

    return holds


def _accept(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def accept(self: Any, *, req: Any) -> None:
        # SGLang asks this of streams alone, though of a whole reply it sends every 50 tokens on as well
        if not req.stream and not req.finished():
            from sglang_nemotron.host.stops import watch_of

            watch = watch_of(req)
            if watch is not None and watch.holding:
                return
        original(self, req=req)

    return accept


def _trim(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def trim(self: Any, output: Any, finished_reason: Any, no_stop_trim: bool) -> Any:
        at = finished_reason.get(AT) if finished_reason else None
        if at is None or not isinstance(output, str):
            return original(self, output, finished_reason, no_stop_trim)
        matched = finished_reason["matched"]
        return output[: at + len(matched)] if no_stop_trim else output[:at]

    return trim


def _is_cut_in_place() -> str | None:
    from sglang_nemotron.host.names.stops import FINISH_MATCHED_STR, DetokenizerManager

    told = {**FINISH_MATCHED_STR(matched="a").to_json(), AT: 2}
    cut = DetokenizerManager.trim_matched_stop(None, "a a", told, False)  # type: ignore[arg-type]
    return None if cut == "a " else f"SGLang cuts 'a a' before its second 'a' to {cut!r}"


_REQUEST = "sglang.srt.managers.schedule_batch"
_STREAMER = "sglang.srt.managers.scheduler_components.output_streamer"
_DETOKENIZER = "sglang.srt.managers.detokenizer_manager"
_TRIMS = ("output", "finished_reason", "no_stop_trim")

STOPS = Door(
    "stops",
    "engine",
    "stop strings of chats, for the answer alone",
    # imported where a row is opened, so that each process of the engine has all of them
    needs=(_REQUEST,),
    proof=_is_cut_in_place,
    wraps=(
        Wrap(_REQUEST, "Req", "_check_str_based_finish", _check_stops, takes=("new_accepted_len",)),
        Wrap(_REQUEST, "Req", "check_match_stop_str_prefix", _holds),
        Wrap(_STREAMER, "_GenerationStreamAccumulator", "accept", _accept),
        Wrap(_DETOKENIZER, "DetokenizerManager", "trim_matched_stop", _trim, takes=_TRIMS),
    ),
    without="looks for stop strings without us",
)
