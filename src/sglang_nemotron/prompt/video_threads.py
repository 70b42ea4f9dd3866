"""The size of a video's frames comes in; how many threads decode them goes out."""

from __future__ import annotations

# frames depend on each other, so that threads which decode often wait for each other: so many more than there are to
# resize save a tenth of the time, if what they keep fits MORE_BYTES. Where frames are passed over, FEW_MORE do as well
FEW_MORE, MORE_TO_DECODE = 2, 10
MORE_BYTES = 100 << 20
# FFmpeg advises against more
MOST_TO_DECODE = 16
# frames that each of them keeps, as measured, in the usual format (those of 10 bits take twice as much)
KEPT_FRAMES, FRAME_BYTES_PER_PIXEL = 3, 1.5


def num_to_decode(threads: int, num_pixels: int, num_ranges: int) -> int:
    """Threads that decode frames of `num_pixels` >= 1 while `threads` resize them.

    num_ranges: of packets that are decoded, between which others are passed over.
    """
    fit = int(MORE_BYTES / (KEPT_FRAMES * FRAME_BYTES_PER_PIXEL * num_pixels))
    wanted = MORE_TO_DECODE if num_ranges == 1 else FEW_MORE
    return threads + max(FEW_MORE, min(wanted, fit, MOST_TO_DECODE - threads))
