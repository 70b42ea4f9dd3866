"""What Triton kernels of the mixer compute number by number: softplus, SiLU, and fp16 rounded at random.

Device functions alone. Shapes: BLOCK_P rows and BLOCK_N columns of a block of states.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["random_13", "rounded_at_random", "silu", "softplus"]


@triton.jit
def softplus(x):
    # log(1 + e) as 2 atanh(e / (2 + e)): a logarithm of a number near 1 has lost the digits that make a small dt
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    q = s * s
    series = 1.0 / 15.0 + q * (1.0 / 17.0)
    series = 1.0 / 13.0 + q * series
    series = 1.0 / 11.0 + q * series
    series = 1.0 / 9.0 + q * series
    series = 1.0 / 7.0 + q * series
    series = 1.0 / 5.0 + q * series
    series = 1.0 / 3.0 + q * series
    return tl.maximum(x, 0.0) + 2.0 * s * (1.0 + q * series)


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _philox(c0, c1, c2, c3, seed, ROUNDS: tl.constexpr):
    # triton.language has one that asks for the upper and the lower half of each product separately, twice the work
    k0, k1 = (seed & 0xFFFFFFFF).to(tl.uint32), ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        p0, p1 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def random_13(seed, slot, stream, first_row, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, ROUNDS: tl.constexpr):
    # [BLOCK_P, BLOCK_N] words of 13 random bits: one Philox call serves eight neighbours
    row = first_row + tl.arange(0, BLOCK_P)
    count = (row[:, None] * (BLOCK_N // 8) + tl.arange(0, BLOCK_N // 8)[None, :]).to(tl.uint32)
    zero = count * 0
    w0, w1, w2, w3 = _philox(count, zero + slot.to(tl.uint32), zero + stream.to(tl.uint32), zero, seed, ROUNDS)
    even = tl.join(tl.join(w0 & 0x1FFF, w0 >> 19), tl.join(w1 & 0x1FFF, w1 >> 19))
    odd = tl.join(tl.join(w2 & 0x1FFF, w2 >> 19), tl.join(w3 & 0x1FFF, w3 >> 19))
    return tl.reshape(tl.join(even, odd), [BLOCK_P, BLOCK_N])


@triton.jit
def rounded_at_random(value, random):
    # `value` is 2^-112 of what is meant: that makes fp16's smallest exponent fp32's, and a number of any size loses its
    # last 13 bits
    bits = value.to(tl.uint32, bitcast=True) + random
    return ((bits & 0xFFFFE000).to(tl.float32, bitcast=True) * 5192296858534827628530496329220096.0).to(tl.float16)
