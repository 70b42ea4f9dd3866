"""Refuses requests that would end the scheduler, before they reach it; other models are untouched.

SGLang checks that a prompt is not too long. An id outside the vocabulary, a text of no tokens, or more top logprobs
than there are tokens end the scheduler (on a GPU: a device-side assertion), and with it every user's request. A
ValueError here is a 400 for that user alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sglang_nemotron.family import ARCHITECTURES
from sglang_nemotron.host.counts import refusing
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.packages import wants_media
from sglang_nemotron.host.refusal import Refused
from sglang_nemotron.prompt.bounds import check_grammars
from sglang_nemotron.sglang_api.wrapping import Wrap

# answers to one prompt
MAX_ANSWERS = 1024

_MANAGER = "sglang.srt.managers.tokenizer_manager"
_METHOD = "_validate_one_request"
_INIT = "init_tokenizer_and_processor"


def check_token_ids(input_ids: Any, vocab_size: int) -> None:
    """ValueError for no ids at all, and for an id that is no integer of [0, vocab_size)."""
    if len(input_ids) == 0:
        raise ValueError("the prompt is empty; it needs one token at least")
    for token_id in input_ids:
        # a bool is an int to Python, but no token to anybody
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise ValueError(f"input_ids holds {token_id!r}; allowed: integers from 0 to {vocab_size - 1}")


def check_logprobs(top_logprobs: Any, vocab_size: int) -> None:
    """ValueError for a count of top logprobs that the vocabulary does not have."""
    if top_logprobs is not None and not 0 <= top_logprobs <= vocab_size:
        raise ValueError(f"top_logprobs is {top_logprobs}; allowed: 0 to {vocab_size}, the size of the vocabulary")


def check_num_answers(sampling_params: Any) -> None:
    """ValueError for no answer to a prompt, or for more than a server can begin without standing still for the others.

    SGLang makes a request of each in one go, in the loop that answers HTTP.
    """
    count = sampling_params.get("n") if isinstance(sampling_params, dict) else None
    if isinstance(count, int) and not 1 <= count <= MAX_ANSWERS:
        raise ValueError(f"n is {count}; allowed: 1 to {MAX_ANSWERS} answers to one prompt. Send several requests")


def is_ours(manager: Any) -> bool:
    return any(name in ARCHITECTURES for name in manager.model_config.hf_config.architectures or ())


def _check_first(validate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(validate)
    def checked(self: Any, obj: Any, input_ids: Any) -> Any:
        if is_ours(self):
            vocab_size = self.model_config.vocab_size
            with refusing("prompt"):
                # a prompt of embeddings has no ids
                if input_ids is not None:
                    check_token_ids(input_ids, vocab_size)
                # an embedding request has neither
                check_logprobs(getattr(obj, "top_logprobs_num", None), vocab_size)
                check_num_answers(getattr(obj, "sampling_params", None))
            with refusing("format"):
                check_grammars(getattr(obj, "sampling_params", None))
        return validate(self, obj, input_ids)

    return checked


def _unknown_ids_are_refused() -> str | None:
    from sglang_nemotron.sglang_api.http import TokenizerManager

    config = SimpleNamespace(hf_config=SimpleNamespace(architectures=list(ARCHITECTURES)), vocab_size=4)
    manager = SimpleNamespace(model_config=config)
    try:
        getattr(TokenizerManager, _METHOD)(manager, None, [1, 4])
    except ValueError as error:
        return None if "input_ids holds 4" in str(error) else f"SGLang's validation says {error}"
    return "SGLang's validation lets an unknown token id pass"


REQUESTS = Door(
    "requests",
    "http",
    "token ids checked against the vocabulary",
    needs=(_MANAGER,),
    proof=_unknown_ids_are_refused,
    wraps=(Wrap(_MANAGER, "TokenizerManager", _METHOD, _check_first, takes=("obj", "input_ids")),),
    without="goes without our check of requests",
)


# ---- the media processor of a server of Omni


def check_processor(manager: Any) -> None:
    """Refused where one of our Omni checkpoints got a media processor that is not ours.

    SGLang finds processors by class name, and serves its own if ours could not be imported.
    """
    from sglang_nemotron.config.omni import is_nano_omni
    from sglang_nemotron.processors.nemotron_omni import NemotronOmniProcessor

    if manager.mm_processor is None or is_nano_omni(manager.model_config.hf_config) is not None:
        return
    if not isinstance(manager.mm_processor, NemotronOmniProcessor):
        kind = type(manager.mm_processor)
        raise Refused(f"the media of this model would be read by {kind.__module__}.{kind.__name__}, not by ours")


def _then_check_processor(init: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(init)
    def checked(self: Any) -> Any:
        result = init(self)
        check_processor(self)
        return result

    return checked


PROCESSOR = Door(
    "media processor",
    "http",
    "the media processor that SGLang found is ours",
    needs=(_MANAGER,),
    # looks at the processor as soon as SGLang has one
    wraps=(Wrap(_MANAGER, "TokenizerManager", _INIT, _then_check_processor),),
    without="is not followed by our check of the media processor",
    wanted=wants_media,
)
