"""Rows of float32 come in, weighted sums along each of them go out: the second pass of a resize, compiled.

Neighbouring results need almost the same sources, so a tile of ROWS x COLUMNS results takes one source of every row at
a time and adds it to all of its columns, with a vector of weights of which some are zeros. That is a small product of
matrices; a library for those spends four times as long on so many of this size. The tile is written in LLVM's own
language, since a loop over COLUMNS alone is too short for its compiler to make vectors of.

Shape letters: as in `resize.py`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# down, as many sums at once as keep two multipliers busy, for which every processor has registers; across, as wide as
# they are without AVX-512. Wider tiles multiply more zeros, and were no faster where they fit
ROWS, COLUMNS = 8, 8

_FLOAT_BYTES = 4
_INDEX, _FLOAT = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, COLUMNS)


def _typed_tile(
    typing_context: Any,
    source: Any,
    step: Any,
    weights: Any,
    num_taps: Any,
    scale: Any,
    shift: Any,
    out: Any,
    out_step: Any,
) -> Any:
    """out[r, c] = shift + scale * the sum over k of weights[k, c] * source[r * step + k].

    source, weights, out: addresses of float32. weights: num_taps >= 1 rows of COLUMNS. step, out_step: floats.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _write_tile(builder, args)
        return context.get_dummy_value()

    place, number = types.intp, types.float32
    return types.void(place, place, place, place, number, number, place, place), generate


def _write_tile(builder: Any, arguments: Any) -> None:
    """The instructions of a tile. arguments: the values of those of `_typed_tile`."""
    source, step, weights, num_taps, scale, shift, out, out_step = arguments
    rows = [builder.add(source, _times(builder, step, row)) for row in range(ROWS)]
    before, loop, done = builder.block, *(builder.append_basic_block(name) for name in ("tap", "done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    tap, sums = builder.phi(_INDEX), [builder.phi(_VECTOR) for _ in range(ROWS)]
    weight = _load(builder, _VECTOR, builder.add(weights, _times(builder, tap, COLUMNS)))
    along = _times(builder, tap, 1)
    values = [_spread(builder, _load(builder, _FLOAT, builder.add(row, along))) for row in rows]
    added = [_multiply_add(builder, weight, value, total) for value, total in zip(values, sums, strict=True)]
    following = builder.add(tap, _INDEX(1))
    starts = [_INDEX(0), *[_VECTOR([0.0] * COLUMNS)] * ROWS]
    for carried, start, later in zip([tap, *sums], starts, [following, *added], strict=True):
        carried.add_incoming(start, before)
        carried.add_incoming(later, loop)
    builder.cbranch(builder.icmp_signed("<", following, num_taps), loop, done)
    builder.position_at_end(done)
    scale, shift = _spread(builder, scale), _spread(builder, shift)
    for row, total in enumerate(added):
        at = builder.add(out, _times(builder, out_step, row))
        made = _multiply_add(builder, total, scale, shift)
        builder.store(made, builder.inttoptr(at, _VECTOR.as_pointer()), align=_FLOAT_BYTES)


_sum_tile: Any = intrinsic(_typed_tile)


def _times(builder: Any, floats: Any, number: int) -> Any:
    """Bytes of so many floats, `number` times."""
    return builder.mul(floats, _INDEX(_FLOAT_BYTES * number))


def _load(builder: Any, kind: Any, at: Any) -> Any:
    return builder.load(builder.inttoptr(at, kind.as_pointer()), align=_FLOAT_BYTES)


def _spread(builder: Any, value: Any) -> Any:
    """A vector of equal numbers."""
    unset, first = ir.Constant(_VECTOR, ir.Undefined), ir.VectorType(ir.IntType(32), COLUMNS)
    one = builder.insert_element(unset, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, unset, first([0] * COLUMNS))


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c; the product need not be rounded in between."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


@numba.njit(
    [
        types.void(
            types.float32[:, ::1],
            types.Array(types.int64, 1, "C", readonly=True),
            types.Array(types.float32, 3, "C", readonly=True),
            types.float32,
            types.float32,
            types.float32[:, ::1],
            types.float32[:, ::1],
        )
    ],
    nogil=True,
)
def sum_columns(
    tall_RW: np.ndarray,
    first_B: np.ndarray,
    weights_BKO: np.ndarray,
    scale: float,
    shift: float,
    spare_RO: np.ndarray,
    out_RQ: np.ndarray,
) -> None:
    """out[r, q] = shift + scale * the sum over k of weights[b, k, o] * tall[r, first[b] + k].

    q = COLUMNS * b + o. tall_RW: at least as many rows as out_RQ, rounded up to whole ROWS; what is in the further ones
    does not matter. spare_RO: ROWS x COLUMNS of scratch. The interpreter's lock is not held.
    """
    num_rows, num_columns = out_RQ.shape
    num_bands, num_taps = weights_BKO.shape[:2]
    step = tall_RW.shape[1]
    for row in range(0, num_rows, ROWS):
        down = min(ROWS, num_rows - row)
        for band in range(num_bands):
            left = COLUMNS * band
            across = min(COLUMNS, num_columns - left)
            source = tall_RW.ctypes.data + _FLOAT_BYTES * (row * step + first_B[band])
            weights = weights_BKO.ctypes.data + _FLOAT_BYTES * COLUMNS * num_taps * band
            if down == ROWS and across == COLUMNS:
                out = out_RQ.ctypes.data + _FLOAT_BYTES * (row * num_columns + left)
                _sum_tile(source, step, weights, num_taps, scale, shift, out, num_columns)
            else:
                _sum_tile(source, step, weights, num_taps, scale, shift, spare_RO.ctypes.data, COLUMNS)
                for place in range(down * across):
                    out_RQ[row + place // across, left + place % across] = spare_RO[place // across, place % across]
