"""What the scheduler knows of the stop strings of one chat: its reply token by token, and where a match stands."""

from __future__ import annotations

from typing import Any, Final

from sglang_nemotron.host.names.stops import FINISH_MATCHED_STR
from sglang_nemotron.host.prompt_tail import prompt_tail
from sglang_nemotron.host.reply_flags import STOPS
from sglang_nemotron.host.stopping import AT
from sglang_nemotron.reply.reasoning import ReasoningStage, opening
from sglang_nemotron.reply.stops import StopMatch, StopWatch

# where a request keeps what it has read of its reply
_WATCH: Final = "nemotron_stop_watch"
# tokens that may spell one character; more that make none are text as they are
_MOST_PENDING: Final = 8
_NO_CHARACTER: Final = "\ufffd"


class FinishedAtStop(FINISH_MATCHED_STR):
    """SGLang's reason for a stop string, which also tells where it stands."""

    def __init__(self, match: StopMatch) -> None:
        super().__init__(matched=match.stop)
        self.at = match.at

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), AT: self.at}


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
