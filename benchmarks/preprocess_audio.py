"""Ten minutes of audio from file to mel, ours and SGLang's in-tree path, in turn in one process.

`python benchmarks/preprocess_audio.py` writes `benchmarks/preprocess_audio.json`. Needs SGLang with what its audio path
needs (librosa, torchcodec), no GPU, no model. Wall time, median and best over the rounds; refuses to report if the two
mels differ by more than their resamplers do.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import io
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from sglang.srt.models.parakeet import ParakeetExtractor
from sglang.srt.utils.common import load_audio
from transformers import PretrainedConfig

from sglang_nemotron.config.omni import SoundRule
from sglang_nemotron.media.audio.file import read_sound

ROOT = Path(__file__).resolve().parent.parent
SPEECH = ROOT / "tests" / "data" / "media" / "speech.mp3"
RULE = SoundRule(sample_rate=16_000, num_mels=128, subsampling_factor=8, subsampling_kernel=3, subsampling_stride=2)
# the largest mean difference of the two mels: in-tree resamples otherwise
MEAN_DIFFERENCE = {"wav_16k_mono": 1e-5, "mp3_44k_stereo": 0.05}


def recordings(seconds: int) -> dict[str, bytes]:
    """The tests' sentence over and over, over a room's noise, at 16 kHz mono and at 44.1 kHz stereo."""
    noise = np.random.default_rng(0)

    def file(rate: int, channels: int, kind: str) -> bytes:
        voice = np.resize(librosa.load(SPEECH, sr=rate)[0], rate * seconds)[:, None]
        samples = 0.7 * voice + noise.normal(0, 3e-3, (rate * seconds, channels))
        out = io.BytesIO()
        soundfile.write(out, samples.astype(np.float32), rate, format=kind)
        return out.getvalue()

    return {"wav_16k_mono": file(16_000, 1, "WAV"), "mp3_44k_stereo": file(44_100, 2, "MP3")}


def in_tree() -> Callable[[bytes], torch.Tensor]:
    config = {"num_mel_bins": 128, "sampling_rate": 16_000, "subsampling_factor": 8}
    config |= {"subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}
    extractor = ParakeetExtractor(PretrainedConfig(**config))

    def measure(data: bytes) -> torch.Tensor:
        made = extractor([load_audio(data, sr=16_000)], sampling_rate=16_000, return_tensors="pt")
        return made["input_features"]

    return measure


def ours(data: bytes) -> torch.Tensor:
    return read_sound(data, RULE, name="audio 1").feature


def git_commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "preprocess_audio.json")
    arguments = parser.parse_args()
    sides: dict[str, Callable[[bytes], torch.Tensor]] = {"ours": ours, "in_tree": in_tree()}
    results = {}
    for name, data in recordings(arguments.seconds).items():
        mels = {side: measure(data) for side, measure in sides.items()}
        frames = mels["ours"].shape[1]
        difference = (mels["ours"] - mels["in_tree"][:, :frames]).abs().mean().item()
        if not difference <= MEAN_DIFFERENCE[name]:
            raise SystemExit(f"{name}: the mels differ by {difference:.2e} on average, so their times say nothing")
        walls: dict[str, list[float]] = {side: [] for side in sides}
        cpus: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(arguments.rounds):
            for side, measure in sides.items():
                wall, cpu = time.perf_counter(), time.process_time()
                measure(data)
                walls[side].append(time.perf_counter() - wall)
                cpus[side].append(time.process_time() - cpu)
        results[name] = {
            "mean_difference": difference,
            "ratio_of_medians": statistics.median(walls["in_tree"]) / statistics.median(walls["ours"]),
            "ratio_of_best": min(walls["in_tree"]) / min(walls["ours"]),
            "ratio_of_processor_time": statistics.median(cpus["in_tree"]) / statistics.median(cpus["ours"]),
            **{f"{side}_wall_s": [round(value, 4) for value in values] for side, values in walls.items()},
            **{f"{side}_processor_s": [round(value, 4) for value in values] for side, values in cpus.items()},
        }
        print(name, {key: round(value, 4) for key, value in results[name].items() if isinstance(value, float)})
    packages = ("sglang", "torch", "torchcodec", "transformers", "numpy", "scipy", "av", "soundfile", "soxr")
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "seconds_of_audio": arguments.seconds,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "torch_threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "results": results,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
