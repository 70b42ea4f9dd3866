"""Rows of uint8 pixels come in, weighted sums of them go out in float32: the first pass of a resize, compiled.

As products of matrices it costs twice as much: half of a band's weights are zeros, and the pixels must be turned into
numbers beforehand. Compiling takes about two seconds and is done on import: a worker does it before it says ready.

Shape letters: as in `resize.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numba import types

from sglang_nemotron.media.pixels import PACKED

# rows that one sweep over a result adds up: more would not fit the registers, fewer load and store the result too often
ROWS_AT_ONCE = 4

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_PLACES = types.Array(types.int64, 1, "C", readonly=True)
_WEIGHTS = _NORMS = types.Array(types.float32, 2, "C", readonly=True)


def whole_sweeps(weights_OT: np.ndarray) -> np.ndarray:
    """weights_OT with zeros added up to a multiple of ROWS_AT_ONCE, float32."""
    more = -weights_OT.shape[1] % ROWS_AT_ONCE
    return np.ascontiguousarray(np.pad(weights_OT, ((0, 0), (0, more))), dtype=np.float32)


@numba.njit(
    [types.void(_BYTES, types.int64, _PLACES, _WEIGHTS, types.float32, types.float32, types.float32[:, ::1])],
    nogil=True,
    fastmath=True,
)
def sum_rows(
    bytes_S: np.ndarray,
    step: int,
    first_R: np.ndarray,
    weights_RT: np.ndarray,
    scale: float,
    shift: float,
    out_RX: np.ndarray,
) -> None:
    """out[r] = shift + scale * the sum over t of weights[r, t] * row[first[r] + t]; rows past the last weigh nothing.

    bytes_S: the picture's memory, first row first; step: bytes from one row to the next. first_R: int64. weights_RT: as
    `whole_sweeps` makes them. The interpreter's lock is not held.
    """
    num_rows, width = out_RX.shape
    last = (len(bytes_S) - width) // step
    for row in range(num_rows):
        out_X = out_RX[row]
        for tap in range(0, weights_RT.shape[1], ROWS_AT_ONCE):
            at = first_R[row] + tap
            # a tap that weighs nothing may lie beyond the last row: any row will do for it
            a, b, c, d = (
                min(at, last) * step,
                min(at + 1, last) * step,
                min(at + 2, last) * step,
                min(at + 3, last) * step,
            )
            row_a, row_b = bytes_S[a : a + width], bytes_S[b : b + width]
            row_c, row_d = bytes_S[c : c + width], bytes_S[d : d + width]
            wa, wb = scale * weights_RT[row, tap], scale * weights_RT[row, tap + 1]
            wc, wd = scale * weights_RT[row, tap + 2], scale * weights_RT[row, tap + 3]
            if tap == 0:
                for x in range(width):
                    out_X[x] = shift + (
                        wa * np.float32(row_a[x])
                        + wb * np.float32(row_b[x])
                        + wc * np.float32(row_c[x])
                        + wd * np.float32(row_d[x])
                    )
            else:
                for x in range(width):
                    out_X[x] += (
                        wa * np.float32(row_a[x])
                        + wb * np.float32(row_b[x])
                        + wc * np.float32(row_c[x])
                        + wd * np.float32(row_d[x])
                    )


def _pixel_summer(pixel_bytes: int) -> Callable[..., None]:
    @numba.njit(
        [
            types.void(
                *(_BYTES, types.int64, _PLACES, _WEIGHTS, _NORMS, types.float32[:, ::1], types.float32[:, ::1]),
                types.float32[:, ::1],
            )
        ],
        nogil=True,
        fastmath=True,
    )
    def sum_pixels(
        bytes_S: np.ndarray,
        step: int,
        first_R: np.ndarray,
        weights_RT: np.ndarray,
        norms_CN: np.ndarray,
        red_RX: np.ndarray,
        green_RX: np.ndarray,
        blue_RX: np.ndarray,
    ) -> None:
        num_rows, width = red_RX.shape
        length = pixel_bytes * (width - 1) + 3
        last = (len(bytes_S) - length) // step
        for row in range(num_rows):
            red_X, green_X, blue_X = red_RX[row], green_RX[row], blue_RX[row]
            for tap in range(0, weights_RT.shape[1], ROWS_AT_ONCE):
                at = first_R[row] + tap
                a, b, c, d = (
                    min(at, last) * step,
                    min(at + 1, last) * step,
                    min(at + 2, last) * step,
                    min(at + 3, last) * step,
                )
                row_a, row_b = bytes_S[a : a + length], bytes_S[b : b + length]
                row_c, row_d = bytes_S[c : c + length], bytes_S[d : d + length]
                wa, wb = weights_RT[row, tap], weights_RT[row, tap + 1]
                wc, wd = weights_RT[row, tap + 2], weights_RT[row, tap + 3]
                # each scale rides in the weights
                ra, rb, rc, rd = wa * norms_CN[0, 0], wb * norms_CN[0, 0], wc * norms_CN[0, 0], wd * norms_CN[0, 0]
                ga, gb, gc, gd = wa * norms_CN[1, 0], wb * norms_CN[1, 0], wc * norms_CN[1, 0], wd * norms_CN[1, 0]
                ba, bb, bc, bd = wa * norms_CN[2, 0], wb * norms_CN[2, 0], wc * norms_CN[2, 0], wd * norms_CN[2, 0]
                if tap == 0:
                    red_X[:], green_X[:], blue_X[:] = norms_CN[0, 1], norms_CN[1, 1], norms_CN[2, 1]
                for x in range(width):
                    y = pixel_bytes * x
                    red_X[x] += (
                        ra * np.float32(row_a[y])
                        + rb * np.float32(row_b[y])
                        + rc * np.float32(row_c[y])
                        + rd * np.float32(row_d[y])
                    )
                    green_X[x] += (
                        ga * np.float32(row_a[y + 1])
                        + gb * np.float32(row_b[y + 1])
                        + gc * np.float32(row_c[y + 1])
                        + gd * np.float32(row_d[y + 1])
                    )
                    blue_X[x] += (
                        ba * np.float32(row_a[y + 2])
                        + bb * np.float32(row_b[y + 2])
                        + bc * np.float32(row_c[y + 2])
                        + bd * np.float32(row_d[y + 2])
                    )

    return sum_pixels


# by the bytes of a pixel, of which the first three are red, green and blue: as `sum_rows`, of each colour apart.
# norms_CN: its scale and its shift. One machine code for each, which knows how far pixels are apart
sum_pixels = {pixel_bytes: _pixel_summer(pixel_bytes) for pixel_bytes in PACKED}
