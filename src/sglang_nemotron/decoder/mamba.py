"""The Mamba-2 mixer: normed hidden states, one layer's state slots and the step's plan in; its contribution out.

It owns weights and wiring. Numbers live in ops, indices in the plan, memory in the pool; nothing is fetched from
globals. Legend: T tokens, D hidden, I inner channels of this rank, C conv channels, H heads, P head dim, G groups,
N state size, S slots, K conv width, W = K-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from sglang_nemotron import ops
from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.layers import MambaSpec
from sglang_nemotron.decoder import shards
from sglang_nemotron.decoder.few_rows import linear_of, linears_are_plain
from sglang_nemotron.decoder.parallel import Ranks
from sglang_nemotron.ops.forms import APART, choose
from sglang_nemotron.sglang_api.engine import MergedColumnParallelLinear, QuantizationConfig, RowParallelLinear
from sglang_nemotron.state.plan import StepPlan


class MambaSlots(NamedTuple):
    """One layer's states: `conv_SCW` the last raw conv inputs, `ssm_SHPN` the recurrent state, of every slot.

    `rounding`: how this layer's decode steps round an fp16 state, None for to the nearest.
    """

    conv_SCW: torch.Tensor
    ssm_SHPN: torch.Tensor
    rounding: ops.StochasticRounding | None = None


class _Projected(NamedTuple):
    """What the input projection makes of each row: the gate, the convolution's input and the raw time steps."""

    gate_TI: torch.Tensor
    conv_in_TC: torch.Tensor
    dt_TH: torch.Tensor

    def part(self, rows: slice) -> _Projected:
        return _Projected(self.gate_TI[rows], self.conv_in_TC[rows], self.dt_TH[rows])


class _Weights(nn.Module):
    """A weight, and a bias or none, under the names the checkpoint and SGLang's tools know them by."""

    bias: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.register_parameter("bias", nn.Parameter(torch.empty(shape[:1]), requires_grad=False) if bias else None)


def _per_head(num_heads: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(num_heads, dtype=torch.float32), requires_grad=False)


def _sum_over_peers(spec: MambaSpec, ranks: Ranks) -> Callable[[torch.Tensor], torch.Tensor]:
    """Adds a rank's [T, 1] sums of squares to those of its `shards.norm_peers`, the ranks that share its one group."""
    if spec.num_groups == 1:
        return ranks.mixer_all_reduce
    group = shards.groups_of_rank(spec, ranks.mixer_tp_rank, ranks.mixer_tp_size).start

    def add(squares_T1: torch.Tensor) -> torch.Tensor:
        # there is no process group of the peers alone: all ranks add up, and each group has its own column
        squares_TG = squares_T1.new_zeros(squares_T1.shape[0], spec.num_groups)
        squares_TG[:, group] = squares_T1[:, 0]
        return ranks.mixer_all_reduce(squares_TG)[:, group : group + 1]

    return add


