"""Tensors of the towers and projectors in, filled parameters out; the only file that knows their names.

Every parameter and every stored statistic is filled exactly once, and every tensor is used or on a named ignore
list; anything else is an error that lists names and shapes. The decoder's tensors pass by, for `decoder/weights.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import torch

from sglang_nemotron.config.faults import Faults
from sglang_nemotron.config.omni import OmniSpec
from sglang_nemotron.encoders.towers import Towers

# the decoder's tensors are those of a text checkpoint behind this
TEXT_PREFIX = "language_model."

# name of a tensor in `Towers` -> its name in a checkpoint, by beginnings; the first that fits
_NAMES = (
    ("vision_model.", "vision_model.radio_model.model."),
    ("vision_projection.norm.", "mlp1.0."),
    ("vision_projection.linear1.", "mlp1.1."),
    ("vision_projection.linear2.", "mlp1.3."),
    ("sound_encoder.", "sound_encoder.encoder."),
    ("sound_projection.", "sound_projection."),
)
# tensors a checkpoint may carry that these modules have no use for, and why
IGNORED = {
    r"vision_model\.radio_model\.input_conditioner\..*": "pixels are normalised before they get here",
    r"vision_model\.radio_model\.summary_idxs": "the summary of an image is not used",
    r"sound_encoder\.encoder\.feature_extractor\..*": "mel frames are made before they get here",
    r".*\.num_batches_tracked": "counts training steps",
}
# vectors that scale a branch of a block; published files have none, and transformers writes ones
UNIT = re.compile(r"vision_model\.radio_model\.model\.blocks\.\d+\.layer_scale[12]\.lambda1")


class TowerWeights:
    """The table of one Omni model: checkpoint name -> tensor of `Towers` and its whole shape."""

    def __init__(self, spec: OmniSpec) -> None:
        with torch.device("meta"):
            whole = Towers(spec)
        self.targets: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, tensor in _tensors(whole).items():
            self.targets[_in_checkpoint(name)] = (name, tuple(tensor.shape))
        self._loaded_once = False

    def check(self, headers: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Names and shapes from headers {name: (dtype, shape)} of a whole checkpoint; ValueError lists the faults."""
        faults = Faults()
        own = {name: shape for name, (_, shape) in headers.items() if not name.startswith(TEXT_PREFIX)}
        for name, shape in own.items():
            self._known(name, shape, faults)
        self._check_missing(set(own), faults)
        faults.raise_if_any()

    def divert(
        self, towers: Towers | None, weights: Iterable[tuple[str, torch.Tensor]], filled: set[str]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the decoder's tensors and loads the others on the way; a ValueError at the end lists the faults.

        `towers` is None where another pipeline stage holds them. The first call is a checkpoint and must be complete;
        later calls are updates and may hold any part of one. Names of filled tensors of `Towers` go into `filled`.
        """
        faults, seen = Faults(), set()
        tensors = {} if towers is None else _tensors(towers)
        for name, tensor in weights:
            if name.startswith(TEXT_PREFIX):
                yield name, tensor
            elif name in seen:
                faults.repeated.append(name)
            else:
                seen.add(name)
                if self._known(name, tuple(tensor.shape), faults, tensor) and towers is not None:
                    target, _ = self.targets[name]
                    _load(target, tensors[target], tensor)
                    filled.add(target)
        if not self._loaded_once:
            self._check_missing(seen, faults)
        faults.raise_if_any()
        self._loaded_once = True

    def _known(self, name: str, shape: tuple[int, ...], faults: Faults, tensor: torch.Tensor | None = None) -> bool:
        """Whether the tensor has a place; faults are kept."""
        if name not in self.targets:
            if UNIT.fullmatch(name):
                # a header has no values to look at
                if tensor is not None and not bool((tensor == 1).all()):
                    faults.values.append(f"{name} (allowed: all ones)")
            elif not any(re.fullmatch(pattern, name) for pattern in IGNORED):
                faults.unknown.append(f"{name} {list(shape)}")
            return False
        _, wanted = self.targets[name]
        if shape != wanted:
            faults.shapes.append(f"{name} is {list(shape)}, the config says {list(wanted)}")
            return False
        return True

    def _check_missing(self, seen: set[str], faults: Faults) -> None:
        faults.missing.extend(f"{name} {list(shape)}" for name, (_, shape) in self.targets.items() if name not in seen)


def _tensors(towers: Towers) -> dict[str, torch.Tensor]:
    """Parameters, and the buffers that a checkpoint stores."""
    stored = {**dict(towers.named_parameters()), **dict(towers.named_buffers())}
    kept = towers.state_dict(keep_vars=True).keys()
    return {name: stored[name] for name in stored if name in kept and not name.endswith(".num_batches_tracked")}


def _in_checkpoint(name: str) -> str:
    for beginning, original in _NAMES:
        if name.startswith(beginning):
            return original + name.removeprefix(beginning)
    raise AssertionError(name)


def _load(name: str, place: torch.Tensor, tensor: torch.Tensor) -> None:
    loader = getattr(place, "weight_loader", None)
    if loader is not None:
        loader(place, tensor)
        return
    assert place.shape == tensor.shape, (name, place.shape, tensor.shape)
    place.data.copy_(tensor)
