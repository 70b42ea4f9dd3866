"""The inventory: from a spec to the name, shape and role of every tensor of the language model, in file order.

Knows the published weight names (and only those); never makes a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from sglang_nemotron.checkpoint.spec import CheckpointSpec

Role = Literal[
    # of the language model; only "linear" may be quantised
    "embedding",
    "head",
    "norm",
    "linear",
    "router",
    "router_bias",
    "conv",
    "conv_bias",
    "a_log",
    "d",
    "dt_bias",
    # of towers and projectors
    "tower_linear",
    "tower_conv",
    "bias",
    "positions",
    "ones",
    "running_var",
    "pixel_mean",
    "pixel_std",
    "mel_filters",
    "window",
    "counter",
    "summary_indices",
]

# in an Omni checkpoint every name of the language model begins with this
OMNI_PREFIX = "language_model."

# gains of the linear layers: an output's standard deviation for inputs of standard deviation 1. chosen so that every
# mixer adds about 1 to the residual stream: then no layer drowns the others, at 6 layers or at 52
_GAINS = {
    "in_proj": 1.5,
    "out_proj": 1.0,
    "q_proj": 1.5,
    "k_proj": 1.5,
    "v_proj": 1.5,
    "o_proj": 1.5,
    "up_proj": 1.0,
    # relu2 of a unit normal has an rms of sqrt(1.5); the routed sum is scaled up by routed_scaling_factor besides
    "down_proj": 0.6,
}


@dataclass(frozen=True)
class SourceTensor:
    """A tensor before quantisation. `gain` is meaningful for linear layers and convolutions of the towers only."""

    name: str
    shape: tuple[int, ...]
    role: Role
    gain: float = 1.0

    @property
    def module(self) -> str:
        """The name of the module that owns the tensor, as quantisation lists spell it."""
        return self.name.rpartition(".")[0]


def inventory(spec: CheckpointSpec) -> Iterator[SourceTensor]:
    """Every tensor of the unquantised language model, in the order of the layers."""
    prefix = OMNI_PREFIX if spec.towers is not None else ""
    for tensor in _decoder(spec):
        yield replace(tensor, name=prefix + tensor.name)


def _decoder(spec: CheckpointSpec) -> Iterator[SourceTensor]:
    wide = (spec.vocab_size, spec.hidden_size)
    # a tied table is also the head, and is scaled as one
    yield SourceTensor("backbone.embeddings.weight", wide, "head" if spec.tie_word_embeddings else "embedding")
    for index, letter in enumerate(spec.hybrid_override_pattern):
        layer = f"backbone.layers.{index}"
        yield SourceTensor(f"{layer}.norm.weight", (spec.hidden_size,), "norm")
        yield from _MIXERS[letter](spec, f"{layer}.mixer")
    yield SourceTensor("backbone.norm_f.weight", (spec.hidden_size,), "norm")
    if not spec.tie_word_embeddings:
        yield SourceTensor("lm_head.weight", wide, "head")


def _linear(module: str, num_out: int, num_in: int) -> SourceTensor:
    return SourceTensor(f"{module}.weight", (num_out, num_in), "linear", _GAINS[module.rpartition(".")[2]])


def _mamba(spec: CheckpointSpec, mixer: str) -> Iterator[SourceTensor]:
    heads, inner, conv = spec.mamba_num_heads, spec.mamba_inner, spec.conv_dim
    yield SourceTensor(f"{mixer}.A_log", (heads,), "a_log")
    yield SourceTensor(f"{mixer}.D", (heads,), "d")
    yield SourceTensor(f"{mixer}.dt_bias", (heads,), "dt_bias")
    yield SourceTensor(f"{mixer}.conv1d.weight", (conv, 1, spec.conv_kernel), "conv")
    if spec.use_conv_bias:
        yield SourceTensor(f"{mixer}.conv1d.bias", (conv,), "conv_bias")
    # one projection makes the gate z, then x, B and C for the convolution, then dt
    yield _linear(f"{mixer}.in_proj", inner + conv + heads, spec.hidden_size)
    yield SourceTensor(f"{mixer}.norm.weight", (inner,), "norm")
    yield _linear(f"{mixer}.out_proj", spec.hidden_size, inner)


def _attention(spec: CheckpointSpec, mixer: str) -> Iterator[SourceTensor]:
    query, key = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    yield _linear(f"{mixer}.q_proj", query, spec.hidden_size)
    yield _linear(f"{mixer}.k_proj", key, spec.hidden_size)
    yield _linear(f"{mixer}.v_proj", key, spec.hidden_size)
    yield _linear(f"{mixer}.o_proj", spec.hidden_size, query)


def _mlp(spec: CheckpointSpec, module: str, width: int) -> Iterator[SourceTensor]:
    yield _linear(f"{module}.up_proj", width, spec.hidden_size)
    yield _linear(f"{module}.down_proj", spec.hidden_size, width)


def _experts(spec: CheckpointSpec, mixer: str) -> Iterator[SourceTensor]:
    yield SourceTensor(f"{mixer}.gate.weight", (spec.n_routed_experts, spec.hidden_size), "router")
    yield SourceTensor(f"{mixer}.gate.e_score_correction_bias", (spec.n_routed_experts,), "router_bias")
    for expert in range(spec.n_routed_experts):
        yield from _mlp(spec, f"{mixer}.experts.{expert}", spec.moe_intermediate_size)
    yield from _mlp(spec, f"{mixer}.shared_experts", spec.moe_shared_expert_intermediate_size)


def _dense(spec: CheckpointSpec, mixer: str) -> Iterator[SourceTensor]:
    yield from _mlp(spec, mixer, spec.intermediate_size)


_MIXERS = {"M": _mamba, "*": _attention, "E": _experts, "-": _dense}
