"""Time to first token and throughput of the full-size Omni model, SGLang's own classes against ours, on one GPU.

    python benchmarks/gpu/omni.py --model DIR --out benchmarks/gpu_omni.json

DIR holds config, tokenizer and template (`--write-model DIR` makes it); weights are random
at a realistic scale (hook/dummy_weights.py, which also times encoders and prefills). Each side gets a server of its own
with the same flags, one after the other. Every request carries media of its own, so that no cache answers.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import re
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from omni_media import photo_url, sound_base64, video_url  # noqa: E402
from text import Server, class_lines, machine  # noqa: E402

PORT = 30000
FLAGS = ["--load-format", "dummy", "--moe-runner-backend", "triton", "--context-length", "65536"]
FLAGS += ["--max-running-requests", "64", "--cuda-graph-max-bs-decode", "64", "--enable-metrics"]
TIMES = re.compile(r"BENCH (encode \w+|prefill) (\d+) ([\d.]+)")


def content(kind: str, media: str) -> dict[str, Any]:
    if kind == "sound":
        return {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{media}"}}
    name = {"photo": "image_url", "video": "video_url"}[kind]
    return {"type": name, name: {"url": media}}


def stream(parts: list[dict[str, Any]], tokens: int, limit: float = 180) -> list[float]:
    """Seconds from the request to each piece of its streamed reply."""
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "separate_reasoning": False,
    }
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions", data, {"Content-Type": "application/json"}
    )
    began, seen = time.monotonic(), []
    with urllib.request.urlopen(request, timeout=limit) as reply:
        for line in reply:
            # the first piece of a stream names the role and holds no text
            if line.startswith(b"data: {") and b'"content":"' in line and b'"content":""' not in line:
                seen.append(time.monotonic() - began)
    if not seen:
        raise ValueError("the stream held no text")
    return seen


def complete(part: dict[str, Any]) -> None:
    """A reply of one token, in one piece."""
    message = {"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}
    body = {"model": "default", "messages": [message], "max_tokens": 1, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=180) as reply:
        reply.read()


def encoded(log: Path, since: int) -> list[dict[str, Any]]:
    """What the hook timed since this many characters of the log."""
    found = TIMES.findall(log.read_text()[since:])
    return [{"what": what, "size": int(size), "seconds": float(seconds)} for what, size, seconds in found]


def first_tokens(kind: str, media: list[str], log: Path) -> list[dict[str, Any]]:
    rows = []
    for one in media:
        since = len(log.read_text())
        ttft = stream([content(kind, one)], 2)[0]
        time.sleep(0.3)
        rows.append({"ttft_s": round(ttft, 4), "gpu": encoded(log, since)})
    return rows


def images_per_second(photos: list[str], concurrency: int) -> dict[str, Any]:
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(lambda one: complete(content("photo", one)), photos))
    seconds = time.monotonic() - began
    return {"images": len(photos), "concurrency": concurrency, "per_s": round(len(photos) / seconds, 2)}


def longest_gap(video: str | None) -> dict[str, Any]:
    """The longest time between two pieces of a running text stream, while a video arrives or alone."""
    pieces: list[float] = []
    running = threading.Thread(target=lambda: pieces.extend(stream([], 1500)))
    running.start()
    time.sleep(1.5)
    ttft = stream([content("video", video)], 2)[0] if video else None
    running.join()
    gaps = sorted(b - a for a, b in zip(pieces, pieces[1:], strict=False))
    return {"longest_gap_s": round(gaps[-1], 4), "median_gap_s": round(gaps[len(gaps) // 2], 4), "video_ttft_s": ttft}


def measure(media: dict[str, list[str]], log: Path, note: Any) -> dict[str, Any]:
    """Every figure of one server; a step that fails says why, and the others are still tried."""
    result: dict[str, Any] = {}
    steps: dict[str, Any] = {
        "warm up": lambda: [stream([content(kind, media[kind][0])], 2)[0] for kind in ("photo", "sound", "video")],
        "photo": lambda: first_tokens("photo", media["photo"][1:4], log),
        "sound": lambda: first_tokens("sound", media["sound"][1:4], log),
        "video": lambda: first_tokens("video", media["video"][1:3], log),
        # the first half compiles kernels for the shapes of full batches
        "images per second": lambda: [
            images_per_second(half, 32) for half in (media["photo"][4:36], media["photo"][36:])
        ],
        "gap alone": lambda: longest_gap(None),
        "gap with video": lambda: longest_gap(media["video"][3]),
    }
    for name, step in steps.items():
        try:
            result[name] = step()
        except (OSError, ValueError, urllib.error.HTTPError) as error:
            said = error.read().decode()[:500] if isinstance(error, urllib.error.HTTPError) else ""
            result[name] = f"{type(error).__name__}: {error} {said}"
        note(f"{name}: {json.dumps(result[name])[:600]}")
    return result


def write_model(folder: Path) -> None:
    """The full-size checkpoint's small files; no weights."""
    from sglang_nemotron.checkpoint import writer
    from sglang_nemotron.checkpoint.spec import OMNI_PRESETS

    folder.mkdir(parents=True, exist_ok=True)
    writer._write_small_files(OMNI_PRESETS["full"], folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-model", type=Path, help="only write config, tokenizer and template here")
    parser.add_argument("--model", help="folder with config.json, tokenizer and template")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sides", nargs="+", default=["in-tree", "ours"], choices=["in-tree", "ours"])
    parser.add_argument("--commit", default="unknown", help="of this repository, for the record")
    parser.add_argument("--limit", type=float, default=300, help="seconds a server may take to start")
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--logs", type=Path, default=None, help="folder for the servers' logs")
    parser.add_argument("server_args", nargs="*", help="more flags for both servers, after --")
    args = parser.parse_args()
    if args.write_model:
        write_model(args.write_model)
        return 0
    folder = args.logs or Path(tempfile.mkdtemp())
    jobs = [("photo", photo_url, args.photos), ("video", video_url, 4), ("sound", sound_base64, 4)]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        futures = {kind: [pool.submit(make, seed) for seed in range(count)] for kind, make, count in jobs}
        media = {kind: [future.result() for future in each] for kind, each in futures.items()}
    print("media made", {kind: len(each[0]) for kind, each in media.items()}, flush=True)
    sides: dict[str, Any] = {}
    for side in args.sides:
        command = [sys.executable, "-m", "sglang.launch_server", "--model-path", args.model, "--port", str(PORT)]
        command += [*FLAGS, *args.server_args]
        try:
            with Server(side, command, PORT, folder / f"server_{side}.log", args.limit) as server:
                result = measure(media, server.log, lambda text, side=side: print(side, text, flush=True))
                sides[side] = {"command": command, "ready_s": server.ready_s, "log": class_lines(server.log), **result}
        except SystemExit as fault:
            sides[side] = {"command": command, "failed": str(fault)[-3000:]}
            print(str(fault)[-1500:], flush=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"date": now, "commit": args.commit, "machine": machine(), "argv": sys.argv[1:], "sides": sides}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
