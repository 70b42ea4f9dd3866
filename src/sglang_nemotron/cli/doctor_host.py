"""What the doctor says of this machine: memory, disk, port, token; which published checkpoint fits on which cards."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from sglang_nemotron.cli.server import is_taken
from sglang_nemotron.config import hub

# bytes of weights of the published sizes; the checkpoint room counts the same (tests/cli/test_doctor_host.py)
WEIGHTS = {
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 63_155_886_464,
    "NVIDIA-Nemotron-3-Nano-30B-A3B-FP8": 32_664_122_416,
    "Nemotron-3-Nano-Omni-30B-A3B-BF16": 66_031_337_100,
    "Nemotron-3-Nano-Omni-30B-A3B-FP8": 35_241_269_708,
    "Nemotron-3-Nano-Omni-30B-A3B-NVFP4": 22_389_791_180,
}
SPLITS = (1, 2, 4, 8)
_DRIVER = Path("/proc/driver/nvidia/version")


def examine_host(port: int, memory: tuple[int, int]) -> dict[str, Any]:
    """Plain values, GiB where nothing else is said. memory: bytes available, and in all."""
    from huggingface_hub import get_token

    available, total = memory
    cache, variable = hub.cache_folder()
    return {
        "memory_available_gib": gib(available),
        "memory_gib": gib(total),
        "cache": str(cache),
        "cache_variable": variable,
        "cache_writable": _takes_files(_existing(cache)),
        "disk_free_gib": gib(shutil.disk_usage(_existing(cache)).free),
        "offline": hub.is_offline(),
        "token": get_token() is not None,
        "driver": _DRIVER.read_text().splitlines()[0] if _DRIVER.is_file() else None,
        "port": port,
        "port_free": not is_taken(port),
    }


def what_fits(device: dict[str, Any], memory_available_gib: float) -> list[dict[str, Any]]:
    """One row for each published checkpoint: weights alone, and for each split whether a card has room for its share.

    A CPU computes with plain weights, so that a quantised checkpoint takes there what the BF16 one does.
    """
    rows = []
    for name, num_bytes in WEIGHTS.items():
        if device["kind"] == "cpu":
            plain = WEIGHTS["Nemotron-3-Nano-Omni-30B-A3B-BF16" if "Omni" in name else next(iter(WEIGHTS))]
            fits = {1: plain / 2**30 < memory_available_gib}
        else:
            shares = {split: num_bytes / split / 2**30 for split in SPLITS}
            fits = {split: split <= device["count"] and share < device["memory_gib"] for split, share in shares.items()}
        rows.append({"model": f"nvidia/{name}", "weights_gib": gib(num_bytes), "fits": fits})
    return rows


def gib(num_bytes: float) -> float:
    return round(num_bytes / 2**30, 1)


def _takes_files(folder: Path) -> bool:
    """Tried: what permissions say is not all, for a superuser and on what is mounted to be read alone."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _existing(path: Path) -> Path:
    """The path, or what there is of the folders around it."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
