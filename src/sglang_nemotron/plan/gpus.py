"""The GPUs that a plan knows: names in, memory as the driver reports it out, each with its source.

One table; nothing here asks a device except `present`, which asks the driver's own program.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace

from sglang_nemotron.state.capacity import HELD_MIB

# beside that on each of several GPUs: 137.29 GiB were free on eight H200 (a log in sgl-project/sglang#11716, from an
# SGLang of 2025)
_HELD_FOR_PEERS_MIB = round((139.11 - 137.29) * 1024)

_CARDS_OF_MODAL = "nvidia-smi, as listed in modal-labs/modal-client#2797"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU. total_mib: `memory.total` of nvidia-smi, by which SGLang sizes everything.

    free_mib: free before the first weight, where someone has looked; else it is taken as on an H200.
    capability: of CUDA, None where it is not known. unified: memory is the host's too. said_free_mib: what the user
    has seen free before weights, on as many ranks as the plan is for; it goes before all else.
    """

    name: str
    label: str
    total_mib: int
    capability: tuple[int, int] | None
    source: str
    free_mib: int | None = None
    unified: bool = False
    said_free_mib: float | None = None

    def free_before_weights(self, tp_size: int) -> tuple[float, bool]:
        """(MiB free on each rank when weights begin to load, whether that was measured on such cards)."""
        if self.said_free_mib is not None:
            return self.said_free_mib, True
        if tp_size > 1:
            alone, _ = self.free_before_weights(1)
            return alone - _HELD_FOR_PEERS_MIB, False
        if self.free_mib is not None:
            return self.free_mib, True
        return self.total_mib - HELD_MIB, False


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100", "H100 80GB", 81_559, (9, 0), _CARDS_OF_MODAL),
        Gpu(
            *("h200", "H200", 143_771, (9, 0), "nvidia-smi here, benchmarks/gpu_decode.json"),
            free_mib=143_771 - HELD_MIB,
        ),
        Gpu("b200", "B200", 183_359, (10, 0), "nvidia-smi, in NVIDIA/TensorRT-LLM#10278"),
        Gpu("a100-40", "A100 40GB", 40_960, (8, 0), _CARDS_OF_MODAL),
        Gpu("a100-80", "A100 80GB", 81_920, (8, 0), _CARDS_OF_MODAL),
        Gpu("l40s", "L40S", 46_068, (8, 9), _CARDS_OF_MODAL),
        Gpu("rtx-pro-6000", "RTX PRO 6000 Blackwell", 97_887, (12, 0), "nvidia-smi, in vllm-project/vllm#27542"),
        # nvidia-smi says N/A, so that SGLang takes what CUDA says: all of the host's. free: MemAvailable of an idle one
        Gpu(
            *("dgx-spark", "DGX Spark", 127_600_748 // 1024, (12, 1), "/proc/meminfo, in XuehaiPan/nvitop#208"),
            free_mib=118_566_368 // 1024,
            unified=True,
        ),
    )
}
_ALIASES = {"a100": "a100-80", "rtx6000": "rtx-pro-6000", "gb10": "dgx-spark", "spark": "dgx-spark"}
# what a driver's name of a card has in it -> names here; of two sizes the nearer counts
_DRIVERS = {
    **{"H100": ("h100",), "H200": ("h200",), "B200": ("b200",), "A100": ("a100-40", "a100-80"), "L40S": ("l40s",)},
    **{"RTX PRO 6000": ("rtx-pro-6000",), "GB10": ("dgx-spark",)},
}
_NAME_ONE = f"name one: --gpu {'|'.join(GPUS)}"
# of the driver's program, which takes seconds on a machine of many GPUs
ANSWERS_WITHIN_S = 30.0
# a card whose memory differs by more than this share from the table's is another one (an H100 NVL, a MIG slice)
_SAME = 0.01


def find(name: str) -> Gpu:
    """A GPU by the name that a user gives; ValueError of two lines for one that is not known."""
    plain = name.lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
    gpu = GPUS.get(_ALIASES.get(plain, plain))
    if gpu is None:
        known = ", ".join(GPUS)
        raise ValueError(
            f"{name!r} is no GPU that is known here\n  remedy: give one of {known}; for another one its memory, "
            "--memory-mib N (memory.total of nvidia-smi)"
        )
    return gpu


def other(total_mib: int, label: str = "a GPU", source: str = "--memory-mib") -> Gpu:
    """A GPU of which nothing but its memory is known."""
    return Gpu("other", label, total_mib, None, source)


def named(label: str, total_mib: int | None) -> Gpu:
    """The GPU that a driver calls `label`, with the memory that it reports (None where it reports none)."""
    names = next((names for part, names in _DRIVERS.items() if part in label.upper()), ())
    known = [GPUS[name] for name in names]
    if total_mib is None:
        if known and known[0].unified:
            return known[0]
        raise ValueError(
            f"the driver does not say how much memory {label} has\n  remedy: give it, --memory-mib N, or name the GPU "
            "with --gpu"
        )
    near = min(known, key=lambda gpu: abs(gpu.total_mib - total_mib), default=None)
    if near is None or abs(near.total_mib - total_mib) > _SAME * near.total_mib:
        return other(total_mib, label, "nvidia-smi here")
    held = near.total_mib - near.free_mib if near.free_mib is not None else None
    free = None if held is None else total_mib - held
    return replace(near, total_mib=total_mib, free_mib=free, source="nvidia-smi here")


def present() -> tuple[Gpu, int]:
    """(the smallest GPU of this machine, how many there are); ValueError of two lines where there is none."""
    lines = _driver().strip().splitlines()
    if not lines:
        raise ValueError(f"nvidia-smi finds no GPU here\n  remedy: {_NAME_ONE}")
    cards = []
    for line in lines:
        label, _, memory = line.rpartition(",")
        memory = memory.strip()
        cards.append(named(label.strip(), int(float(memory)) if memory.replace(".", "", 1).isdigit() else None))
    return min(cards, key=lambda gpu: gpu.total_mib), len(cards)


def _driver() -> str:
    """A line for each GPU, as the driver's program writes it; nothing where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ""
    try:
        out, _ = process.communicate(timeout=ANSWERS_WITHIN_S)
    except subprocess.TimeoutExpired:
        # not waited for: where a driver is stuck, a process in it does not even end when it is killed
        process.kill()
        raise ValueError(
            f"nvidia-smi does not answer within {ANSWERS_WITHIN_S:g} s\n  remedy: look at the driver, or {_NAME_ONE}"
        ) from None
    return out if process.returncode == 0 else ""
