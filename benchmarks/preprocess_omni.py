"""What a photo, a video and a sound cost the HTTP process of a Nemotron 3 Nano Omni server: ours beside SGLang's own.

    python benchmarks/preprocess_omni.py            # writes benchmarks/preprocess_omni.json

Two servers of SGLang run side by side on one toy checkpoint, one with this package switched off, and take the same
requests in turn. Everything of a request is theirs: HTTP, JSON, base64, chat template, media, hand-over to the
scheduler; only the scheduler is a stand-in that takes the features out of the message and ends the request. Per
request: seconds as the client sees them, seconds inside the media processor, and by how much a 5 ms ticker in the
server's event loop slipped. Parts without decoding are timed afterwards, in this process. Needs no GPU and no model.
Refuses to report on a machine that is busy at the start, unless told to.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import io
import json
import multiprocessing
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
MOST_LOAD = 1.5
PACKAGES = ("sglang", "torch", "transformers", "torchcodec", "av", "pillow", "librosa", "soundfile", "numpy", "numba")
TICK = 0.005
SIDES = ("ours", "in-tree")
KILL_SWITCH = "SGLANG_NEMOTRON_DISABLE"
START_SECONDS = 300
# an item is sent for so long at least: a few rounds of a photo would tell how busy the machine was just then
LEAST_SECONDS = 10


# ---- the HTTP process under test


def stand_in_scheduler(args: Any, ports: Any, *rest: Any) -> None:
    """Takes requests, makes tensors of what stands for them in the message as a scheduler does, and ends them."""
    import zmq
    from sglang.srt.managers.io_struct import AbortReq, sock_recv, sock_send
    from sglang.srt.managers.mm_utils import unwrap_shm_features
    from sglang.srt.runtime_context import publish
    from sglang.srt.utils.network import get_zmq_socket

    publish(args, role="scheduler")
    context = zmq.Context()
    receive = get_zmq_socket(context, zmq.PULL, ports.scheduler_input_ipc_name, False)
    send = get_zmq_socket(context, zmq.PUSH, ports.tokenizer_ipc_name, False)
    (pipe,) = (item for item in rest if hasattr(item, "send"))
    pipe.send({"status": "ready", "max_total_num_tokens": 2**20, "max_req_input_len": 2**20, "startup_time": {}})
    while True:
        request = sock_recv(receive)
        if getattr(request, "rid", None) and hasattr(request, "input_ids"):
            unwrap_shm_features(request)
            num_features = sum(item.feature.numel() for item in request.mm_inputs.mm_items)
            told = f"took {len(request.input_ids)} tokens and {num_features} numbers"
            reason = {"type": "abort", "message": told, "status_code": 400}
            sock_send(send, AbortReq(rid=request.rid, finished_reason=reason))


def idle_detokenizer(*_: Any) -> None:
    signal.pause()


class Watch:
    """Seconds inside the media processor, and the longest slip of the ticker, since they were last asked for."""

    def __init__(self) -> None:
        self.slip = 0.0
        self.processing: list[float] = []
        self._ticker: asyncio.Task[None] | None = None

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            self.slip = max(self.slip, now - last - TICK)
            last = now

    async def read(self) -> dict[str, Any]:
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())
        told = {"slip": self.slip, "processing": self.processing}
        self.slip, self.processing = 0.0, []
        return told

    def around(self, process: Callable[..., Any]) -> Callable[..., Any]:
        async def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return await process(*args, **kwargs)
            finally:
                self.processing.append(time.perf_counter() - began)

        return timed


def serve(folder: str, port: int) -> None:
    """SGLang's own command from here on, up to the stand-in's place."""
    import sglang.cli.serve  # noqa: F401
    from sglang.srt.entrypoints import http_server
    from sglang.srt.entrypoints.engine import init_tokenizer_manager
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    watch = Watch()

    def init(server_args: Any, port_args: Any) -> Any:
        manager, templates = init_tokenizer_manager(server_args, port_args)
        manager.mm_processor.process_mm_data_async = watch.around(manager.mm_processor.process_mm_data_async)
        return manager, templates

    http_server.app.add_api_route("/benchmark", watch.read)
    flags = ["--model-path", folder, "--port", str(port), "--skip-server-warmup", "--log-level", "warning"]
    flags += ["--device", "cpu"] if os.environ.get(KILL_SWITCH) else []
    http_server.launch_server(
        prepare_server_args(flags),
        init_tokenizer_manager_func=init,
        run_scheduler_process_func=stand_in_scheduler,
        run_detokenizer_process_func=idle_detokenizer,
    )


class Server:
    """One side's processes, in a session of their own."""

    def __init__(self, side: str, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        environment = {**os.environ, **({KILL_SWITCH: "1"} if side == "in-tree" else {})}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, __file__, "--serve", str(folder), str(self.port)]
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=self.log, stderr=subprocess.STDOUT
        )
        self.side = side

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("GET", "/benchmark")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server of {self.side} did not start:\n{self.tail()}") from None
                time.sleep(0.5)

    def tail(self) -> str:
        self.log.seek(0)
        return self.log.read()[-3000:]

    def request(self, body: bytes) -> dict[str, Any]:
        self.ask("GET", "/benchmark")
        began = time.perf_counter()
        try:
            answer = self.ask("POST", "/v1/chat/completions", body)
        except OSError:
            raise SystemExit(f"the server of {self.side} ended:\n{self.tail()}") from None
        seconds = time.perf_counter() - began
        told = self.ask("GET", "/benchmark")
        found = re.search(r"took (\d+) tokens and (\d+) numbers", json.dumps(answer))
        if len(told["processing"]) != 1 or found is None:
            raise SystemExit(f"{self.side} did not hand a request over: {json.dumps(answer)[:500]}\n{self.tail()}")
        return {
            "seconds": seconds,
            "processing": told["processing"][0],
            "slip": told["slip"],
            "prompt_tokens": int(found[1]),
            "feature_numbers": int(found[2]),
        }

    def idle_slip(self) -> float:
        self.ask("GET", "/benchmark")
        time.sleep(1)
        return self.ask("GET", "/benchmark")["slip"]

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


