"""Time from the bytes of a photo to normalised pixels, ours and SGLang's own processor's, in one run.

`python benchmarks/preprocess_image.py --out FILE` writes raw JSON. Needs SGLang, no GPU, no model. The sides take turns
on the same bytes; wall time, median and least over the rounds. SGLang's side is what its processor calls
(`load_image`, `compute_budgeted_image_sizes`, `resize_image_to_pixels`, the cast to bfloat16); ours ends in float32,
and is timed with the same cast as well. "pixels" starts from decoded images: Pillow's there, `read_image`'s array
here. On busy cores compare processor times, and read `load` in the report.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import machine
from PIL import Image

from sglang_nemotron.config.omni import ImageRule
from sglang_nemotron.media.image.file import read_image
from sglang_nemotron.media.image.picture import image_budget, picture

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RULE = ImageRule(patch_size=16, merge_size=2, min_patches=1024, max_patches=13312, mean=MEAN, std=STD)
CONTEXT = 262144
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160), "12 MP": (4032, 3024)}


def photo(width: int, height: int) -> bytes:
    """A JPEG with the make-up of a photo: large soft areas, some texture, a little noise; quality 90."""
    pick = np.random.default_rng(width)
    soft = Image.fromarray(pick.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8))
    texture = Image.fromarray(pick.normal(128, 30, (height // 3 + 1, width // 3 + 1, 3)).clip(0, 255).astype(np.uint8))
    pixels = np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = (
        pixels + (np.asarray(texture.resize((width, height), Image.Resampling.BILINEAR)).astype(np.int16) - 128) // 2
    )
    pixels = pixels + pick.integers(-4, 5, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def sides(data: bytes) -> dict[str, Callable[[], torch.Tensor]]:
    """What is timed, by name."""
    from sglang.srt.multimodal.internvl_utils import compute_budgeted_image_sizes, resize_image_to_pixels  # noqa: TID251
    from sglang.srt.utils.common import load_image  # noqa: TID251

    budget = image_budget(CONTEXT, RULE)
    decoded_there, _ = load_image(data, gpu_image_decode=False)
    decoded_here = read_image(data, name="image 1")

    def pixels_there(image: Image.Image) -> torch.Tensor:
        ((width, height, _),) = compute_budgeted_image_sizes(
            [image.size], CONTEXT, RULE.patch_size, 1 / RULE.merge_size, RULE.min_patches, RULE.max_patches
        )
        return resize_image_to_pixels(image, width, height, mean=MEAN, std=STD).to(dtype=torch.bfloat16)

    return {
        "in-tree, bytes": lambda: pixels_there(load_image(data, gpu_image_decode=False)[0]),
        "ours, bytes": lambda: picture(read_image(data, name="image 1"), RULE, budget).feature,
        "ours, bytes, cast": lambda: picture(read_image(data, name="image 1"), RULE, budget).feature.bfloat16(),
        "in-tree, pixels": lambda: pixels_there(decoded_there),
        "ours, pixels": lambda: picture(decoded_here, RULE, budget).feature,
        "ours, decode": lambda: read_image(data, name="image 1"),
    }


def measure(data: bytes, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds by side; the sides take turns."""
    timed = sides(data)
    times: dict[str, list[float]] = {name: [] for name in timed}
    processor: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 2):
        for name, side in timed.items():
            began, began_processor = time.perf_counter(), time.process_time()
            made = side()
            took, took_processor = time.perf_counter() - began, time.process_time() - began_processor
            del made
            # the first two rounds fill caches
            if number > 1:
                times[name].append(1000 * took)
                processor[name].append(1000 * took_processor)
    return {
        name: {
            "median_ms": round(statistics.median(taken), 2),
            "least_ms": round(min(taken), 2),
            "processor_median_ms": round(statistics.median(processor[name]), 2),
            "processor_least_ms": round(min(processor[name]), 2),
        }
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--out", type=Path, help="raw JSON")
    options = parser.parse_args()
    results = []
    for size in options.sizes:
        data = photo(*SIZES[size])
        for threads in options.threads:
            torch.set_num_threads(threads)
            taken = measure(data, options.rounds)
            ratio = taken["in-tree, bytes"]["median_ms"] / taken["ours, bytes"]["median_ms"]
            least = taken["in-tree, bytes"]["least_ms"] / taken["ours, bytes"]["least_ms"]
            results.append(
                {"size": size, "bytes": len(data), "threads": threads, "ms": taken, "ratio": round(ratio, 2)}
            )
            print(f"{size}, {threads} threads: {ratio:.2f}x by medians, {least:.2f}x by least times")
            for name, numbers in taken.items():
                print(f"    {name:20}", " ".join(f"{what} {value:.1f}" for what, value in numbers.items()))
    command = " ".join(["python", "benchmarks/preprocess_image.py", *sys.argv[1:]])
    report = {"command": command, "machine": machine(["sglang", "torch", "torchvision", "pillow"]), "results": results}
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
