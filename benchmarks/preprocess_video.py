"""Times 128 frames of 1080p from an MP4 to the vision tower's input, ours beside SGLang's in-tree code, in one process.

    python benchmarks/preprocess_video.py                  # a file of 128 frames, every one of them taken
    python benchmarks/preprocess_video.py --frames 1920    # 64 s at 30 frames a second, of which 128 are taken

The file is made by PyAV (H.264, the encoder's default groups of pictures). In-tree's side is its own decoder and
sampling, then the loop of its processor; where its decoder (torchcodec or decord, with a system FFmpeg) does not load,
a plain PyAV decode stands in and the report says so. Rounds of all sides are interleaved; wall and processor seconds
are kept, since on a shared machine only the latter tell much. Refuses to report unless our pixels are within 1e-5 of
transformers' video processor.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from sglang.srt.multimodal.internvl_utils import video_to_pixel_values
from transformers.models.nemotron_h_omni.video_processing_nemotron_h_omni import (
    NemotronH_Omni_Reasoning_V3VideoProcessor,
)

from sglang_nemotron.config.omni import VideoRule
from sglang_nemotron.media.video.file import VideoFile, read_clip
from sglang_nemotron.media.video.sampling import Resizer, new_frames, sample_indices, video_grid
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RULE = VideoRule(
    patch_size=16,
    merge_size=2,
    target_patches=1024,
    keep_aspect=True,
    temporal_patch_size=2,
    pruning_rate=0.7,
    mean=MEAN,
    std=STD,
)
TAKEN, WIDTH, HEIGHT = 128, 1920, 1080
LIMITS = MediaLimits(max_decode_seconds=600)


def make_file(num_frames: int, rate: Fraction) -> bytes:
    """A moving picture with detail and noise, so that decoding costs what a camera's file costs."""
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT + 64, WIDTH + 64, 3), dtype=np.uint8)
    y, x = np.mgrid[0 : HEIGHT + 64, 0 : WIDTH + 64]
    scene = np.stack([x // 8 % 200, y // 5 % 200, (x + y) // 9 % 200], axis=-1).astype(np.uint8) + noise
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(num_frames):
            dx, dy = number * 3 % 64, number * 2 % 64
            view = np.ascontiguousarray(scene[dy : dy + HEIGHT, dx : dx + WIDTH])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        file.mux(stream.encode(None))
    return out.getvalue()


def in_tree_pixels(frames: list[np.ndarray]) -> torch.Tensor:
    """The loop of SGLang's processor over decoded frames, with its own function for each."""
    return torch.cat(
        [
            video_to_pixel_values(
                Image.fromarray(frame),
                patch_size=16,
                downsample_ratio=0.5,
                target_num_patches=1024,
                maintain_aspect_ratio=True,
                mean=MEAN,
                std=STD,
            )[0].to(torch.bfloat16)
            for frame in frames
        ]
    )


def our_pixels(frames: list[np.ndarray], threads: int = 1) -> torch.Tensor:
    grid = video_grid(WIDTH, HEIGHT, RULE)
    out = new_frames(len(frames), grid, RULE)

    def share(first: int) -> None:
        resizer = Resizer(grid, RULE)
        for number in range(first, len(frames), threads):
            resizer.into(frames[number], out[number])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))
    return out


def decode_plainly(data: bytes, indices: list[int]) -> list[np.ndarray]:
    """Every frame in order with FFmpeg's threads, the wanted ones converted; what a decoder without an index does."""
    wanted, frames = set(indices), []
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
    return frames


def in_tree_decode(data: bytes) -> list[np.ndarray]:
    """SGLang's `parse_video`: its decoder, its sampling at 2 frames a second and 128 frames."""
    from sglang.srt.utils.common import sample_video_frames
    from sglang.srt.utils.video_decoder import VideoDecoderWrapper

    video = VideoDecoderWrapper(data)
    return list(video.get_frames_at(sample_video_frames(video, desired_fps=2, max_frames=TAKEN)))


def in_tree_decoder_missing() -> str | None:
    """None if in-tree's decoder loads here, else why not."""
    try:
        in_tree_decode(make_file(2, Fraction(2)))
    except Exception as error:  # whatever a missing shared library raises
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def check(data: bytes) -> float:
    """Largest difference between our clip's pixels and transformers' on the first frames."""
    frames = decode_plainly(data, list(range(4)))
    batch = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    reference = NemotronH_Omni_Reasoning_V3VideoProcessor(norm_mean=list(MEAN), norm_std=list(STD))
    expected = reference(videos=[batch], return_tensors="pt")["pixel_values_videos"]
    return float((our_pixels(frames) - expected).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=TAKEN, help="frames in the file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="threads of our decoder and of our resizing")
    parser.add_argument("--torch-threads", type=int, default=1, help="torch's own threads, for both sides")
    parser.add_argument("--out", type=Path, help="raw JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.torch_threads)

    rate = Fraction(30) if args.frames > TAKEN else Fraction(2)
    data = make_file(args.frames, rate)
    indices = sample_indices(args.frames, float(rate), fps=2.0, max_frames=TAKEN)
    difference = check(data)
    if difference > 1e-5:
        raise SystemExit(f"our pixels differ from the reference by {difference}: nothing is reported")
    frames = decode_plainly(data, indices)
    options = MediaOptions(fps=2.0, max_frames=TAKEN)

    def our_decoding() -> None:
        with VideoFile(data, name="video 1", limits=LIMITS, threads=args.threads) as video:
            for frame in video.frames(indices):
                frame.to_ndarray(format="rgb24")

    missing = in_tree_decoder_missing()
    their_decoding = (lambda: decode_plainly(data, indices)) if missing else (lambda: in_tree_decode(data))
    sides: dict[str, Callable[[], object]] = {
        "in-tree decoding": their_decoding,
        "our decoding": our_decoding,
        "in-tree pixels": lambda: in_tree_pixels(frames),
        "our pixels, one thread": lambda: our_pixels(frames),
        "our pixels": lambda: our_pixels(frames, args.threads),
        "in-tree together": lambda: in_tree_pixels(their_decoding()),
        "ours together": lambda: read_clip(
            data, name="video 1", rule=RULE, options=options, limits=LIMITS, threads=args.threads
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            start, used = time.perf_counter(), time.process_time()
            side()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
    report = {
        "what": f"{len(indices)} frames of {args.frames}, {WIDTH}x{HEIGHT} H.264, {len(data):,} bytes",
        "wall_seconds": seconds,
        "processor_seconds": processor,
        "ratios_of_best": {
            f"{name}, {kind}": min(times[f"in-tree {part}"]) / min(times[name])
            for part, name in (
                ("decoding", "our decoding"),
                ("pixels", "our pixels, one thread"),
                ("pixels", "our pixels"),
                ("together", "ours together"),
            )
            for kind, times in (("wall", seconds), ("processor", processor))
        },
        "difference_from_transformers": difference,
        "in_tree_decoder": f"missing, plain PyAV instead: {missing}" if missing else "its own",
        "threads": args.threads,
        "torch_threads": args.torch_threads,
        "cpu": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
        "versions": {name: version(name) for name in ("av", "torch", "transformers", "sglang", "pillow", "numpy")},
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }
    for name, times in seconds.items():
        print(
            f"{name:24} wall: best {min(times):7.3f} s, median {statistics.median(times):7.3f} s;"
            f" processor: best {min(processor[name]):7.3f} s"
        )
    print(json.dumps({name: value for name, value in report.items() if "seconds" not in name}, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