class MambaMixer(nn.Module):
    """Mamba-2 with grouped B and C, a gated grouped RMSNorm and no biases but the convolution's.

    Parameters are this rank's shards; `A` holds -exp(A_log). Source: HF NemotronHMamba2Mixer.
    """

    def __init__(self, spec: DecoderSpec, ranks: Ranks, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.spec = sizes = spec.mamba
        self.norm_eps = spec.norm_eps
        tp = ranks.mixer_tp_size
        self.inner = sizes.inner // tp
        self.num_heads = sizes.num_heads // tp
        self.num_groups = max(sizes.num_groups, tp) // tp
        self.conv_channels = self.inner + 2 * self.num_groups * sizes.state_size
        self.norm_groups, self.norm_group_size, spans_ranks = shards.norm_groups(sizes, tp)
        self.reduce_sum = _sum_over_peers(sizes, ranks) if spans_ranks else None
        self.in_proj = MergedColumnParallelLinear(
            input_size=spec.hidden_size,
            output_sizes=list(shards.mamba_in_proj_sections(sizes, tp)),
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.in_proj",
            parallel_group=ranks.mixer_group,
        )
        self.conv1d = _Weights((self.conv_channels, sizes.conv_width), bias=sizes.conv_bias)
        # one number per head: fp32, as the recurrence uses them, so that no step has to cast
        self.A = _per_head(self.num_heads)
        self.D = _per_head(self.num_heads)
        self.dt_bias = _per_head(self.num_heads)
        self.norm = _Weights((self.inner,), bias=False)
        self.out_proj = RowParallelLinear(
            sizes.inner,
            spec.hidden_size,
            bias=False,
            input_is_parallel=True,
            quant_config=quant_config,
            parallel_group=ranks.mixer_group,
            # the stage boundary sums the ranks' outputs together with the residual
            reduce_results=False,
            prefix=f"{prefix}.out_proj",
        )

    def forward(self, x_TD: torch.Tensor, slots: MambaSlots, plan: StepPlan) -> torch.Tensor:
        """x_TD -> y_TD, this rank's part of the sum; states in `slots` are read and written in place."""
        projected, _ = self.in_proj(x_TD)
        return self.out_proj(self._mix(self._split_projected(projected), slots, plan))[0]

    @property
    def has_few_rows(self) -> bool:
        """Whether `few_rows` computes the same as `forward` between norm and residual."""
        return self.reduce_sum is None and linears_are_plain((self.in_proj, self.out_proj))

    def few_rows(self, h_TD: torch.Tensor, norm: ops.Norm, slots: MambaSlots, plan: StepPlan) -> None:
        """h <- h + mixer(norm(h)) in place, all rows decode; on one rank."""
        assert plan.decode_slots_B is not None
        layer = ops.MambaLayer(
            norm,
            linear_of(self.in_proj),
            self._step_weights(with_norm=True),
            linear_of(self.out_proj),
            gated_norm_eps=self.norm_eps,
            dt_limit=self.spec.time_step_limit,
        )
        ops.mamba_layer(
            h_TD, layer, slots.conv_SCW, slots.ssm_SHPN, slots_B=plan.decode_slots_B, rounding=slots.rounding
        )

    def _split_projected(self, projected: torch.Tensor) -> _Projected:
        return _Projected(*projected.split([self.inner, self.conv_channels, self.num_heads], dim=-1))

    def _mix(self, rows: _Projected, slots: MambaSlots, plan: StepPlan) -> torch.Tensor:
        num_rows, num_tokens, num_prefill = rows.gate_TI.shape[0], plan.num_tokens, plan.num_prefill_tokens
        # the common steps need no joining: all rows prefill, or all decode
        if num_tokens == num_rows and num_prefill in (0, num_tokens):
            return (self._prefill if num_prefill else self._decode)(rows, slots, plan)
        # rows past the plan's tokens are padding (data parallel attention); they must stay finite
        y_TI = rows.gate_TI.new_zeros(num_rows, self.inner)
        if num_prefill > 0:
            y_TI[:num_prefill] = self._prefill(rows.part(slice(num_prefill)), slots, plan)
        if plan.num_decodes > 0:
            decoded = slice(num_prefill, num_tokens)
            y_TI[decoded] = self._decode(rows.part(decoded), slots, plan)
        return y_TI

    def _gated_norm(self, y_TI: torch.Tensor, gate_TI: torch.Tensor) -> torch.Tensor:
        return ops.gated_norm(
            y_TI,
            gate_TI,
            self.norm.weight,
            num_groups=self.norm_groups,
            eps=self.norm_eps,
            reduce_sum=self.reduce_sum,
            group_size=self.norm_group_size,
        )

    def _prefill(self, rows: _Projected, slots: MambaSlots, plan: StepPlan) -> torch.Tensor:
        assert plan.prefill is not None
        mixed_TC = ops.conv1d_prefill(
            rows.conv_in_TC,
            self.conv1d.weight,
            self.conv1d.bias,
            slots.conv_SCW,
            batch=plan.prefill,
            snapshots=plan.snapshots,
        )
        x_THP, B_TGN, C_TGN = self._split(mixed_TC)
        y_THP = ops.ssd_prefill(
            x_THP,
            rows.dt_TH,
            self.A,
            B_TGN,
            C_TGN,
            self.D,
            self.dt_bias,
            slots.ssm_SHPN,
            batch=plan.prefill,
            snapshots=plan.snapshots,
            dt_limit=self.spec.time_step_limit,
        )
        return self._gated_norm(y_THP.reshape(-1, self.inner), rows.gate_TI)

    def _decode(self, rows: _Projected, slots: MambaSlots, plan: StepPlan) -> torch.Tensor:
        assert plan.decode_slots_B is not None
        asked = ops.mamba_step_case(rows.conv_in_TC, slots.ssm_SHPN, rounded_at_random=slots.rounding is not None)
        if choose(asked).name == APART:
            return self._gated_norm(self._step_apart(rows, slots, plan.decode_slots_B), rows.gate_TI)
        spans_ranks = self.reduce_sum is not None
        y_BI = ops.mamba_step(
            rows.conv_in_TC,
            rows.gate_TI,
            rows.dt_TH,
            slots.conv_SCW,
            slots.ssm_SHPN,
            self._step_weights(with_norm=not spans_ranks),
            slots_B=plan.decode_slots_B,
            eps=self.norm_eps,
            dt_limit=self.spec.time_step_limit,
            rounding=slots.rounding,
        )
        return self._gated_norm(y_BI, rows.gate_TI) if spans_ranks else y_BI

    def _step_weights(self, *, with_norm: bool) -> ops.StepWeights:
        # read anew each time: a weight update may put other tensors in their place
        norm = self.norm.weight if with_norm else None
        return ops.StepWeights(self.conv1d.weight, self.conv1d.bias, self.A, self.D, self.dt_bias, norm)

    def _step_apart(self, rows: _Projected, slots: MambaSlots, slots_B: torch.Tensor) -> torch.Tensor:
        mixed_BC = ops.conv1d_step(
            rows.conv_in_TC, self.conv1d.weight, self.conv1d.bias, slots.conv_SCW, slots_B=slots_B
        )
        x_BHP, B_BGN, C_BGN = self._split(mixed_BC)
        y_BHP = ops.ssm_step(
            x_BHP,
            rows.dt_TH,
            self.A,
            B_BGN,
            C_BGN,
            self.D,
            self.dt_bias,
            slots.ssm_SHPN,
            slots_B=slots_B,
            dt_limit=self.spec.time_step_limit,
        )
        return y_BHP.reshape(-1, self.inner)

    def _split(self, mixed_TC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        spec = self.spec
        group_channels = self.num_groups * spec.state_size
        x_TI, B, C = mixed_TC.split([self.inner, group_channels, group_channels], dim=-1)
        T = mixed_TC.shape[0]
        return (
            x_TI.view(T, self.num_heads, spec.head_dim),
            B.view(T, self.num_groups, spec.state_size),
            C.view(T, self.num_groups, spec.state_size),
        )
