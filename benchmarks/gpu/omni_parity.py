"""Omni on CUDA against transformers: logprobs of answers about a picture, sounds, a video, and all of them at once.

    python benchmarks/gpu/omni_parity.py --model DIR --url http://127.0.0.1:30000 --out FILE

The server answers in its own dtype; each answer is scored by transformers in float32, and in bfloat16 for what that
dtype costs by itself. transformers reads the same files' pixels and samples with processors of its own.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from omni_media import picture  # noqa: E402

from sglang_nemotron.parity import reference_media  # noqa: E402
from sglang_nemotron.parity.reference_omni import OmniReference  # noqa: E402

TOKENS = 16
FPS = 4


def png(seed: int, width: int, height: int) -> tuple[str, Any]:
    out, pixels = io.BytesIO(), picture(seed, width, height)
    Image.fromarray(pixels).save(out, "PNG")
    return _url("image/png", out), reference_media.image(torch.from_numpy(pixels), max_tokens=32768)


def wav(seed: int, seconds: float) -> tuple[str, Any]:
    time_S = np.arange(int(seconds * 16000)) / 16000
    samples = (0.3 * np.sin(2 * np.pi * (180 + 60 * np.sin(time_S + seed)) * time_S) * 32767).astype("<i2")
    out = io.BytesIO()
    soundfile.write(out, samples, 16000, "PCM_16", format="WAV")
    return _url("audio/wav", out), reference_media.sound(torch.from_numpy(samples.astype(np.float32) / 32768))


def mp4(seed: int, rate: float, num_frames: int = 9) -> tuple[str, Any]:
    """A clip of 2 sampled frames a second; the reference gets the frames as a plain decode has them."""
    out, still = io.BytesIO(), picture(seed, 320, 192)
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for number in range(num_frames * FPS // 2):
            frame = av.VideoFrame.from_ndarray(np.roll(still, number * 20, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(io.BytesIO(out.getvalue())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    # the sampling of the processors: as many as fps asks for, evenly from first to last
    count = max(1, int(len(frames) / FPS * 2))
    numbers = np.linspace(0, len(frames) - 1, count).astype(int).tolist()
    sampled = torch.from_numpy(np.stack([frames[n] for n in numbers]))
    return _url("video/mp4", out), reference_media.video(sampled, numbers, source_fps=FPS, pruning_rate=rate)


def _url(kind: str, data: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def generate(url: str, text: str, media: dict[str, list[str]], options: dict[str, Any]) -> list[tuple[float, int]]:
    body: dict[str, Any] = {
        "text": text,
        "sampling_params": {"temperature": 0, "max_new_tokens": TOKENS, "ignore_eos": True},
        "return_logprob": True,
        **{f"{kind}_data": each for kind, each in media.items() if each},
        **options,
    }
    request = urllib.request.Request(url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        return [(float(one[0]), int(one[1])) for one in json.load(reply)["meta_info"]["output_token_logprobs"]]


def cases() -> dict[str, tuple[list[tuple[str, str, Any]], float]]:
    """name -> ((kind, url, reference item), q)."""

    def of(kind: str, made: tuple[str, Any]) -> tuple[str, str, Any]:
        return (kind, *made)

    return {
        "text": ([], 0.0),
        "image": ([of("image", png(1, 1000, 500))], 0.0),
        "4 images": ([of("image", png(i, 200 + 130 * i, 300 + 50 * i)) for i in range(4)], 0.0),
        "sound": ([of("audio", wav(1, 7.3))], 0.0),
        "3 sounds": ([of("audio", wav(i, 2.5 + 14 * i)) for i in range(3)], 0.0),
        "video q=0": ([of("video", mp4(1, 0.0))], 0.0),
        "video q=0.7": ([of("video", mp4(2, 0.7))], 0.7),
        "all": ([of("image", png(7, 640, 480)), of("video", mp4(3, 0.5)), of("audio", wav(5, 31))], 0.5),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    exact, rounded = OmniReference(args.model), OmniReference(args.model, torch.bfloat16)
    result = {}
    for name, (items, rate) in cases().items():
        parts = [{"type": kind} for kind, _, _ in items]
        text = exact.render([{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}])
        media = {kind: [url for k, url, _ in items if k == kind] for kind in ("image", "video", "audio")}
        began = time.monotonic()
        answer = generate(
            args.url, text, media, {"mm_processor_kwargs": {"video_pruning_rate": rate}} if media["video"] else {}
        )
        seconds = time.monotonic() - began
        ids = [token for _, token in answer]
        ours = torch.tensor([logprob for logprob, _ in answer], dtype=torch.float64)
        # the reference's own pruning may differ by dtype: both score with what each keeps
        wanted = exact.score_text(text, [item for _, _, item in items], ids).scores.logprobs[-len(ids) :]
        noise = rounded.score_text(text, [item for _, _, item in items], ids).scores.logprobs[-len(ids) :]
        delta, own = (ours - wanted).abs(), (noise - wanted).abs()
        result[name] = {
            "seconds": round(seconds, 3),
            "mean": round(float(delta.mean()), 5),
            "max": round(float(delta.max()), 5),
            "transformers in bfloat16, mean": round(float(own.mean()), 5),
        }
        print(name, result[name], flush=True)
    ratio = statistics.mean(one["mean"] for one in result.values()) / statistics.mean(
        one["transformers in bfloat16, mean"] for one in result.values()
    )
    args.out.write_text(json.dumps({"cases": result, "ratio": ratio}, indent=1) + "\n")
    print("ratio", ratio)
    return 0


if __name__ == "__main__":
    sys.exit(main())
