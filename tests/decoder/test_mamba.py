"""`MambaMixer` on ranks that are threads of this process, its linears plain ones, equals the whole mixer in fp64.

Legend: T tokens, D hidden, S slots, C conv channels, W taps kept, H heads, P head dim, N state size, R sequences.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from decoder.test_shards import NUM_TOKENS, make_spec, mixer_weights, rank_weights, whole_mixer
from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.decoder import mamba
from sglang_nemotron.decoder.parallel import Ranks
from sglang_nemotron.ops import RaggedBatch, forms
from sglang_nemotron.state.plan import StepPlan
from support.waiting import NET_S

# the mixer computes in fp32
TOLERANCE = 1e-4


class AllReduce:
    """A sum over ranks that are threads: each brings a tensor and waits for the others'."""

    def __init__(self, num_ranks: int) -> None:
        self.brought: list[torch.Tensor | None] = [None] * num_ranks
        self.barrier = threading.Barrier(num_ranks)

    def of(self, rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def reduce(mine: torch.Tensor) -> torch.Tensor:
            self.brought[rank] = mine.clone()
            self.barrier.wait(NET_S)
            total = torch.stack([tensor for tensor in self.brought if tensor is not None]).sum(0)
            self.barrier.wait(NET_S)
            return total

        return reduce


class PlainLinear(nn.Module):
    """In the place of SGLang's parallel linears: one rank's columns, and no process group."""

    weight: torch.Tensor

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def forward(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x_TD @ self.weight.T, None


def build(spec: DecoderSpec, rank: int, tp_size: int, all_reduce: AllReduce) -> mamba.MambaMixer:
    ranks = Ranks("tp", rank, tp_size, tp_size, all_reduce.of(rank))
    mixer = mamba.MambaMixer(spec, ranks, None, "mixer")
    w = {name: part.float() for name, part in rank_weights(mixer_weights(spec), spec, rank, tp_size).items()}
    mixer.in_proj.weight, mixer.out_proj.weight = w["in_proj"], w["out_proj"]
    assert mixer.conv1d.bias is not None
    for parameter, value in (
        (mixer.conv1d.weight, w["conv_weight"].squeeze(1)),
        (mixer.conv1d.bias, w["conv_bias"]),
        (mixer.A, -w["A_log"].exp()),
        (mixer.D, w["D"]),
        (mixer.dt_bias, w["dt_bias"]),
        (mixer.norm.weight, w["norm"]),
    ):
        assert parameter.shape == value.shape
        parameter.data.copy_(value)
    return mixer


def prefill(mixer: mamba.MambaMixer, u_TD: torch.Tensor) -> torch.Tensor:
    spec, num_tokens = mixer.spec, u_TD.shape[0]
    slots = mamba.MambaSlots(
        torch.zeros(2, mixer.conv_channels, spec.conv_width - 1),
        torch.zeros(2, mixer.num_heads, spec.head_dim, spec.state_size),
    )
    batch = RaggedBatch(
        cu_seqlens=torch.tensor([0, num_tokens], dtype=torch.int32),
        seq_lens=[num_tokens],
        slots_R=torch.tensor([1]),
        has_initial_R=torch.tensor([False]),
        has_initial=[False],
        chunk_size=spec.chunk_size,
    )
    plan = StepPlan(num_tokens, 0, batch, snapshots=None, decode_slots_B=None, decode_track=None)
    return mixer(u_TD, slots, plan)


def mixers_error(num_groups: int, tp_size: int) -> float:
    spec = make_spec(num_groups)
    u_TD = torch.randn(NUM_TOKENS, spec.hidden_size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    all_reduce = AllReduce(tp_size)
    mixers = [build(spec, rank, tp_size, all_reduce) for rank in range(tp_size)]
    with ThreadPoolExecutor(tp_size) as ranks:
        parts = list(ranks.map(prefill, mixers, [u_TD.float()] * tp_size))
    whole_TD = whole_mixer(u_TD, mixer_weights(spec), spec)
    return ((torch.stack(parts).sum(0) - whole_TD).abs().max() / whole_TD.abs().max()).item()


@pytest.fixture(autouse=True)
def plain_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba, "MergedColumnParallelLinear", PlainLinear)
    monkeypatch.setattr(mamba, "RowParallelLinear", PlainLinear)


@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_mixers_of_all_ranks_equal_the_whole(num_groups: int, tp_size: int) -> None:
    assert mixers_error(num_groups, tp_size) < TOLERANCE


def test_squares_of_strangers_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba, "_sum_over_peers", lambda spec, ranks: ranks.mixer_all_reduce)
    # a hundred times the tolerance: the comparison is not a matter of rounding
    assert mixers_error(num_groups=2, tp_size=4) > 1e-2


# ---- a step of decode: three ops one after the other, or one


def step(mixer: mamba.MambaMixer, u_TD: torch.Tensor, num_prefill: int) -> tuple[torch.Tensor, mamba.MambaSlots]:
    """`num_prefill` rows go on in slot 1, each of the others is one token of a slot of its own."""
    sizes, num_rows, generator = mixer.spec, u_TD.shape[0], torch.Generator().manual_seed(3)
    slots = mamba.MambaSlots(
        torch.randn(num_rows + 2, mixer.conv_channels, sizes.conv_width - 1, generator=generator),
        torch.randn(num_rows + 2, mixer.num_heads, sizes.head_dim, sizes.state_size, generator=generator),
    )
    prefill_batch = RaggedBatch(
        cu_seqlens=torch.tensor([0, num_prefill], dtype=torch.int32),
        seq_lens=[num_prefill],
        slots_R=torch.tensor([1]),
        has_initial_R=torch.tensor([True]),
        has_initial=[True],
        chunk_size=sizes.chunk_size,
    )
    slots_B = torch.arange(2, 2 + num_rows - num_prefill)
    plan = StepPlan(num_prefill, len(slots_B), prefill_batch if num_prefill else None, None, slots_B, None)
    return mixer(u_TD, slots, plan), slots


def asked_for(form: str, patch: pytest.MonkeyPatch) -> None:
    patch.setenv(forms.OVERRIDE, f"mamba_step={form}")
    forms._overrides.cache_clear()


@pytest.mark.parametrize("num_prefill", [0, 3])
@pytest.mark.parametrize("num_groups", [1, 2])
def test_a_step_in_one_op_equals_three(num_groups: int, num_prefill: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(num_groups)
    mixer = build(spec, 0, 1, AllReduce(1))
    u_TD = torch.randn(NUM_TOKENS, spec.hidden_size, generator=torch.Generator().manual_seed(9))
    asked_for(forms.APART, monkeypatch)
    expected, kept = step(mixer, u_TD, num_prefill)
    asked_for("torch", monkeypatch)
    found, moved = step(mixer, u_TD, num_prefill)
    forms._overrides.cache_clear()
    for one, other in ((found, expected), (moved.ssm_SHPN, kept.ssm_SHPN), (moved.conv_SCW, kept.conv_SCW)):
        assert (one - other).abs().max() <= TOLERANCE * other.abs().max()


def test_a_step_of_a_group_that_spans_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, all_reduce = make_spec(num_groups=1), AllReduce(2)
    mixers = [build(spec, rank, 2, all_reduce) for rank in range(2)]
    assert all(mixer.reduce_sum is not None for mixer in mixers)
    u_TD = torch.randn(NUM_TOKENS, spec.hidden_size, generator=torch.Generator().manual_seed(9))
    outputs = []
    for form in (forms.APART, "torch"):
        asked_for(form, monkeypatch)
        with ThreadPoolExecutor(2) as ranks:
            parts = list(ranks.map(lambda mixer: step(mixer, u_TD, 2)[0], mixers))
        outputs.append(torch.stack(parts).sum(0))
    forms._overrides.cache_clear()
    assert (outputs[1] - outputs[0]).abs().max() <= TOLERANCE * outputs[0].abs().max()