# ---- what is sent


def media(args: argparse.Namespace) -> dict[str, tuple[str, bytes]]:
    """By name: the part's kind and the file's bytes, as the benchmarks of each kind make them."""
    from preprocess_audio import recordings
    from preprocess_image import photo
    from preprocess_video import make_file

    sounds = recordings(args.seconds)
    return {
        "photo 1080p, JPEG": ("image", photo(1920, 1080)),
        f"{args.frames} frames 1080p, MP4": ("video", make_file(args.frames, Fraction(2))),
        f"{args.seconds} s of sound, WAV 16 kHz mono": ("audio", sounds["wav_16k_mono"]),
        f"{args.seconds} s of sound, MP3 44.1 kHz stereo": ("audio", sounds["mp3_44k_stereo"]),
    }


def body(kind: str, data: bytes) -> bytes:
    """A chat in the published form."""
    url = f"data:{kind}/any;base64,{base64.b64encode(data).decode()}"
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
    content = [part, {"type": "text", "text": "What is this?"}]
    return json.dumps({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}).encode()


def requests(servers: dict[str, Server], files: dict[str, tuple[str, bytes]], rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, (kind, data) in files.items():
        sent = body(kind, data)
        taken: dict[str, list[dict[str, Any]]] = {side: [] for side in servers}
        # the first round fills caches and starts workers
        for server in servers.values():
            server.request(sent)
        began = time.monotonic()
        while len(taken["ours"]) < rounds or time.monotonic() - began < LEAST_SECONDS:
            for side, server in servers.items():
                taken[side].append(server.request(sent))
        seconds = {
            side: {what: [round(one[what], 4) for one in all_of] for what in ("seconds", "processing", "slip")}
            | {what: all_of[-1][what] for what in ("prompt_tokens", "feature_numbers")}
            for side, all_of in taken.items()
        }
        results[name] = {"bytes": len(data), **seconds, "ratio_of_medians": ratios(seconds)}
        show(name, results[name])
    return results


def ratios(of_sides: dict[str, Any]) -> dict[str, float]:
    return {
        what: round(statistics.median(of_sides["in-tree"][what]) / statistics.median(of_sides["ours"][what]), 2)
        for what in ("seconds", "processing")
    }


def show(name: str, result: dict[str, Any]) -> None:
    print(f"{name}: {result['ratio_of_medians']} times as fast")
    for side in SIDES:
        numbers = result[side]
        print(
            f"    {side:8} whole request {statistics.median(numbers['seconds']):7.3f} s,"
            f" media {statistics.median(numbers['processing']):7.3f} s;"
            f" the ticker slips by up to {1000 * max(numbers['slip']):.0f} ms"
        )


# ---- parts without decoding


def parts(files: dict[str, tuple[str, bytes]], frames: int, rounds: int) -> dict[str, Any]:
    """Pixels or samples to features, in this process: seconds of each round."""
    results = {}
    for name, sides in {
        "photo 1080p": photo_parts(files),
        f"{frames} frames 1080p": video_parts(files, frames),
        "sound at 16 kHz": sound_parts(files),
    }.items():
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds + 1):
            for side, run in sides.items():
                began = time.perf_counter()
                made = run()
                seconds = time.perf_counter() - began
                del made
                if number:
                    taken[side].append(round(seconds, 4))
        ratio = statistics.median(taken["in-tree"]) / statistics.median(taken["ours"])
        results[name] = {**taken, "ratio_of_medians": round(ratio, 2)}
        print(f"{name}, without decoding: {ratio:.2f} times as fast")
    return results


