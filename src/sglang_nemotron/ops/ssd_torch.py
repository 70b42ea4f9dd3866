"""The Mamba-2 state-space scan over a ragged batch in chunks of matrix products, for serving on a CPU.

In: convolved x, B, C, raw dt and the states kept in slots; out: y and the new states. Memory beyond the inputs'
own size is bounded, whatever the batch.

Shapes: T tokens, R sequences, H heads, P head dim, G groups, N state size, S state slots, J = H / G * P rows that share
one group's B and C, Q tokens per chunk, c chunks. Chunks never cross sequences; the last one of each is padded with
dt = 0, which neither decays nor adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from sglang_nemotron.ops.batch import RaggedBatch, Snapshots

__all__ = ["ssd_prefill"]

# tokens per chunk: chunking is exact whatever the length, and short chunks spend less on the Q x Q decay matrices of
# each head, which cost more here than the matrix products do; 16 was fastest for the toy and for the 30B-A3B's shapes
_CHUNK = 16
# numbers in the largest temporary of a block of chunks (1 MB in float64: the block stays in a core's cache), and in the
# states of sequences that advance together
_BLOCK_NUMBERS = 1 << 17
_STATE_NUMBERS = 1 << 23


def ssd_prefill(
    x_THP: torch.Tensor,
    dt_TH: torch.Tensor,
    A_H: torch.Tensor,
    B_TGN: torch.Tensor,
    C_TGN: torch.Tensor,
    D_H: torch.Tensor,
    dt_bias_H: torch.Tensor,
    state_SHPN: torch.Tensor,
    *,
    batch: RaggedBatch,
    snapshots: Snapshots | None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> torch.Tensor:
    """Same contract as `ssd_reference.ssd_prefill`: y [T, H, P] in x's dtype, states in `state_SHPN` moved on.

    `batch.chunk_size` is an upper bound here. Source of the chunk algebra: Mamba-2 (arXiv 2405.21060) section 6.
    """
    seq_lens = batch.seq_lens
    num_tokens = sum(seq_lens)
    y_THP = x_THP.new_zeros(x_THP.shape)
    dt_TH = F.softplus(dt_TH[:num_tokens].float() + dt_bias_H)
    if dt_limit != (0.0, float("inf")):
        dt_TH = dt_TH.clamp(*dt_limit)
    slots_R = batch.slots_R.long()
    wanted = (
        [] if snapshots is None else list(zip(snapshots.rows, snapshots.ends, snapshots.slots_n.tolist(), strict=True))
    )
    rows_per_group = max(1, _STATE_NUMBERS // state_SHPN[0].numel())
    token = 0
    for first in range(0, len(seq_lens), rows_per_group):
        rows = slice(first, first + rows_per_group)
        lens = tuple(seq_lens[rows])
        tokens = slice(token, token + sum(lens))
        token = tokens.stop
        state_RHPN = _initial_states(state_SHPN, slots_R[rows], batch.has_initial[rows])
        ends = [(row - first, end, slot) for row, end, slot in wanted if first <= row < first + len(lens)]
        group = (x_THP[tokens], dt_TH[tokens], A_H, B_TGN[tokens], C_TGN[tokens], D_H)
        y_THP[tokens] = _scan_group(*group, state_RHPN, state_SHPN, lens, min(batch.chunk_size, _CHUNK), ends)
        state_SHPN.index_copy_(0, slots_R[rows], state_RHPN.to(state_SHPN.dtype))
    return y_THP


def _initial_states(state_SHPN: torch.Tensor, slots_R: torch.Tensor, has_initial: list[bool]) -> torch.Tensor:
    # fp32 [R, H, P, N]; a slot that is not to be read may hold anything, NaN included, so it is replaced
    if not any(has_initial):
        shape = (len(has_initial), *state_SHPN.shape[1:])
        return torch.zeros(shape, dtype=torch.float32, device=state_SHPN.device)
    state_RHPN = state_SHPN.index_select(0, slots_R).float()
    if not all(has_initial):
        fresh_R = torch.tensor([not initial for initial in has_initial], device=state_SHPN.device)
        state_RHPN.masked_fill_(fresh_R[:, None, None, None], 0.0)
    return state_RHPN


@dataclass(frozen=True)
class _ChunkOrder:
    """Where each token goes when chunks are laid out step by step: first the first chunk of every sequence, longest
    sequence first, then all second chunks, and so on. One step's chunks are then neighbours and advance together."""

    order: list[int]  # sequences, longest first
    rank: list[int]  # place of each sequence in `order`
    active: list[int]  # per step: how many sequences have a chunk
    begins: list[int]  # per step: number of its first chunk; one more entry with the number of chunks
    position_T: torch.Tensor  # row of each token among the padded chunks


