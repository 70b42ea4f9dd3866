"""Safetensors files written in place: names, shapes and dtypes are laid out first, then bytes land in any order.

Holds no more than the tensors being written; knows the container format and nothing about models.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

# safetensors' names of the dtypes that a checkpoint uses
_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint8: "U8",
    torch.int64: "I64",
}


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class _Shard:
    path: Path
    tensors: list[Stored] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors)


class ShardWriter:
    """Files of one checkpoint, ready to receive tensors in any order and from several threads.

    Every file has its full length from the start; `put` writes a tensor's bytes where the header says they are.
    """

    def __init__(self, out: Path, tensors: list[Stored], max_shard_bytes: int) -> None:
        """Lay out `tensors` over files of at most `max_shard_bytes` (a larger tensor gets a file of its own)."""
        shards = _split(tensors, max_shard_bytes)
        self.total_bytes = sum(tensor.num_bytes for tensor in tensors)
        self._where: dict[str, tuple[int, int, Stored]] = {}
        self._weight_map: dict[str, str] = {}
        self._out = out
        self._files: list[int] = []
        for number, members in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
            self._open(_Shard(out / name, members))

    def _open(self, shard: _Shard) -> None:
        # wide dtypes first keeps every tensor aligned, which readers that map the file rely on
        ordered = sorted(shard.tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        start = 0
        for tensor in ordered:
            header[tensor.name] = {
                "dtype": _DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, start + tensor.num_bytes],
            }
            start += tensor.num_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        handle = os.open(shard.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._files.append(handle)
        prefix = len(text).to_bytes(8, "little") + text
        _write_all(handle, memoryview(prefix), 0)
        os.ftruncate(handle, len(prefix) + start)
        offset = len(prefix)
        for tensor in ordered:
            self._where[tensor.name] = (handle, offset, tensor)
            self._weight_map[tensor.name] = shard.path.name
            offset += tensor.num_bytes

    def put(self, name: str, tensor: torch.Tensor) -> int:
        """Write one tensor; returns its bytes. Safe to call from several threads for different names."""
        handle, offset, stored = self._where[name]
        assert tuple(tensor.shape) == stored.shape and tensor.dtype == stored.dtype, (name, tensor.shape, stored)
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        _write_all(handle, data.data, offset)
        return stored.num_bytes

    def close(self) -> None:
        """Close the files, and write the index if there are several."""
        for handle in self._files:
            os.close(handle)
        if len(self._files) > 1:
            index = {
                "metadata": {"total_size": self.total_bytes},
                "weight_map": dict(sorted(self._weight_map.items())),
            }
            (self._out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        self._files = []


def _split(tensors: list[Stored], max_shard_bytes: int) -> list[list[Stored]]:
    shards: list[list[Stored]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.num_bytes
    return shards


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    # the kernel takes at most 2 GiB at once, and may take less
    while data:
        written = os.pwrite(handle, data[: 1 << 30], offset)
        data, offset = data[written:], offset + written
