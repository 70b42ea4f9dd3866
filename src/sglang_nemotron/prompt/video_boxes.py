"""An MP4 or QuickTime file comes in; whether its header tells of all of its frames goes out. Nothing is decoded."""

from __future__ import annotations

import io
from typing import BinaryIO

# top-level boxes: an ordinary file has a type (ftyp), a header (moov), media (mdat) and perhaps some padding
MOST_BOXES = 100


def is_whole(file: BinaryIO) -> bool:
    """True for one header (moov) that the whole file obeys; False for a file in fragments (moof), or another format.

    A table of all times tells how far frames are out of order; fragments come with tables of their own, too late for
    FFmpeg to have looked. Source: ISO/IEC 14496-12, section 4.2.
    """
    end = file.seek(0, io.SEEK_END)
    at, kinds = 0, set()
    for _ in range(MOST_BOXES):
        if at >= end:
            return at == end and b"moov" in kinds and b"ftyp" in kinds
        file.seek(at)
        head = file.read(16)
        size, kind, least = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, least = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:
            size = end - at
        if size < least or kind == b"moof":
            return False
        kinds.add(kind)
        at += size
    return False
