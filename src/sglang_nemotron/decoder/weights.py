"""Checkpoint tensors in, filled parameters out; their names come from `decoder/tensors.py` and `decoder/kinds.py`.

Every parameter is filled exactly once and every checkpoint tensor is used or on a named ignore list; anything else
is an error that lists names and shapes. Quantised tensors go to quantised layers as they are, or are dequantised on
the way where the device has no such layers (`decoder/dequantise.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.faults import Faults
from sglang_nemotron.decoder.dequantise import Dequantiser
from sglang_nemotron.decoder.kinds import all_tensors
from sglang_nemotron.decoder.tensors import HEAD, IGNORED, Target

# scales of a quantised linear beside its weight; all of them optional in the file, none of them optional in a layer
SCALE_LEAVES = ("weight_scale", "weight_scale_2", "input_scale")
# scales of a quantised KV cache, one number each
KV_LEAVES = ("k_scale", "v_scale")
# parameters a layer may own that the checkpoint need not fill: KV scales keep their neutral start value, and block
# scales in the order a kernel wants are made from the loaded ones afterwards
UNFILLED = (".k_scale", ".v_scale", "_blockscale_swizzled")
_PACKED_PER_BYTE = 2


class StagedModel(Protocol):
    """A model as the loader needs it: its parameters, and which layers this pipeline stage holds."""

    @property
    def stage(self) -> range: ...

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]: ...


class DecoderWeights:
    """The table of one decoder: checkpoint name -> target; `check` on headers alone, `load` into a model."""

    def __init__(self, spec: DecoderSpec, tp_size: int, *, dequantise: bool, prefix: str = "") -> None:
        self.spec = spec
        self.tp_size = tp_size
        self.dequantise = dequantise
        self.prefix = prefix
        self.targets = {prefix + name: target for name, target in all_tensors(spec, tp_size).items()}
        self._loaded_once = False

    def check(self, headers: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Names and shapes of a whole checkpoint, from headers {name: (dtype, shape)}; ValueError lists the faults."""
        faults = Faults()
        for name, (dtype, shape) in headers.items():
            self._check_one(name, dtype, shape, faults)
        self._check_missing(set(headers), range(self.spec.num_layers), faults)
        faults.raise_if_any()

    def load(self, model: StagedModel, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Streams `weights` into the parameters of `model`; returns the names of the parameters filled.

        The first call is a checkpoint and must be complete; later calls are updates and may hold any part of one.
        """
        stage = model.stage
        parameters = dict(model.named_parameters(remove_duplicate=False))
        faults, seen = Faults(), set()
        filled: dict[str, set[Any]] = {}
        for name, leaf, tensor in self._stream(weights, seen, faults):
            if self._elsewhere(name, stage, parameters):
                continue
            self._fill(name, leaf, tensor, parameters, filled, faults)
        if not self._loaded_once:
            self._check_missing(seen, stage, faults, parameters)
            self._check_unfilled(parameters, filled, faults)
        faults.raise_if_any()
        self._loaded_once = True
        return set(filled)

    def _stream(
        self, weights: Iterable[tuple[str, torch.Tensor]], seen: set[str], faults: Faults
    ) -> Iterator[tuple[str, str, torch.Tensor]]:
        """(base name, leaf, tensor), dequantised if asked for; unknown and repeated names are faults."""
        dequantiser = Dequantiser() if self.dequantise else None
        for name, tensor in weights:
            if name in seen:
                faults.repeated.append(name)
                continue
            seen.add(name)
            if not self._check_one(name, str(tensor.dtype), tuple(tensor.shape), faults):
                continue
            base, leaf = self._split(name)
            if dequantiser is None:
                yield base, leaf, tensor
                continue
            if leaf in ("input_scale", *KV_LEAVES):
                continue
            whole = dequantiser.add(base, leaf, tensor)
            if whole is not None:
                yield base, "weight", whole
        if dequantiser is not None:
            faults.missing.extend(dequantiser.incomplete())

    def _split(self, name: str) -> tuple[str, str]:
        """Checkpoint name -> (table key, leaf); a plain parameter is its own key."""
        base, _, leaf = name.rpartition(".")
        if leaf in SCALE_LEAVES + KV_LEAVES:
            return base + ".weight", leaf
        return name, "weight"

    def _check_one(self, name: str, dtype: str, shape: tuple[int, ...], faults: Faults) -> bool:
        """Whether the tensor has a use; what is wrong with it goes to the faults."""
        base, leaf = self._split(name)
        target = self.targets.get(base)
        if target is None or (leaf != "weight" and not target.linear):
            if not any(re.fullmatch(pattern, name) for pattern in IGNORED):
                faults.unknown.append(f"{name} {list(shape)}")
            return False
        if leaf == "weight" and not _fits(target, dtype, shape):
            faults.shapes.append(f"{name} is {list(shape)}, the config says {list(target.shape)}")
            return False
        return True

    def _check_missing(
        self, seen: set[str], stage: range, faults: Faults, parameters: Mapping[str, Any] | None = None
    ) -> None:
        for name, target in self.targets.items():
            if name in seen or (parameters is not None and self._elsewhere(name, stage, parameters)):
                continue
            if target.parameter == HEAD and self.spec.tie_embeddings:
                continue
            faults.missing.append(f"{name} {list(target.shape)}")

    def _check_unfilled(self, parameters: Mapping[str, Any], filled: dict[str, set[Any]], faults: Faults) -> None:
        parts: dict[str, set[Any]] = {}
        for target in self.targets.values():
            parts.setdefault(target.parameter, set()).add(target.part)
        for name in parameters:
            if name.endswith(UNFILLED):
                continue
            if self.spec.tie_embeddings and name == HEAD:
                continue
            wanted = parts.get(_family(name))
            if wanted is None or filled.get(name, set()) != wanted:
                faults.unfilled.append(f"{name} {list(parameters[name].shape)}")

    def _elsewhere(self, name: str, stage: range, parameters: Mapping[str, Any]) -> bool:
        """Whether a known tensor belongs to another pipeline stage."""
        target = self.targets[name]
        match = re.match(r"model\.layers\.(\d+)\.", target.parameter)
        if match is not None:
            return int(match[1]) not in stage
        if target.parameter == HEAD and self.spec.tie_embeddings:
            return True
        return target.parameter not in parameters

    def _fill(
        self,
        name: str,
        leaf: str,
        tensor: torch.Tensor,
        parameters: Mapping[str, nn.Parameter],
        filled: dict[str, set[Any]],
        faults: Faults,
    ) -> None:
        target = self.targets[name]
        parameter_name = _leaf_of(target.parameter, leaf)
        parameter = parameters.get(parameter_name)
        if parameter is None:
            # a scale whose layer is not quantised here: the KV cache's, or activations'
            original = name.removesuffix("weight") + leaf if leaf != "weight" else name
            if not any(re.fullmatch(pattern, original) for pattern in IGNORED):
                faults.unknown.append(f"{original} {list(tensor.shape)}")
            return
        # scalars have no rows to rewrite
        if target.rewrite is not None and tensor.dim() > 0 and tensor.shape[0] > 1:
            tensor = target.rewrite(tensor)
        if leaf in KV_LEAVES:
            # one number of the attention itself, whose weight is merged from three
            parameter.data.fill_(tensor.item())
        else:
            _call_loader(parameter_name, parameter, tensor, target)
        filled.setdefault(parameter_name, set()).add(target.part)


def _call_loader(name: str, parameter: nn.Parameter, tensor: torch.Tensor, target: Target) -> None:
    loader = getattr(parameter, "weight_loader", None)
    if isinstance(target.part, tuple):
        expert, projection = target.part
        assert loader is not None
        loader(parameter, tensor, name, shard_id=projection, expert_id=expert)
    elif target.part is not None:
        assert loader is not None
        loader(parameter, tensor, target.part)
    elif loader is not None:
        loader(parameter, tensor)
    else:
        assert parameter.shape == tensor.shape, (name, parameter.shape, tensor.shape)
        parameter.data.copy_(tensor)


def _fits(target: Target, dtype: str, shape: tuple[int, ...]) -> bool:
    packed = dtype.removeprefix("torch.").lower() in ("uint8", "u8")
    if packed and target.linear:
        return shape == (*target.shape[:-1], target.shape[-1] // _PACKED_PER_BYTE)
    return shape == target.shape


def _leaf_of(name: str, leaf: str) -> str:
    """`...weight` -> `...LEAF`; SGLang keeps the KV scales on the attention itself."""
    if leaf in KV_LEAVES:
        return re.sub(r"(qkv_proj|[kv]_proj)\.weight$", f"attn.{leaf}", name)
    return name.removesuffix("weight") + leaf if leaf != "weight" else name


def _family(parameter: str) -> str:
    """A layer's parameter -> the table's name for it: scales share their weight's parts."""
    for leaf in SCALE_LEAVES:
        if parameter.endswith(leaf):
            return parameter.removesuffix(leaf) + "weight"
    return parameter
