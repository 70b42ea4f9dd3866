"""A form called on another device than the one that a test's inputs are on, as if it were a module of this one.

Inputs go there with their strides, whole storages at a time, and come back changed where the form writes in place. What
SGLang's kernels want to know of a batch beside its lengths is made here by SGLang's own functions, as in a server.
With TRITON_INTERPRET=1 and no GPU the kernels run on the CPU, slowly.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from sglang_nemotron.ops.cargo import GridSnapshots, KernelGrid, Ragged, Snapshots

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and not torch.cuda.is_available()


class OnDevice:
    """Functions of `module`, for tensors of this device."""

    def __init__(self, module: ModuleType, device: str) -> None:
        _start_backends()
        self._module = module
        self._device = torch.device("cpu" if _INTERPRETED else device)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if (batch := kwargs.get("batch")) is not None:
                # a convolution is told its weights second; a scan keeps no windows
                window = args[1].shape[1] - 1 if name == "conv1d_prefill" else 0
                kwargs["batch"], kwargs["snapshots"] = with_grids(batch, kwargs.get("snapshots"), window)
            there = _Moved(self._device)
            result = function(*[there(arg) for arg in args], **{key: there(value) for key, value in kwargs.items()})
            there.bring_back()
            return result.cpu() if isinstance(result, torch.Tensor) else _all_here(result)

        return call


@functools.cache
def _start_backends() -> None:
    """What a scheduler does before its first step, and what the interpreter lacks."""
    from sglang.kernels.ops.mamba.triton_ops import initialize_mamba_selective_state_update_backend

    settings: Any = SimpleNamespace(
        mamba_backend="triton", enable_mamba_cache_stochastic_rounding=False, mamba_cache_philox_rounds=0
    )
    initialize_mamba_selective_state_update_backend(settings)
    if _INTERPRETED:
        for module in (torch.cpu, torch.cuda):
            module.device = contextlib.nullcontext  # type: ignore[attr-defined]


def _all_here(result: Any) -> Any:
    return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result


class _Moved:
    """Copies of tensors on a device: views of one storage stay views of one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._storages: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: self(getattr(value, field.name)) for field in fields(value)})
        return value

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        if tensor.numel() == 0:
            return tensor.to(self._device)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            flat = torch.tensor([], dtype=tensor.dtype).set_(storage)
            self._storages[storage.data_ptr()] = flat, flat.clone().to(self._device)
        there = self._storages[storage.data_ptr()][1]
        return there.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def bring_back(self) -> None:
        for here, there in self._storages.values():
            here.copy_(there)


def with_grids(batch: Ragged, snapshots: Snapshots | None, window: int) -> tuple[Ragged, Snapshots | None]:
    """The same batch, with the index tensors that SGLang's backend would bring for its chunked kernels."""
    from sglang.srt.layers.attention.mamba.mamba2_metadata import Mamba2Metadata

    total, chunk = sum(batch.seq_lens), batch.chunk_size
    rows = torch.arange(len(batch.seq_lens), dtype=torch.int32)
    seq_idx_1T = rows.repeat_interleave(torch.tensor(batch.seq_lens, dtype=torch.int64)).unsqueeze(0)
    indices = offsets = None
    if any(batch.has_initial):
        make = Mamba2Metadata._query_start_loc_to_chunk_indices_offsets
        indices, offsets = make(batch.cu_seqlens, chunk, total)
    grown = replace(batch, slots_R=batch.slots_R.int(), grid=KernelGrid(seq_idx_1T, indices, offsets))
    return grown, replace(snapshots, grid=_snapshot_grid(batch, snapshots, window)) if snapshots is not None else None


def _snapshot_grid(batch: Ragged, snapshots: Snapshots, window: int) -> GridSnapshots:
    starts = batch.cu_seqlens.tolist()
    slots, chunk = batch.slots_R.tolist(), batch.chunk_size
    windows, final, on_grid, again = [], [], [], []
    for row, end, slot in zip(snapshots.rows, snapshots.ends, snapshots.slots_n.tolist(), strict=True):
        place = starts[row] + end
        windows.append(range(place - window, place))
        if end == batch.seq_lens[row]:
            final.append((slots[row], slot))
        elif place % chunk == 0:
            on_grid.append((place // chunk, slot))
        else:
            again.append((row, place, slot))

    def column(table: list[Any], number: int) -> torch.Tensor:
        return torch.tensor([entry[number] for entry in table], dtype=torch.int64)

    return GridSnapshots(
        conv_positions_nW=torch.tensor([list(places) for places in windows], dtype=torch.int64).reshape(
            len(windows), window
        ),
        final_src=column(final, 0),
        final_dst=column(final, 1),
        grid_src=column(on_grid, 0),
        grid_dst=column(on_grid, 1),
        recompute_rows=column(again, 0),
        recompute_ends=column(again, 1),
        recompute_dst=column(again, 2),
    )
