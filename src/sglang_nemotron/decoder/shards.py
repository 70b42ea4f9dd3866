"""A full parameter, a layer's spec, a rank and a TP size come in; what that rank holds of it goes out.

Pure index arithmetic on torch tensors: this file must never know SGLang, a process group or a tensor's name.

Legend: H Mamba heads, P head dim, I = H * P inner channels, G groups, N state size; r a rank, R = tp_size.
"""

# A rank holds H/R whole heads and the groups those heads read. While R <= G a rank holds G/R whole groups; above,
# R/G neighbouring ranks read the same group, and each keeps a copy of that group's B and C. The gated norm is taken
# over a whole group, so above G its sum of squares crosses those R/G ranks.
#
# Quantised checkpoints: a tensor is split or expanded along its output rows, dim 0, whatever the other dims are. An
# FP8 weight has one scale for all rows, which stays as it is (these functions refuse a scalar); an NVFP4 weight has
# `weight_scale` with the same rows as the packed weight, and both are expanded, while `weight_scale_2` is a scalar.

from __future__ import annotations

import torch

from sglang_nemotron.config.layers import AttentionSpec, MambaSpec


def span(size: int, tp_rank: int, tp_size: int) -> range:
    """The slice of `size` equal things (columns, heads, vocabulary rows) that a rank holds; ValueError if uneven."""
    _check_rank(tp_rank, tp_size)
    if size % tp_size:
        raise ValueError(f"{size} cannot be split over tp_size={tp_size}")
    each = size // tp_size
    return range(tp_rank * each, (tp_rank + 1) * each)


