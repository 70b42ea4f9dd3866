"""A small whole file and a seed come in; the file as somebody might have damaged it on purpose goes out. Pure.

The same seed gives the same bytes, so that what was found once is found again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

# what a length, a count or a rate of a header is set to
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF)
_WIDTHS = ("B", "<H", ">H", "<I", ">I", "<Q", ">Q")
# of a header: where most lies are told
_HEAD = 400


def cut(data: bytes, pick: random.Random) -> bytes:
    return data[: pick.randrange(len(data))]


def lie(data: bytes, pick: random.Random) -> bytes:
    """One to four fields of the header, of any width and order of bytes, say something extreme."""
    made = bytearray(data)
    for _ in range(pick.randint(1, 4)):
        width = pick.choice(_WIDTHS)
        size = struct.calcsize(width)
        at = pick.randrange(max(1, min(len(made), _HEAD) - size))
        value = pick.choice(_EXTREMES) & ((1 << 8 * size) - 1)
        made[at : at + size] = struct.pack(width, value)
    return bytes(made)


def noise(data: bytes, pick: random.Random) -> bytes:
    """Up to 1 % of the bytes, at least one, are others."""
    made = bytearray(data)
    for _ in range(pick.randint(1, max(1, len(made) // 100))):
        made[pick.randrange(len(made))] = pick.randrange(256)
    return bytes(made)


def repeated(data: bytes, pick: random.Random) -> bytes:
    """A piece of the file stands there many times: chunks, boxes, frames or pages."""
    start = pick.randrange(len(data))
    stop = min(len(data), start + pick.choice((1, 8, 64, 512)))
    return data[:start] + data[start:stop] * pick.choice((2, 50, 1000)) + data[stop:]


def without(data: bytes, pick: random.Random) -> bytes:
    """A piece of the file is missing."""
    start = pick.randrange(len(data))
    return data[:start] + data[start + pick.choice((1, 4, 16, 100)) :]


def spliced(data: bytes, other: bytes, pick: random.Random) -> bytes:
    """One file begins and another goes on, or stands in its middle."""
    at = pick.randrange(len(data))
    return data[:at] + (other if pick.random() < 0.5 else other[pick.randrange(len(other)) :] + data[at:])


_ALONE: Sequence[Callable[[bytes, random.Random], bytes]] = (cut, lie, lie, lie, noise, noise, repeated, without)


def mutated(data: bytes, others: Sequence[bytes], seed: int) -> bytes:
    """The file after one or two of these."""
    pick = random.Random(seed)
    for _ in range(pick.choice((1, 1, 2))):
        if not data:
            break
        with_other = pick.random() < 0.1
        data = spliced(data, pick.choice(others), pick) if with_other else pick.choice(_ALONE)(data, pick)
    return data