def photo_parts(files: dict[str, tuple[str, bytes]]) -> dict[str, Callable[[], Any]]:
    from preprocess_image import sides

    (data,) = (data for kind, data in files.values() if kind == "image")
    timed = sides(data)
    return {"ours": timed["ours, pixels"], "in-tree": timed["in-tree, pixels"]}


def video_parts(files: dict[str, tuple[str, bytes]], frames: int) -> dict[str, Callable[[], Any]]:
    from preprocess_video import decode_plainly, in_tree_pixels, our_pixels

    (data,) = (data for kind, data in files.values() if kind == "video")
    decoded = decode_plainly(data, list(range(frames)))
    threads = min(4, os.cpu_count() or 1)
    return {"ours": lambda: our_pixels(decoded, threads), "in-tree": lambda: in_tree_pixels(decoded)}


def sound_parts(files: dict[str, tuple[str, bytes]]) -> dict[str, Callable[[], Any]]:
    import soundfile
    from preprocess_audio import RULE
    from sglang.srt.models.parakeet import ParakeetExtractor
    from transformers import PretrainedConfig

    from sglang_nemotron.media.audio.mel import sound

    data = next(data for kind, data in files.values() if kind == "audio")
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    config = {"num_mel_bins": 128, "sampling_rate": 16_000, "subsampling_factor": 8}
    config |= {"subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}
    extractor = ParakeetExtractor(PretrainedConfig(**config))
    return {
        "ours": lambda: sound(samples, RULE),
        "in-tree": lambda: extractor([samples], sampling_rate=16_000, return_tensors="pt"),
    }


# ---- the report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--seconds", type=int, default=600, help="of sound")
    parser.add_argument("--rounds", type=int, default=3, help="of each item, at least")
    parser.add_argument("--force", action="store_true", help="report on a busy machine too")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "preprocess_omni.json")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve[0], int(args.serve[1]))
    load = os.getloadavg()
    if load[0] > MOST_LOAD and not args.force:
        raise SystemExit(
            f"the load average is {load[0]:.2f}, over {MOST_LOAD}: these times would say nothing (--force)"
        )
    from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
    from sglang_nemotron.checkpoint.writer import write_checkpoint

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(OMNI_PRESETS["toy"], Path(folder) / "omni")
        servers = {side: Server(side, Path(folder) / "omni") for side in SIDES}
        try:
            files = media(args)
            for server in servers.values():
                server.wait()
            slips = {side: round(server.idle_slip(), 4) for side, server in servers.items()}
            results = requests(servers, files, args.rounds)
        finally:
            for server in servers.values():
                server.close()
    report = {
        "command": " ".join(["python", "benchmarks/preprocess_omni.py", *sys.argv[1:]]),
        "machine": machine(PACKAGES),
        "load_average_at_start": load,
        "ticker_seconds": TICK,
        "slip_of_an_idle_server": slips,
        "requests": results,
        "without_decoding": parts(files, args.frames, args.rounds),
        "seconds_of_this_run": round(time.monotonic() - began, 1),
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    multiprocessing.freeze_support()
    main()
