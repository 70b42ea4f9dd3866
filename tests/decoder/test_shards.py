"""A whole mixer, split over TP ranks with the functions of `decoder/shards.py`, equals the unsplit mixer in fp64.

Legend: T tokens, D hidden, H heads, P head dim, I = H * P, G groups, N state size, C conv channels, K taps.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.layers import AttentionSpec, DenseSpec, MambaSpec, MoESpec
from sglang_nemotron.decoder import shards

# fp64 sums of at most a few hundred terms of order one, in another order
TOLERANCE = 1e-11

NUM_TOKENS = 7


def make_spec(num_groups: int = 2, num_heads: int = 16, num_kv_heads: int = 2) -> DecoderSpec:
    mamba = MambaSpec(
        num_heads=num_heads,
        head_dim=3,
        num_groups=num_groups,
        state_size=5,
        conv_width=4,
        chunk_size=8,
        conv_bias=True,
        time_step_limit=(0.0, math.inf),
    )
    moe = MoESpec(
        num_experts=8,
        experts_per_token=2,
        expert_intermediate_size=24,
        shared_intermediate_size=48,
        router_scale=1.0,
        router_renormalize=True,
        router_num_groups=1,
        router_top_groups=1,
    )
    return DecoderSpec(
        hidden_size=10,
        vocab_size=32,
        layers=(mamba, AttentionSpec(8, num_kv_heads, 6), moe, DenseSpec(40)),
        norm_eps=1e-5,
        tie_embeddings=False,
        max_positions=64,
        ssm_dtype="float32",
        eos_token_ids=(2,),
        dtype=None,
    )


# ---- the Mamba mixer, whole and split -------------------------------------------------------------------------------


def mixer_weights(spec: DecoderSpec) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(spec.mamba.num_groups)
    heads, inner, channels = spec.mamba.num_heads, spec.mamba.inner, spec.mamba.conv_channels

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    return {
        "in_proj": normal(inner + channels + heads, spec.hidden_size) / 3,
        "conv_weight": normal(channels, 1, spec.mamba.conv_width),
        "conv_bias": normal(channels),
        "A_log": normal(heads),
        "D": normal(heads),
        "dt_bias": normal(heads),
        "norm": normal(inner),
        "out_proj": normal(spec.hidden_size, inner),
    }


def gated_before_norm(
    u_TD: torch.Tensor, w: dict[str, torch.Tensor], spec: DecoderSpec, num_heads: int, num_groups: int
) -> torch.Tensor:
    """in_proj, conv, recurrence and gate for `num_heads` heads in `num_groups` groups -> [T, num_heads * P]."""
    head_dim, state_size = spec.mamba.head_dim, spec.mamba.state_size
    inner, group_rows = num_heads * head_dim, num_groups * state_size
    z_TI, xbc_TC, dt_TH = (u_TD @ w["in_proj"].T).split([inner, inner + 2 * group_rows, num_heads], dim=1)
    padded_CT = F.pad(xbc_TC.T, (spec.mamba.conv_width - 1, 0))
    xbc_TC = F.silu(F.conv1d(padded_CT[None], w["conv_weight"], w["conv_bias"], groups=padded_CT.shape[0])[0].T)
    x_TI, b_TGN, c_TGN = xbc_TC.split([inner, group_rows, group_rows], dim=1)
    x_THP = x_TI.unflatten(1, (num_heads, head_dim))
    b_THN = b_TGN.unflatten(1, (num_groups, state_size)).repeat_interleave(num_heads // num_groups, dim=1)
    c_THN = c_TGN.unflatten(1, (num_groups, state_size)).repeat_interleave(num_heads // num_groups, dim=1)
    dt_TH = F.softplus(dt_TH + w["dt_bias"])
    decay_TH = torch.exp(-torch.exp(w["A_log"]) * dt_TH)
    state_HPN = torch.zeros(num_heads, head_dim, state_size, dtype=torch.float64)
    y_THP = torch.full_like(x_THP, math.nan)
    for t in range(u_TD.shape[0]):
        push_HPN = (dt_TH[t, :, None] * x_THP[t])[:, :, None] * b_THN[t, :, None, :]
        state_HPN = decay_TH[t, :, None, None] * state_HPN + push_HPN
        y_THP[t] = (state_HPN * c_THN[t, :, None, :]).sum(-1) + w["D"][:, None] * x_THP[t]
    return y_THP.flatten(1) * F.silu(z_TI)


def whole_mixer(u_TD: torch.Tensor, w: dict[str, torch.Tensor], spec: DecoderSpec) -> torch.Tensor:
    y_TI = gated_before_norm(u_TD, w, spec, spec.mamba.num_heads, spec.mamba.num_groups)
    y_TGc = y_TI.unflatten(1, (spec.mamba.num_groups, -1))
    y_TGc = y_TGc * torch.rsqrt(y_TGc.square().mean(-1, keepdim=True) + spec.norm_eps)
    return (y_TGc.flatten(1) * w["norm"]) @ w["out_proj"].T


def rank_weights(w: dict[str, torch.Tensor], spec: DecoderSpec, rank: int, tp_size: int) -> dict[str, torch.Tensor]:
    columns = shards.span(spec.mamba.inner, rank, tp_size)
    return {
        "in_proj": shards.shard_in_proj(w["in_proj"], spec.mamba, rank, tp_size),
        "conv_weight": shards.shard_conv(w["conv_weight"], spec.mamba, rank, tp_size),
        "conv_bias": shards.shard_conv(w["conv_bias"], spec.mamba, rank, tp_size),
        "A_log": shards.shard_heads(w["A_log"], spec.mamba, rank, tp_size),
        "D": shards.shard_heads(w["D"], spec.mamba, rank, tp_size),
        "dt_bias": shards.shard_heads(w["dt_bias"], spec.mamba, rank, tp_size),
        "norm": shards.shard_inner(w["norm"], spec.mamba, rank, tp_size),
        "out_proj": w["out_proj"][:, columns.start : columns.stop],
    }


def split_mixer(u_TD: torch.Tensor, w: dict[str, torch.Tensor], spec: DecoderSpec, tp_size: int) -> torch.Tensor:
    """Every rank in turn; the exchange of sums of squares and the final all-reduce are plain sums over lists."""
    num_heads = spec.mamba.num_heads // tp_size
    num_groups, group_size, _ = shards.norm_groups(spec.mamba, tp_size)
    parts = [rank_weights(w, spec, rank, tp_size) for rank in range(tp_size)]
    gated = [
        gated_before_norm(u_TD, part, spec, num_heads, num_groups).unflatten(1, (num_groups, -1)) for part in parts
    ]
    squares = [y_TGc.square().sum(-1, keepdim=True) for y_TGc in gated]
    out_TD = torch.zeros_like(u_TD)
    for rank, (part, y_TGc) in enumerate(zip(parts, gated, strict=True)):
        peers = shards.norm_peers(spec.mamba, rank, tp_size)
        total_TG1 = sum(squares[peer] for peer in peers)
        y_TI = (y_TGc * torch.rsqrt(total_TG1 / group_size + spec.norm_eps)).flatten(1)
        out_TD += (y_TI * part["norm"]) @ part["out_proj"].T
    return out_TD


def mixer_error(num_groups: int, tp_size: int) -> float:
    spec = make_spec(num_groups)
    w = mixer_weights(spec)
    u_TD = torch.randn(NUM_TOKENS, spec.hidden_size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    whole_TD = whole_mixer(u_TD, w, spec)
    return ((split_mixer(u_TD, w, spec, tp_size) - whole_TD).abs().max() / whole_TD.abs().max()).item()


@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_split_mixer_equals_whole(num_groups: int, tp_size: int) -> None:
    assert mixer_error(num_groups, tp_size) < TOLERANCE


def tile_groups(tensor, name, sections, grouped, spec, tp_size):
    """Repeats 0 1 0 1 where ranks need 0 0 1 1."""
    parts = list(tensor.split(sections))
    for index in grouped:
        parts[index] = parts[index].repeat(tp_size // spec.num_groups, *(1,) * (tensor.dim() - 1))
    return torch.cat(parts)


def repeat_rows(tensor, name, sections, grouped, spec, tp_size):
    """Repeats single rows where whole groups must be repeated."""
    parts = list(tensor.split(sections))
    for index in grouped:
        parts[index] = parts[index].repeat_interleave(tp_size // spec.num_groups, dim=0)
    return torch.cat(parts)


FAULTS = {
    "groups tiled": ("_expand", tile_groups, 2, 8),
    "rows repeated": ("_expand", repeat_rows, 2, 4),
    "norm per rank": ("norm_peers", lambda spec, rank, tp_size: range(rank, rank + 1), 2, 8),
    "norm over all ranks": ("norm_peers", lambda spec, rank, tp_size: range(tp_size), 2, 8),
    "norm over wrong neighbours": ("norm_peers", lambda spec, rank, tp_size: range(rank % 2, tp_size, 2), 2, 4),
    "norm divides by rank's part": ("norm_groups", lambda spec, tp_size: (1, spec.inner // tp_size, True), 2, 8),
    "norm divides by all of a rank": ("norm_groups", lambda spec, tp_size: (4, spec.inner // 2, False), 8, 2),
    "heads of another rank": (
        "shard_heads",
        lambda vector, spec, rank, tp_size: vector.chunk(tp_size)[tp_size - 1 - rank],
        2,
        2,
    ),
    "norm weight of another rank": (
        "shard_inner",
        lambda vector, spec, rank, tp_size: vector.chunk(tp_size)[tp_size - 1 - rank],
        2,
        2,
    ),
    "conv as one block": (
        "shard_conv",
        lambda tensor, spec, rank, tp_size: tensor.chunk(tp_size)[rank],
        8,
        4,
    ),
    "in_proj as one block": (
        "shard_in_proj",
        lambda tensor, spec, rank, tp_size: tensor.chunk(tp_size)[rank],
        8,
        4,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, broken, num_groups, tp_size = FAULTS[fault]
    assert mixer_error(num_groups, tp_size) < TOLERANCE
    monkeypatch.setattr(shards, name, broken)
    # a thousand million times the tolerance: the comparison is not a matter of rounding
    assert mixer_error(num_groups, tp_size) > 1e-2


# ---- attention and MLPs ---------------------------------------------------------------------------------------------


def attend(u_TD: torch.Tensor, q_HD, k_KD, v_KD, head_dim: int) -> torch.Tensor:
    """Causal attention without positions; query heads spread evenly over KV heads -> [T, heads * head_dim]."""
    q_HTd, k_KTd, v_KTd = ((u_TD @ w.T).unflatten(1, (-1, head_dim)).transpose(0, 1) for w in (q_HD, k_KD, v_KD))
    repeats = q_HTd.shape[0] // k_KTd.shape[0]
    k_HTd, v_HTd = k_KTd.repeat_interleave(repeats, 0), v_KTd.repeat_interleave(repeats, 0)
    return F.scaled_dot_product_attention(q_HTd, k_HTd, v_HTd, is_causal=True).transpose(0, 1).flatten(1)


def attention_error(tp_size: int, num_kv_heads: int) -> float:
    spec = make_spec(num_kv_heads=num_kv_heads)
    rng = torch.Generator().manual_seed(3)
    heads, head_dim = spec.attention.num_heads, spec.attention.head_dim

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    u_TD = normal(NUM_TOKENS, spec.hidden_size)
    q, o = normal(heads * head_dim, spec.hidden_size), normal(spec.hidden_size, heads * head_dim)
    k, v = normal(num_kv_heads * head_dim, spec.hidden_size), normal(num_kv_heads * head_dim, spec.hidden_size)
    whole_TD = attend(u_TD, q, k, v, head_dim) @ o.T
    split_TD = torch.zeros_like(whole_TD)
    for rank in range(tp_size):
        query = shards.span(heads * head_dim, rank, tp_size)
        kv = shards.kv_heads_of_rank(spec.attention, rank, tp_size)
        rows = slice(kv.start * head_dim, kv.stop * head_dim)
        part_TH = attend(u_TD, q[query.start : query.stop], k[rows], v[rows], head_dim)
        split_TD += part_TH @ o[:, query.start : query.stop].T
    return ((split_TD - whole_TD).abs().max() / whole_TD.abs().max()).item()


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_split_attention_equals_whole(tp_size: int, num_kv_heads: int) -> None:
    assert attention_error(tp_size, num_kv_heads) < TOLERANCE


@pytest.mark.parametrize("tp_size", [4, 8])
def test_round_robin_kv_heads_are_seen(tp_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "kv_heads_of_rank", lambda spec, rank, tp_size: range(rank % 2, rank % 2 + 1))
    assert attention_error(tp_size, 2) > 1e-2


def mlp_error(size: int, tp_size: int) -> float:
    rng = torch.Generator().manual_seed(4)
    u_TD = torch.randn(NUM_TOKENS, 10, generator=rng, dtype=torch.float64)
    up_ID = torch.randn(size, 10, generator=rng, dtype=torch.float64)
    down_DI = torch.randn(10, size, generator=rng, dtype=torch.float64)
    whole_TD = (u_TD @ up_ID.T).relu().square() @ down_DI.T
    split_TD = torch.zeros_like(whole_TD)
    for rank in range(tp_size):
        up, down = shards.span(size, rank, tp_size), shards.span(size, rank, tp_size)
        split_TD += (u_TD @ up_ID[up.start : up.stop].T).relu().square() @ down_DI[:, down.start : down.stop].T
    return ((split_TD - whole_TD).abs().max() / whole_TD.abs().max()).item()


@pytest.mark.parametrize(
    "size",
    [make_spec().dense.intermediate_size, make_spec().moe.shared_intermediate_size]
    + [make_spec().moe.expert_intermediate_size],
    ids=["dense", "shared expert", "routed expert"],
)
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_split_mlp_equals_whole(size: int, tp_size: int) -> None:
    assert mlp_error(size, tp_size) < TOLERANCE


def test_lost_or_doubled_columns_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = shards.span
    monkeypatch.setattr(shards, "span", lambda size, rank, tp_size: right(size, 0, tp_size))
    assert mlp_error(24, 4) > 1e-2


# ---- index facts ----------------------------------------------------------------------------------------------------


@given(
    log_heads=st.integers(0, 6),
    log_groups=st.integers(0, 6),
    log_tp=st.integers(0, 6),
    odd=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=300)
def test_every_head_finds_its_group(log_heads: int, log_groups: int, log_tp: int, odd: int) -> None:
    num_heads, num_groups, tp_size = odd << log_heads, 1 << log_groups, 1 << log_tp
    if num_heads % num_groups or num_heads % tp_size:
        return
    spec = make_spec(num_groups, num_heads).mamba
    local_groups, group_size, spans_ranks = shards.norm_groups(spec, tp_size)
    assert group_size * num_groups == spec.inner
    group_of_row = torch.arange(num_groups).repeat_interleave(spec.state_size)
    channels = torch.cat([torch.full((spec.inner,), -1), group_of_row, group_of_row + num_groups])
    for rank in range(tp_size):
        groups = shards.groups_of_rank(spec, rank, tp_size)
        assert len(groups) == local_groups
        _, b_rows, c_rows = shards.shard_conv(channels, spec, rank, tp_size).split(
            [section // tp_size for section in shards.mamba_conv_sections(spec, tp_size)]
        )
        wanted = [group for group in groups for _ in range(spec.state_size)]
        assert b_rows.tolist() == wanted
        assert c_rows.tolist() == [group + num_groups for group in wanted]
        heads = shards.span(num_heads, rank, tp_size)
        for local, head in enumerate(heads):
            assert groups[local // (len(heads) // local_groups)] == head // (num_heads // num_groups)
        assert (len(shards.norm_peers(spec, rank, tp_size)) > 1) == spans_ranks
        for peer in range(tp_size):
            shares = bool(set(groups) & set(shards.groups_of_rank(spec, peer, tp_size)))
            assert shares == (peer in shards.norm_peers(spec, rank, tp_size))


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_shards_of_all_ranks_rebuild_vectors(tp_size: int) -> None:
    spec = make_spec().mamba
    heads, inner = torch.arange(spec.num_heads), torch.arange(spec.inner)
    assert torch.cat([shards.shard_heads(heads, spec, r, tp_size) for r in range(tp_size)]).equal(heads)
    assert torch.cat([shards.shard_inner(inner, spec, r, tp_size) for r in range(tp_size)]).equal(inner)


def test_published_sections() -> None:
    spec = dataclasses.replace(make_spec().mamba, num_heads=64, head_dim=64, num_groups=8, state_size=128)
    assert shards.mamba_in_proj_sections(spec, 1) == [4096, 4096, 1024, 1024, 64]
    assert sum(shards.mamba_in_proj_sections(spec, 8)) == 10304
    assert shards.mamba_conv_sections(spec, 8) == [4096, 1024, 1024]
    assert shards.norm_groups(spec, 1) == (8, 512, False)
    assert shards.norm_groups(spec, 8) == (1, 512, False)
    # 16 ranks: 8 groups are copied twice
    assert shards.mamba_in_proj_sections(spec, 16) == [4096, 4096, 2048, 2048, 64]
    assert shards.norm_groups(spec, 16) == (1, 512, True)
    assert list(shards.norm_peers(spec, 5, 16)) == [4, 5]


def test_published_kv_heads() -> None:
    spec = dataclasses.replace(make_spec().attention, num_heads=32)
    assert [list(shards.kv_heads_of_rank(spec, rank, 1)) for rank in range(1)] == [[0, 1]]
    assert [list(shards.kv_heads_of_rank(spec, rank, 2)) for rank in range(2)] == [[0], [1]]
    assert [list(shards.kv_heads_of_rank(spec, rank, 8)) for rank in range(8)] == [[0]] * 4 + [[1]] * 4


# ---- quantised tensors and refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.bfloat16, torch.float32])
def test_rows_expand_alike_whatever_they_hold(dtype: torch.dtype) -> None:
    spec = make_spec(num_groups=2).mamba
    rows = sum(shards.mamba_in_proj_sections(spec, 1))
    # the number of its row in every entry, so that weight and scale rows can be matched after the expansion
    weight = torch.arange(rows, dtype=torch.int32)[:, None].expand(rows, 8)
    payload = torch.randint(0, 100, (rows, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    scale = payload.view(dtype) if dtype in (torch.float8_e4m3fn, torch.uint8) else payload.to(dtype)
    for rank in range(8):
        origin = shards.shard_in_proj(weight, spec, rank, 8)[:, 0]
        got = shards.shard_in_proj(scale, spec, rank, 8)
        assert got.dtype == dtype
        assert got.view(torch.uint8).equal(scale.view(torch.uint8)[origin.long()])


def test_expansion_up_to_groups_copies_nothing() -> None:
    spec = make_spec(num_groups=2).mamba
    weight = torch.zeros(sum(shards.mamba_in_proj_sections(spec, 1)), 3)
    assert shards.expand_groups_in_proj(weight, spec, 2) is weight


def test_wrong_rows_and_scalars_are_refused() -> None:
    spec = make_spec().mamba
    with pytest.raises(ValueError, match=r"in_proj has shape \(\)"):
        shards.expand_groups_in_proj(torch.tensor(0.5), spec, 8)
    with pytest.raises(ValueError, match=r"in_proj has shape \(7, 3\); dim 0 must be the 132 output rows"):
        shards.expand_groups_in_proj(torch.zeros(7, 3), spec, 8)
    with pytest.raises(ValueError, match="conv1d has shape"):
        shards.shard_conv(torch.zeros(spec.inner), spec, 0, 2)
    with pytest.raises(ValueError, match="per-head vector has shape"):
        shards.shard_heads(torch.zeros(15), spec, 0, 2)
    with pytest.raises(ValueError, match="per-channel vector has shape"):
        shards.shard_inner(torch.zeros(16), spec, 0, 2)


def test_impossible_splits_are_refused() -> None:
    spec = make_spec(num_groups=2).mamba
    with pytest.raises(ValueError, match="tp_rank=2 is outside tp_size=2"):
        shards.span(8, 2, 2)
    with pytest.raises(ValueError, match="10 cannot be split over tp_size=4"):
        shards.span(10, 0, 4)
    with pytest.raises(ValueError, match="2 cannot be replicated evenly on tp_size=3"):
        shards.replicated_span(2, 0, 3)
    with pytest.raises(ValueError, match="tp_rank=8 is outside"):
        shards.kv_heads_of_rank(make_spec().attention, 8, 8)
    with pytest.raises(ValueError, match="mamba_num_heads=16 cannot be split over tp_size=3"):
        shards.mamba_in_proj_sections(spec, 3)
