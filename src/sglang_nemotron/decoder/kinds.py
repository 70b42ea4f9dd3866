"""One row per layer kind: its record with letter and words, its mixer, how that is called, and its tensors' names.

Everything of the decoder that depends on a layer's kind asks this table; nothing else looks at a letter. The main
process checks a checkpoint's headers by it, so a mixer, and SGLang's engine with it, is imported when it is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.layers import AttentionSpec, DenseSpec, LayerSpec, MambaSpec, MoESpec
from sglang_nemotron.decoder.tensors import (
    Target,
    Tensors,
    attention_tensors,
    dense_tensors,
    mamba_tensors,
    mixer_prefixes,
    moe_tensors,
    outer_tensors,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sglang_nemotron import ops
    from sglang_nemotron.decoder.mamba import MambaSlots
    from sglang_nemotron.decoder.parallel import Ranks
    from sglang_nemotron.sglang_api.engine import ForwardBatch, QuantizationConfig
    from sglang_nemotron.state.plan import StepPlan


class Place(NamedTuple):
    """Where a mixer is built: for which layer, on which rank, and under which name."""

    spec: DecoderSpec
    ranks: Ranks
    layer_id: int
    quant_config: QuantizationConfig | None
    prefix: str


class Step(NamedTuple):
    """What one step brings to every layer. `plan` is None if this rank has no tokens (data parallel attention)."""

    forward_batch: ForwardBatch
    plan: StepPlan | None
    slots_of: Callable[[int], MambaSlots]


@dataclass(frozen=True)
class LayerKind:
    """A row. `spec` is the kind's record, whose class has the letter and the published words.

    call: (mixer, x_TD, layer number, step) -> y_TD, this rank's part of the sum.
    few: (mixer, h_TD, the layer's norm, layer number, step) -> None, the residual stream moved on in place; where
    `mixer.has_few_rows`.
    tensors: (spec, tp_size, the mixer's place in the model) -> the names and targets of a layer's mixer.
    has_memory: whether it leaves a state or pages behind; such a mixer runs on attention rows, a feed-forward on all.
    sparse: whether it is a mixture, which SGLang's stage boundaries want to know of a feed-forward.
    """

    spec: type[LayerSpec]
    build: Callable[[Place], nn.Module]
    call: Callable[[Any, torch.Tensor, int, Step], torch.Tensor]
    few: Callable[[Any, torch.Tensor, ops.Norm, int, Step], None]
    tensors: Callable[[DecoderSpec, int, str], Tensors]
    has_memory: bool
    sparse: bool = False


def _build_mamba(at: Place) -> nn.Module:
    from sglang_nemotron.decoder.mamba import MambaMixer

    return MambaMixer(at.spec, at.ranks, at.quant_config, at.prefix)


def _call_mamba(mixer: Any, x_TD: torch.Tensor, layer_id: int, step: Step) -> torch.Tensor:
    assert step.plan is not None
    return mixer(x_TD, step.slots_of(layer_id), step.plan)


def _few_mamba(mixer: Any, h_TD: torch.Tensor, norm: ops.Norm, layer_id: int, step: Step) -> None:
    assert step.plan is not None
    mixer.few_rows(h_TD, norm, step.slots_of(layer_id), step.plan)


def _build_attention(at: Place) -> nn.Module:
    from sglang_nemotron.decoder.attention import AttentionMixer

    return AttentionMixer(at.spec, at.ranks, at.layer_id, at.quant_config, at.prefix)


def _call_attention(mixer: Any, x_TD: torch.Tensor, layer_id: int, step: Step) -> torch.Tensor:
    return mixer(x_TD, step.forward_batch)


def _few_attention(mixer: Any, h_TD: torch.Tensor, norm: ops.Norm, layer_id: int, step: Step) -> None:
    mixer.few_rows(h_TD, norm, step.forward_batch)


def _build_moe(at: Place) -> nn.Module:
    from sglang_nemotron.decoder.moe import MoEMixer

    return MoEMixer(at.spec, at.layer_id, at.quant_config, at.prefix)


def _build_dense(at: Place) -> nn.Module:
    from sglang_nemotron.decoder.moe import DenseMLP

    return DenseMLP(at.spec, at.spec.dense.intermediate_size, at.quant_config, at.prefix)


def _call_feed_forward(mixer: Any, x_TD: torch.Tensor, layer_id: int, step: Step) -> torch.Tensor:
    return mixer(x_TD)


def _few_feed_forward(mixer: Any, h_TD: torch.Tensor, norm: ops.Norm, layer_id: int, step: Step) -> None:
    mixer.few_rows(h_TD, norm)


KINDS = (
    LayerKind(MambaSpec, _build_mamba, _call_mamba, _few_mamba, mamba_tensors, has_memory=True),
    LayerKind(AttentionSpec, _build_attention, _call_attention, _few_attention, attention_tensors, has_memory=True),
    LayerKind(MoESpec, _build_moe, _call_feed_forward, _few_feed_forward, moe_tensors, has_memory=False, sparse=True),
    LayerKind(DenseSpec, _build_dense, _call_feed_forward, _few_feed_forward, dense_tensors, has_memory=False),
)
_BY_RECORD = {kind.spec: kind for kind in KINDS}


def kind_of(spec: DecoderSpec, layer_id: int) -> LayerKind:
    """The row of a layer, by its number in the model."""
    return _BY_RECORD[type(spec.layers[layer_id])]


def all_tensors(spec: DecoderSpec, tp_size: int) -> dict[str, Target]:
    """Every tensor that a plain checkpoint of this spec must hold, by its name in the file."""
    found = dict(outer_tensors(spec))
    for layer_id in range(spec.num_layers):
        source, mixer = mixer_prefixes(layer_id)
        for name, target in kind_of(spec, layer_id).tensors(spec, tp_size, mixer):
            found[f"{source}.{name}"] = target
    return found