def replicated_span(count: int, tp_rank: int, tp_size: int) -> range:
    """As `span`, but above `count` ranks neighbours share one: rank r then holds only r * count // tp_size."""
    _check_rank(tp_rank, tp_size)
    if count >= tp_size:
        return span(count, tp_rank, tp_size)
    return span(count, tp_rank // span_ratio(count, tp_size), count)


def span_ratio(count: int, tp_size: int) -> int:
    """How many neighbouring ranks hold a copy of the same thing: 1 up to `count` ranks, tp_size / count above."""
    if count >= tp_size:
        return 1
    if tp_size % count:
        raise ValueError(f"{count} cannot be replicated evenly on tp_size={tp_size}")
    return tp_size // count


def kv_heads_of_rank(spec: AttentionSpec, tp_rank: int, tp_size: int) -> range:
    """The KV heads, by their number in the model, that this rank keeps; its query heads read no others."""
    return replicated_span(spec.num_kv_heads, tp_rank, tp_size)


def groups_of_rank(spec: MambaSpec, tp_rank: int, tp_size: int) -> range:
    """The Mamba groups, by their number in the model, that this rank keeps; its heads read no others."""
    return replicated_span(spec.num_groups, tp_rank, tp_size)


def norm_groups(spec: MambaSpec, tp_size: int) -> tuple[int, int, bool]:
    """How a rank takes the gated norm: (groups it touches, channels of a whole group, whether a group spans ranks).

    If groups span ranks, a rank holds a tp_size / G-th of its one group: its sum of squares must be added over
    `norm_peers`, and the mean divides by the channels of the whole group.
    """
    spec.check_parallel(tp_size)
    spans_ranks = tp_size > spec.num_groups
    return max(spec.num_groups // tp_size, 1), spec.inner // spec.num_groups, spans_ranks


def norm_peers(spec: MambaSpec, tp_rank: int, tp_size: int) -> range:
    """The ranks, this one included, whose channels belong to this rank's groups; just this rank up to G ranks."""
    _check_rank(tp_rank, tp_size)
    ratio = span_ratio(spec.num_groups, tp_size)
    first = tp_rank // ratio * ratio
    return range(first, first + ratio)


def mamba_in_proj_sections(spec: MambaSpec, tp_size: int) -> list[int]:
    """Output rows of the expanded in_proj, to be split section by section: gate z, x, B, C, dt."""
    spec.check_parallel(tp_size)
    group_rows = max(spec.num_groups, tp_size) * spec.state_size
    return [spec.inner, spec.inner, group_rows, group_rows, spec.num_heads]


def mamba_conv_sections(spec: MambaSpec, tp_size: int) -> list[int]:
    """Channels of the expanded convolution, to be split section by section: x, B, C."""
    return mamba_in_proj_sections(spec, tp_size)[1:4]


def expand_groups_in_proj(tensor: torch.Tensor, spec: MambaSpec, tp_size: int) -> torch.Tensor:
    """The checkpoint's in_proj with B and C rows repeated, so that plain section splits give a rank its own group.

    `tensor` [2 * I + 2 * G * N + H, ...]: a weight, or scales with one row per output. Up to G ranks it is returned
    as it is. ValueError if dim 0 is not the fused output.
    """
    return _expand(tensor, "in_proj", mamba_in_proj_sections(spec, 1), (2, 3), spec, tp_size)


def expand_groups_conv(tensor: torch.Tensor, spec: MambaSpec, tp_size: int) -> torch.Tensor:
    """The checkpoint's conv weight [I + 2 * G * N, 1, K] or bias [I + 2 * G * N], B and C rows repeated likewise."""
    return _expand(tensor, "conv1d", mamba_conv_sections(spec, 1), (1, 2), spec, tp_size)


def shard_sections(tensor: torch.Tensor, sections: list[int], tp_rank: int, tp_size: int) -> torch.Tensor:
    """This rank's part of every section of dim 0, joined: what a merged column-parallel linear loads."""
    _check_rows(tensor, "tensor", sections)
    parts = (_rows(part, span(part.shape[0], tp_rank, tp_size)) for part in tensor.split(sections))
    return torch.cat(tuple(parts))


def shard_in_proj(tensor: torch.Tensor, spec: MambaSpec, tp_rank: int, tp_size: int) -> torch.Tensor:
    """This rank's rows of the checkpoint's in_proj (not yet expanded): z, x, B, C, dt."""
    expanded = expand_groups_in_proj(tensor, spec, tp_size)
    return shard_sections(expanded, mamba_in_proj_sections(spec, tp_size), tp_rank, tp_size)


def shard_conv(tensor: torch.Tensor, spec: MambaSpec, tp_rank: int, tp_size: int) -> torch.Tensor:
    """This rank's rows of the checkpoint's conv weight or bias (not yet expanded): x, B, C."""
    expanded = expand_groups_conv(tensor, spec, tp_size)
    return shard_sections(expanded, mamba_conv_sections(spec, tp_size), tp_rank, tp_size)


def shard_heads(vector_H: torch.Tensor, spec: MambaSpec, tp_rank: int, tp_size: int) -> torch.Tensor:
    """This rank's heads of a per-head vector [H]: A_log, D, dt_bias."""
    _check_rows(vector_H, "per-head vector", [spec.num_heads])
    return _rows(vector_H, span(spec.num_heads, tp_rank, tp_size))


def shard_inner(vector_I: torch.Tensor, spec: MambaSpec, tp_rank: int, tp_size: int) -> torch.Tensor:
    """This rank's channels of a per-channel vector [I]: the gated norm's weight."""
    _check_rows(vector_I, "per-channel vector", [spec.inner])
    return _rows(vector_I, span(spec.inner, tp_rank, tp_size))


def _expand(
    tensor: torch.Tensor, name: str, sections: list[int], grouped: tuple[int, ...], spec: MambaSpec, tp_size: int
) -> torch.Tensor:
    spec.check_parallel(tp_size)
    _check_rows(tensor, name, sections)
    copies = span_ratio(spec.num_groups, tp_size)
    if copies == 1:
        return tensor
    parts = list(tensor.split(sections))
    for index in grouped:
        by_group = parts[index].unflatten(0, (spec.num_groups, spec.state_size))
        # copies of one group lie side by side, because the ranks that read it do
        parts[index] = by_group.repeat_interleave(copies, dim=0).flatten(0, 1)
    return torch.cat(parts)


def _check_rank(tp_rank: int, tp_size: int) -> None:
    if not 0 <= tp_rank < tp_size:
        raise ValueError(f"tp_rank={tp_rank} is outside tp_size={tp_size}")


def _rows(tensor: torch.Tensor, rows: range) -> torch.Tensor:
    return tensor[rows.start : rows.stop]


def _check_rows(tensor: torch.Tensor, name: str, sections: list[int]) -> None:
    if tensor.dim() == 0 or tensor.shape[0] != sum(sections):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; dim 0 must be the {sum(sections)} output rows {sections}"
        )
