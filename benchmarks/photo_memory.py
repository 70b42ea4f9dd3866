"""What it buys to read a photo's pixels where Pillow keeps them: time and memory.

`python benchmarks/photo_memory.py --out FILE` writes raw JSON. Needs no GPU, no SGLang, no model. A photo goes from its
bytes to features as in a media worker: two threads beside the decoder, the result in a file in shared memory, Pillow's
blocks of 1 GB. The sides:

    in place     media/image/memory.py: pixels are resized where Pillow keeps them
    copied       they are copied to where numpy has them, four bytes each
    plain        as anybody would write it: `numpy.asarray(image)`, three bytes each

`photo_memory.json` has one more, measured before it was dropped: `followed`, whose rows of a JPEG were resized while
others were decoded. It took 0 to 2 % less time than `in place` for three of the four photos and 17 % less for a JPEG of
12 MP (14 and 16 % in two runs before; 0 if it had to be turned upright), and relied on the order in which Pillow
writes and on a byte that means nothing.

Times: the sides take turns on the same bytes in one process. Wall time; processor time of all threads; and that of the
one that decodes, which is what a photo takes where every thread has a processor to itself, whatever else the machine
does (but for the last rows of another thread's, a millisecond). Memory: a process for each side
and photo, in which a small photo went before; what it takes at most beyond what it had, the result included. All sides
must give equal features, or nothing is reported.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# before Pillow is loaded, and as reader/pool.py has it for a worker
os.environ |= {"PILLOW_BLOCK_SIZE": "1024m", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import torch
from machine import machine
from PIL import Image

from sglang_nemotron.config.omni import ImageRule, OmniSpec
from sglang_nemotron.media.features import MediaFeatures, ReadRequest
from sglang_nemotron.media.measure import measure
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions
from sglang_nemotron.reader.arena import Arena
from sglang_nemotron.reader.threads import SideThreads

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RULE = ImageRule(patch_size=16, merge_size=2, min_patches=1024, max_patches=13312, mean=MEAN, std=STD)
# an image asks for nothing else of it
SPEC = mock.Mock(spec=OmniSpec, image=RULE)
STAMP = f"sgl_shm_mm_{os.getpid()}_photo_"
SIZES = {"1080p": (1920, 1080), "12 MP": (4000, 3000)}
KINDS = ("JPEG", "PNG")
SIDES = ("in place", "copied", "plain")


def photo(width: int, height: int, kind: str) -> bytes:
    """A photo's make-up: large soft areas, some texture, a little noise; a JPEG of quality 90, or a PNG."""
    from preprocess_image import photo as jpeg

    data = jpeg(width, height)
    if kind == "JPEG":
        return data
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, kind)
    return out.getvalue()


def copied(image: Image.Image) -> np.ndarray:
    return np.frombuffer(image.tobytes("raw", "RGBX"), dtype=np.uint8).reshape(image.height, image.width, 4)


@contextlib.contextmanager
def side(name: str) -> Iterator[None]:
    from sglang_nemotron.media.image import file

    replaced = {"copied": copied, "plain": np.asarray}.get(name)
    with mock.patch.object(file, "pixels_of", replaced) if replaced else contextlib.nullcontext():
        yield


def read(data: bytes, beside: SideThreads) -> tuple[MediaFeatures, Arena]:
    """As reader/worker.py does it, but for the file that is handed on."""
    arena = Arena(torch.bfloat16, STAMP)
    beside.keep_away()
    request = ReadRequest("image", "image 1", MediaOptions(), RULE.max_patches)
    (made,) = measure(request, data, SPEC, MediaLimits(), beside, arena.new)
    return made, arena


def times(data: bytes, rounds: int, beside: SideThreads) -> dict[str, dict[str, float]]:
    """Milliseconds by side; the sides take turns. SystemExit if their features differ."""
    wall: dict[str, list[float]] = {name: [] for name in SIDES}
    processor: dict[str, list[float]] = {name: [] for name in SIDES}
    decoder: dict[str, list[float]] = {name: [] for name in SIDES}
    first = None
    for number in range(rounds + 2):
        for name in SIDES:
            with side(name):
                began = time.perf_counter(), time.process_time(), time.thread_time()
                made, arena = read(data, beside)
                ended = time.perf_counter(), time.process_time(), time.thread_time()
            first = made.feature.clone() if first is None else first
            if not torch.equal(made.feature, first):
                raise SystemExit(f"{name}: the features differ; nothing is reported")
            del made
            arena.clear()
            # the first two rounds fill caches
            if number > 1:
                for times_of, start, end in zip((wall, processor, decoder), began, ended, strict=True):
                    times_of[name].append(1000 * (end - start))
    return {
        name: {
            "median_ms": round(statistics.median(wall[name]), 2),
            "least_ms": round(min(wall[name]), 2),
            "processor_median_ms": round(statistics.median(processor[name]), 2),
            "decoder_median_ms": round(statistics.median(decoder[name]), 2),
            "decoder_least_ms": round(min(decoder[name]), 2),
        }
        for name in SIDES
    }


def peak(name: str, data: bytes) -> int:
    """Bytes that this process takes for the photo beyond what it has, at most."""
    with SideThreads(2) as beside, side(name):
        _, arena = read(photo(640, 480, "JPEG"), beside)
        arena.clear()
        # the highest so far starts anew from what there is now
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        _, arena = read(data, beside)
        arena.clear()
        return status("VmHWM") - before


def status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def peaks(data: bytes) -> dict[str, float]:
    """MB by side."""
    found = {}
    for name in SIDES:
        command = [sys.executable, __file__, "--peak", name]
        done = subprocess.run(command, input=data, capture_output=True, check=True)
        found[name] = round(int(done.stdout) / 1e6, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, help="raw JSON")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak(options.peak, sys.stdin.buffer.read()))
        return
    results = []
    with SideThreads(2) as beside:
        for size, kind in [(size, kind) for size in options.sizes for kind in options.kinds]:
            data = photo(*SIZES[size], kind)
            result = {"photo": f"{size} {kind}", "bytes": len(data)}
            result |= {"ms": times(data, options.rounds, beside), "peak_mb": peaks(data)}
            results.append(result)
            print(result["photo"])
            for name in SIDES:
                shown = " ".join(f"{what} {value:.1f}" for what, value in result["ms"][name].items())
                print(f"    {name:12} {shown} peak {result['peak_mb'][name]:.1f} MB", flush=True)
    command = " ".join(["python", "benchmarks/photo_memory.py", *sys.argv[1:]])
    report = {"command": command, "machine": machine(["torch", "pillow", "numpy", "numba"]), "results": results}
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
