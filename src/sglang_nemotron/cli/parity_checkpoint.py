"""What `sglang-nemotron parity` reads of a checkpoint: its config, whether it is whole, and the reference of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli import doctor_model, parity_media

if TYPE_CHECKING:
    from sglang_nemotron.parity.golden_omni import OmniGolden
    from sglang_nemotron.parity.reference import Reference

_EXACT = "float64, for what is further from its float32 than the tolerance"


def config_of(folder: Path, model: str | None = None) -> dict[str, Any]:
    """The config.json; ValueError of two lines if it is broken, or of another family. model: what the user calls it."""
    whose = doctor_model.whose(folder)
    if whose not in ("text", "omni"):
        raise ValueError(
            f"{model or folder} is no Nemotron 3 Nano: {whose}\n"
            "  remedy: give the folder or the id of one; `sglang-nemotron make-checkpoint` writes a small one"
        )
    return json.loads((folder / "config.json").read_text())


def check_whole(folder: Path) -> None:
    """ValueError if the folder lacks tensors, or has others than its config asks for; from the files' headers."""
    from sglang_nemotron.config.decoder import decoder_spec
    from sglang_nemotron.decoder.headers import read_headers
    from sglang_nemotron.host.headers import check_headers

    config = config_of(folder)
    try:
        check_headers(read_headers(folder), decoder_spec(config), parity_media.omni_spec_of(config))
    except ValueError as error:
        named = str(error) if str(folder) in str(error) else f"{folder}: {error}"
        raise ValueError(f"{named}\n  remedy: complete the folder, or give another") from None


def load(folder: Path, kind: str, *, say: Callable[[str], None]) -> Reference | OmniGolden:
    """The reference in a dtype, or in float64 where it is asked to be "exact"."""
    import torch
    from transformers.utils import logging

    # its list of every tensor that does not fit; what is wrong is said in one sentence
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    say(f"transformers: loading {folder} in " + (_EXACT if kind == "exact" else kind))
    _check_memory(folder, kind)
    if parity_media.is_omni(config_of(folder)):
        return parity_media.load(folder, kind)
    from sglang_nemotron.parity.exact import ExactReference
    from sglang_nemotron.parity.reference import Reference

    return ExactReference(folder) if kind == "exact" else Reference(folder, getattr(torch, kind))


def _check_memory(folder: Path, kind: str) -> None:
    """ValueError of two lines if this machine could not hold the reference, whatever else it did."""
    import psutil

    from sglang_nemotron.decoder.headers import read_headers

    # two numbers of four bits are packed into a byte, and are numbers of the reference's own when it computes
    packed = {"U8": 2}
    numbers = sum(math.prod(shape) * packed.get(dtype, 1) for dtype, shape in read_headers(folder).values())
    needed = numbers * {"exact": 8, "float32": 4}.get(kind, 2)
    there = psutil.virtual_memory().total + psutil.swap_memory().total
    if needed > there:
        raise ValueError(
            f"transformers needs {needed / 2**30:.0f} GiB or more to hold {folder}, this machine has "
            f"{there / 2**30:.0f}\n  remedy: compare on a larger one, or `sglang-nemotron verify URL`, which needs none"
        )
