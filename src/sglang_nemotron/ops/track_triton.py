"""Copies states from slot to slot in every layer at once on CUDA: one launch, bit by bit, whatever the dtypes.

Shapes: L Mamba layers, S state slots, C conv channels, W conv window, H heads, P head dim, N state size, B rows.
"""

# A fixed number of programs shares the wanted rows' work: most steps want none, and a program for each possible row
# would cost more than the copy. Each counts the wanted rows itself, so that nobody waits for anybody.

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

__all__ = ["copy_states"]

# words of 4 bytes that a program moves at once
_BLOCK = 4096
_PROGRAMS_PER_PROCESSOR = 4


def copy_states(
    conv_LSCW: torch.Tensor,
    ssm_LSHPN: torch.Tensor,
    *,
    src_B: torch.Tensor,
    dst_B: torch.Tensor,
    mask_B: torch.Tensor,
) -> None:
    """Same contract as `track_reference.copy_states`; slots may lie apart, but each is dense inside.

    Raises ValueError where a slot is not dense or not a whole number of words of 2 bytes.
    """
    B, L = src_B.shape[0], ssm_LSHPN.shape[0]
    if B == 0 or L == 0:
        return
    conv, ssm = _words(conv_LSCW), _words(ssm_LSHPN)
    conv_blocks, ssm_blocks = triton.cdiv(conv.shape[2], _BLOCK), triton.cdiv(ssm.shape[2], _BLOCK)
    _copy_kernel[(min(_num_programs(ssm.device), B * L * (conv_blocks + ssm_blocks)),)](
        *(conv, ssm, src_B, dst_B, mask_B),
        *(conv.stride(0), conv.stride(1), ssm.stride(0), ssm.stride(1)),
        *(src_B.stride(0), dst_B.stride(0), mask_B.stride(0)),
        B,
        L,
        CONV_WORDS=conv.shape[2],
        SSM_WORDS=ssm.shape[2],
        CONV_BLOCKS=conv_blocks,
        SSM_BLOCKS=ssm_blocks,
        BLOCK_B=max(triton.next_power_of_2(B), 16),
        BLOCK=_BLOCK,
        num_warps=8,
    )


@functools.cache
def _num_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 3
    return torch.cuda.get_device_properties(device).multi_processor_count * _PROGRAMS_PER_PROCESSOR


def _words(pool_LS: torch.Tensor) -> torch.Tensor:
    """A pool as [L, S, words]: whatever order a slot's numbers lie in, it is copied as it lies."""
    slot = pool_LS[0, 0]
    axes = sorted(range(slot.dim()), key=slot.stride, reverse=True)
    flat_LSw = pool_LS.permute(0, 1, *(axis + 2 for axis in axes)).flatten(2) if slot.numel() else pool_LS.flatten(2)
    if flat_LSw.data_ptr() != pool_LS.data_ptr() or (slot.numel() > 1 and flat_LSw.stride(2) != 1):
        raise ValueError(f"a slot's states must lie densely; their strides are {pool_LS.stride()}")
    for word in (torch.int32, torch.int16):
        size = word.itemsize // flat_LSw.element_size() or 1
        starts = (flat_LSw.storage_offset(), flat_LSw.shape[2], *flat_LSw.stride()[:2])
        if flat_LSw.element_size() * size % word.itemsize == 0 and all(start % size == 0 for start in starts):
            return flat_LSw.view(word)
    raise ValueError(f"slots of {flat_LSw.shape[2]} x {pool_LS.dtype} are no whole words")


@triton.jit
def _move(pool, stride_l, stride_s, layer, src, dst, block, WORDS: tl.constexpr, BLOCK: tl.constexpr):
    w = block * BLOCK + tl.arange(0, BLOCK)
    base = pool + layer * stride_l
    tl.store(base + dst * stride_s + w, tl.load(base + src * stride_s + w, mask=w < WORDS), mask=w < WORDS)


@triton.jit
def _copy_kernel(
    conv,
    ssm,
    src_B,
    dst_B,
    mask_B,
    stride_conv_l,
    stride_conv_s,
    stride_ssm_l,
    stride_ssm_s,
    stride_src,
    stride_dst,
    stride_mask,
    B,
    L,
    CONV_WORDS: tl.constexpr,
    SSM_WORDS: tl.constexpr,
    CONV_BLOCKS: tl.constexpr,
    SSM_BLOCKS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.arange(0, BLOCK_B)
    wanted = (tl.load(mask_B + b * stride_mask, mask=b < B, other=0) != 0).to(tl.int32)
    # the k-th wanted row is the one where the count reaches k + 1
    count = tl.cumsum(wanted, axis=0) * wanted
    blocks: tl.constexpr = CONV_BLOCKS + SSM_BLOCKS
    for item in range(tl.program_id(0), tl.sum(wanted, axis=0) * L * blocks, tl.num_programs(0)):
        row = tl.sum(tl.where(count == item // (L * blocks) + 1, b, 0), axis=0)
        src = tl.load(src_B + row * stride_src).to(tl.int64)
        dst = tl.load(dst_B + row * stride_dst).to(tl.int64)
        layer = (item // blocks % L).to(tl.int64)
        block = item % blocks
        if block < SSM_BLOCKS:
            _move(ssm, stride_ssm_l, stride_ssm_s, layer, src, dst, block, SSM_WORDS, BLOCK)
        else:
            _move(conv, stride_conv_l, stride_conv_s, layer, src, dst, block - SSM_BLOCKS, CONV_WORDS, BLOCK)
