"""Checkpoint tensors in, filled parameters out; the only file that knows tensor names.

Every parameter is filled exactly once and every checkpoint tensor is used or on a named ignore list; anything else
is an error that lists names and shapes. Quantised tensors go to quantised layers as they are, or are dequantised on
the way where the device has no such layers (`decoder/dequantise.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.faults import Faults
from sglang_nemotron.decoder import shards
from sglang_nemotron.decoder.dequantise import Dequantiser

# scales of a quantised linear beside its weight; all of them optional in the file, none of them optional in a layer
SCALE_LEAVES = ("weight_scale", "weight_scale_2", "input_scale")
# scales of a quantised KV cache, one number each
KV_LEAVES = ("k_scale", "v_scale")
# tensors a checkpoint may carry that this model has no use for, and why
IGNORED = {
    r".*\.rotary_emb\..*": "the decoder has no positional embedding",
    r".*\.mixer\.(k_proj\.k|v_proj\.v)_scale": "scale of a quantised KV cache, used only where the cache is quantised",
    r".*\.input_scale": "scale of quantised activations, used only by quantised layers",
}
# parameters a layer may own that the checkpoint need not fill: KV scales keep their neutral start value, and block
# scales in the order a kernel wants are made from the loaded ones afterwards
UNFILLED = (".k_scale", ".v_scale", "_blockscale_swizzled")
_PACKED_PER_BYTE = 2


@dataclass(frozen=True)
class Target:
    """Where a checkpoint weight goes: a module (or a parameter prefix) of the model, the part of it, its full shape.

    `part` is the shard id of a merged linear, or (expert, projection); `leaf` the parameter's last name.
    `rewrite` turns the file's tensor into what the loader expects.
    """

    parameter: str
    shape: tuple[int, ...]
    part: Any = None
    linear: bool = False
    rewrite: Callable[[torch.Tensor], torch.Tensor] | None = None


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
        self.targets = {prefix + name: target for name, target in _targets(spec, tp_size)}
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
            if target.parameter == "lm_head.weight" and self.spec.tie_embeddings:
                continue
            faults.missing.append(f"{name} {list(target.shape)}")

    def _check_unfilled(self, parameters: Mapping[str, Any], filled: dict[str, set[Any]], faults: Faults) -> None:
        parts: dict[str, set[Any]] = {}
        for target in self.targets.values():
            parts.setdefault(target.parameter, set()).add(target.part)
        for name in parameters:
            if name.endswith(UNFILLED):
                continue
            if self.spec.tie_embeddings and name == "lm_head.weight":
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
        if target.parameter == "lm_head.weight" and self.spec.tie_embeddings:
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


def _targets(spec: DecoderSpec, tp_size: int) -> Iterator[tuple[str, Target]]:
    """Every tensor a plain checkpoint of this spec must hold (nemotron facts, section 2)."""
    yield "backbone.embeddings.weight", Target("model.embed_tokens.weight", (spec.vocab_size, spec.hidden_size))
    yield "backbone.norm_f.weight", Target("model.norm_f.weight", (spec.hidden_size,))
    yield "lm_head.weight", Target("lm_head.weight", (spec.vocab_size, spec.hidden_size), linear=True)
    for layer_id, letter in enumerate(spec.pattern):
        source, mixer = f"backbone.layers.{layer_id}", f"model.layers.{layer_id}.mixer"
        yield f"{source}.norm.weight", Target(f"model.layers.{layer_id}.norm.weight", (spec.hidden_size,))
        table = {"M": _mamba, "*": _attention, "E": _moe, "-": _dense}[letter]
        for name, target in table(spec, tp_size, mixer):
            yield f"{source}.mixer.{name}", target


def _mamba(spec: DecoderSpec, tp_size: int, mixer: str) -> Iterator[tuple[str, Target]]:
    hidden, inner, heads = spec.hidden_size, spec.mamba_inner, spec.mamba_num_heads
    in_rows = sum(shards.mamba_in_proj_sections(spec, 1))
    rank = _RankSlices(spec, tp_size)
    yield (
        "in_proj.weight",
        Target(f"{mixer}.in_proj.weight", (in_rows, hidden), linear=True, rewrite=rank.expand_in_proj),
    )
    yield "out_proj.weight", Target(f"{mixer}.out_proj.weight", (hidden, inner), linear=True)
    conv_shape = (spec.conv_channels, 1, spec.conv_width)
    yield "conv1d.weight", Target(f"{mixer}.conv1d.weight", conv_shape, rewrite=rank.conv_weight)
    if spec.conv_bias:
        yield "conv1d.bias", Target(f"{mixer}.conv1d.bias", conv_shape[:1], rewrite=rank.conv)
    yield "A_log", Target(f"{mixer}.A", (heads,), rewrite=rank.decay)
    yield "D", Target(f"{mixer}.D", (heads,), rewrite=rank.heads)
    yield "dt_bias", Target(f"{mixer}.dt_bias", (heads,), rewrite=rank.heads)
    yield "norm.weight", Target(f"{mixer}.norm.weight", (inner,), rewrite=rank.inner)


def _attention(spec: DecoderSpec, tp_size: int, mixer: str) -> Iterator[tuple[str, Target]]:
    hidden, q_rows = spec.hidden_size, spec.num_attention_heads * spec.head_dim
    kv_rows = spec.num_key_value_heads * spec.head_dim
    for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
        yield f"{part}_proj.weight", Target(f"{mixer}.qkv_proj.weight", (rows, hidden), part=part, linear=True)
    yield "o_proj.weight", Target(f"{mixer}.o_proj.weight", (hidden, q_rows), linear=True)


def _moe(spec: DecoderSpec, tp_size: int, mixer: str) -> Iterator[tuple[str, Target]]:
    hidden, width = spec.hidden_size, spec.expert_intermediate_size
    yield "gate.weight", Target(f"{mixer}.gate.weight", (spec.num_experts, hidden))
    yield "gate.e_score_correction_bias", Target(f"{mixer}.gate.e_score_correction_bias", (spec.num_experts,))
    for expert in range(spec.num_experts):
        # SGLang's fused layout: w13 the way in (no gate, so w1 alone), w2 the way out
        up, down = f"{mixer}.experts.w13_weight", f"{mixer}.experts.w2_weight"
        yield f"experts.{expert}.up_proj.weight", Target(up, (width, hidden), part=(expert, "w1"), linear=True)
        yield f"experts.{expert}.down_proj.weight", Target(down, (hidden, width), part=(expert, "w2"), linear=True)
    if spec.shared_intermediate_size:
        shared = spec.shared_intermediate_size
        for name, shape in (("up_proj", (shared, hidden)), ("down_proj", (hidden, shared))):
            yield (
                f"shared_experts.{name}.weight",
                Target(f"{mixer}.shared_experts.{name}.weight", shape, linear=True),
            )


def _dense(spec: DecoderSpec, tp_size: int, mixer: str) -> Iterator[tuple[str, Target]]:
    hidden, width = spec.hidden_size, spec.intermediate_size
    yield "up_proj.weight", Target(f"{mixer}.up_proj.weight", (width, hidden), linear=True)
    yield "down_proj.weight", Target(f"{mixer}.down_proj.weight", (hidden, width), linear=True)


class _RankSlices:
    """Rewrites for Mamba tensors; which rank this is, is asked when a tensor arrives."""

    def __init__(self, spec: DecoderSpec, tp_size: int) -> None:
        self.spec, self.tp_size = spec, tp_size

    @property
    def _rank(self) -> int:
        # only a loading process has a rank; a header check in the main process never gets here
        from sglang_nemotron.decoder.parallel import current_ranks

        return current_ranks().mixer_tp_rank

    def expand_in_proj(self, tensor: torch.Tensor) -> torch.Tensor:
        return shards.expand_groups_in_proj(tensor, self.spec, self.tp_size)

    def conv(self, tensor: torch.Tensor) -> torch.Tensor:
        return shards.shard_conv(tensor, self.spec, self._rank, self.tp_size)

    def conv_weight(self, tensor_C1K: torch.Tensor) -> torch.Tensor:
        return self.conv(tensor_C1K).squeeze(1)

    def heads(self, vector_H: torch.Tensor) -> torch.Tensor:
        return shards.shard_heads(vector_H, self.spec, self._rank, self.tp_size).float()

    def decay(self, log_H: torch.Tensor) -> torch.Tensor:
        return -torch.exp(self.heads(log_H))

    def inner(self, vector_I: torch.Tensor) -> torch.Tensor:
        return shards.shard_inner(vector_I, self.spec, self._rank, self.tp_size)
