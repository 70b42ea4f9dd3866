"""Warnings of SGLang about tokenizers that mean nothing for our models, kept out of the log; about others they stay.

SGLang warns where transformers has no tokenizer class for a model type, and loads once more. Ours need none: they are
published as plain fast tokenizers, and the tests compare their ids. A filter of logging does it, nothing is patched.
"""

from __future__ import annotations

import functools
import json
import logging

from sglang_nemotron.config import hub
from sglang_nemotron.family import OMNI_MODEL_TYPES, TEXT_MODEL_TYPES
from sglang_nemotron.host.door import Door

# by which SGLang's tokenizer files log
LOGGER = "sglang.srt.utils.common"
# both name the checkpoint first
HARMLESS = (
    "Tokenizer for %s is still TokenizersBackend after retries",
    "Processor tokenizer for %s is TokenizersBackend",
)


class _AboutOthers(logging.Filter):
    """Lets a record pass unless it is one of these about a checkpoint of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(HARMLESS):
            return True
        return not (isinstance(record.args, tuple) and record.args and _is_ours(str(record.args[0])))


@functools.cache
def _is_ours(checkpoint: str) -> bool:
    folder = hub.local_folder(checkpoint)
    try:
        fields = json.loads((folder / "config.json").read_text()) if folder is not None else {}
    except (OSError, ValueError):
        return False
    return fields.get("model_type") in (*TEXT_MODEL_TYPES, *OMNI_MODEL_TYPES)


_FILTER = _AboutOthers()


def quieten() -> None:
    """May be repeated: logging keeps one of each filter."""
    logging.getLogger(LOGGER).addFilter(_FILTER)


def _is_quiet() -> str | None:
    return None if _FILTER in logging.getLogger(LOGGER).filters else f"the filter of {LOGGER} is gone"


ALARMS = Door("alarms", "args", "warnings about tokenizers that mean nothing here", opens=quieten, proof=_is_quiet)