@lru_cache(maxsize=8)
def _chunk_order(lens: tuple[int, ...], Q: int) -> _ChunkOrder:
    chunks = [-(-length // Q) for length in lens]
    order = sorted(range(len(lens)), key=lambda r: -chunks[r])
    rank = [0] * len(lens)
    for place, r in enumerate(order):
        rank[r] = place
    active, begins = [], [0]
    for step in range(max(chunks, default=0)):
        active.append(sum(n > step for n in chunks))
        begins.append(begins[-1] + active[-1])
    numbers = [begins[step] + rank[r] for r in range(len(lens)) for step in range(chunks[r])]
    used = [min(Q, length - step * Q) for length, n in zip(lens, chunks, strict=True) for step in range(n)]
    in_chunk_Q = torch.arange(Q)
    position_cQ = torch.tensor(numbers, dtype=torch.long)[:, None] * Q + in_chunk_Q
    position_T = position_cQ[in_chunk_Q < torch.tensor(used, dtype=torch.long)[:, None]]
    return _ChunkOrder(order, rank, active, begins, position_T)


def _scan_group(
    x_THP: torch.Tensor,
    dt_TH: torch.Tensor,
    A_H: torch.Tensor,
    B_TGN: torch.Tensor,
    C_TGN: torch.Tensor,
    D_H: torch.Tensor,
    state_RHPN: torch.Tensor,
    state_SHPN: torch.Tensor,
    lens: tuple[int, ...],
    Q: int,
    wanted: list[tuple[int, int, int]],
) -> torch.Tensor:
    # y in fp32; state_RHPN moves on in place; wanted snapshots (row, end, slot) go to state_SHPN
    num_heads, P, N = state_RHPN.shape[1:]
    plan = _chunk_order(lens, Q)
    # the chunks of one sequence are its tokens in order: plain copies, several times faster than indexed ones
    position_T = plan.position_T.to(x_THP.device) if len(lens) > 1 else None
    num_chunks = plan.begins[-1]
    x_cQHP, dt_cQH, B_cQGN, C_cQGN = (
        _into_chunks(tensor, position_T, num_chunks, Q) for tensor in (x_THP, dt_TH, B_TGN, C_TGN)
    )
    y_cQHP = torch.empty_like(x_cQHP)
    # sequences in the plan's order, so that the ones still running are the first rows
    order = torch.tensor(plan.order, dtype=torch.long, device=x_THP.device)
    running_RHPN = state_RHPN.index_select(0, order)
    limit = max(1, _BLOCK_NUMBERS // (num_heads * max(Q * Q, P * N)))
    step = 0
    while step < len(plan.active):
        last = step + 1
        while last < len(plan.active) and plan.begins[last + 1] - plan.begins[step] <= limit:
            last += 1
        chunks = slice(plan.begins[step], plan.begins[last])
        block = _Block(x_cQHP[chunks], dt_cQH[chunks], A_H, B_cQGN[chunks], C_cQGN[chunks])
        starts_cHPN = block.recur(running_RHPN, plan.active[step:last])
        y_cQHP[chunks] = block.outputs(starts_cHPN)
        for row, end, slot in wanted:
            if step <= end // Q < last and end < lens[row]:
                chunk = plan.begins[end // Q] + plan.rank[row] - chunks.start
                state_SHPN[slot] = block.state_inside(starts_cHPN, chunk, end % Q).to(state_SHPN.dtype)
        step = last
    state_RHPN.index_copy_(0, order, running_RHPN)
    for row, end, slot in wanted:
        if end == lens[row]:
            state_SHPN[slot] = state_RHPN[row].to(state_SHPN.dtype)
    y_THP = y_cQHP.flatten(0, 1)
    y_THP = y_THP[: len(x_THP)] if position_T is None else y_THP.index_select(0, position_T)
    return y_THP.addcmul_(x_THP.float(), D_H.float().unsqueeze(1))


def _into_chunks(tensor: torch.Tensor, position_T: torch.Tensor | None, num_chunks: int, Q: int) -> torch.Tensor:
    rows = torch.zeros((num_chunks * Q, *tensor.shape[1:]), dtype=torch.float32, device=tensor.device)
    if position_T is None:
        rows[: len(tensor)] = tensor
    else:
        rows.index_copy_(0, position_T, tensor.float())
    return rows.unflatten(0, (num_chunks, Q))


class _Block:
    """Chunks that fit in memory together, and the quantities their outputs and their states share."""

    def __init__(
        self,
        x_cQHP: torch.Tensor,
        dt_cQH: torch.Tensor,
        A_H: torch.Tensor,
        B_cQGN: torch.Tensor,
        C_cQGN: torch.Tensor,
    ) -> None:
        self.B_cGQN = B_cQGN.transpose(1, 2)
        self.C_cGQN = C_cQGN.transpose(1, 2)
        self.input_cQHP = x_cQHP * dt_cQH.unsqueeze(3)
        # log decay from the chunk's start to each token; double, because differences of nearby tokens must stay exact
        # after large steps earlier in the chunk
        self.log_cQH = (dt_cQH * A_H).cumsum(1, dtype=torch.float64)

    def recur(self, running_RHPN: torch.Tensor, active: list[int]) -> torch.Tensor:
        """States at the start of each chunk; `running_RHPN` moves on to the end of the block."""
        num_chunks, Q, num_heads, P = self.input_cQHP.shape
        num_groups = self.B_cGQN.shape[1]
        last_c1H = self.log_cQH[:, -1:]
        to_end_cQH = (last_c1H - self.log_cQH).float().exp_()
        weighed_cGJQ = (
            (self.input_cQHP * to_end_cQH.unsqueeze(3)).view(num_chunks, Q, num_groups, -1).permute(0, 2, 3, 1)
        )
        added_cHPN = (weighed_cGJQ @ self.B_cGQN).view(num_chunks, num_heads, P, -1)
        decay_cH11 = last_c1H.float().exp_().view(num_chunks, num_heads, 1, 1)
        starts_cHPN = torch.empty_like(added_cHPN)
        running = running_RHPN
        for starts, added, decay in zip(
            starts_cHPN.split(active), added_cHPN.split(active), decay_cH11.split(active), strict=True
        ):
            if len(starts) != len(running):
                running = running_RHPN[: len(starts)]
            starts.copy_(running)
            torch.addcmul(added, running, decay, out=running)
        return starts_cHPN

    def outputs(self, starts_cHPN: torch.Tensor) -> torch.Tensor:
        """y without the skip through D, [c, Q, H, P]: what each chunk's own tokens give plus what its start gives."""
        num_chunks, Q, num_heads, P = self.input_cQHP.shape
        num_groups = self.B_cGQN.shape[1]
        log_cHQ = self.log_cQH.transpose(1, 2).contiguous()
        # decay from token s to token q: differences are never positive for s <= q, and the others become exp(-inf)
        decay_cHQQ = (log_cHQ.unsqueeze(3) - log_cHQ.unsqueeze(2)).float()
        future_QQ = torch.ones(Q, Q, dtype=torch.bool, device=decay_cHQQ.device).triu_(1)
        decay_cHQQ.masked_fill_(future_QQ, float("-inf")).exp_()
        scores_cGQQ = self.C_cGQN @ self.B_cGQN.transpose(2, 3)
        decay_cHQQ.unflatten(1, (num_groups, -1)).mul_(scores_cGQQ.unsqueeze(2))
        own_cHQP = decay_cHQQ @ self.input_cQHP.transpose(1, 2)
        starts_cGNJ = starts_cHPN.view(num_chunks, num_groups, -1, starts_cHPN.shape[3]).transpose(2, 3)
        from_start_cQHP = (self.C_cGQN @ starts_cGNJ).transpose(1, 2).reshape(num_chunks, Q, num_heads, P)
        from_start_cQHP.mul_(self.log_cQH.float().exp_().unsqueeze(3))
        return from_start_cQHP.add_(own_cHQP.transpose(1, 2))

    def state_inside(self, starts_cHPN: torch.Tensor, chunk: int, tokens: int) -> torch.Tensor:
        """The state [H, P, N] after the first `tokens` tokens of one chunk."""
        start_HPN = starts_cHPN[chunk]
        if tokens == 0:
            return start_HPN
        num_heads, P, N = start_HPN.shape
        log_qH = self.log_cQH[chunk, :tokens]
        to_end_qH = (log_qH[-1:] - log_qH).float().exp_()
        weighed_qHP = self.input_cQHP[chunk, :tokens] * to_end_qH.unsqueeze(2)
        weighed_GJq = weighed_qHP.view(tokens, self.B_cGQN.shape[1], -1).permute(1, 2, 0)
        added_HPN = (weighed_GJq @ self.B_cGQN[chunk, :, :tokens]).view(num_heads, P, N)
        return added_HPN.addcmul_(start_HPN, log_qH[-1].float().exp_().view(num_heads, 1, 1))
