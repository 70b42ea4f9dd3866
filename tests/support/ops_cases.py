"""Random inputs for the ops, and the one comparison the tests of this folder share."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch

from sglang_nemotron.ops.batch import RaggedBatch, Snapshots
from sglang_nemotron.ops.forms import APART, LAYER, REFERENCE, forms_of
from support.ops_device import OnDevice

NAN = float("nan")


# forms that call SGLang's kernels: what a server never sends is not promised there
BORROWED = "sglang"


def serving(*ops: str) -> list[Any]:
    """The names of the forms in the table, for `form`: "torch", or "sglang@cuda" where another device serves.

    What needs a GPU is marked so. Of several ops, the forms that all of them have.
    """
    of_each = [
        {f"{row.name}@{device}" for row in forms_of(op) if row.name not in (LAYER, APART) for device in row.devices}
        for op in ops
    ]
    names = sorted(set.intersection(*of_each), key=lambda name: (not name.endswith("@cpu"), name))
    return [
        name.removesuffix("@cpu") if name.endswith("@cpu") else pytest.param(name, marks=pytest.mark.gpu)
        for name in names
    ]


def fast(*ops: str) -> list[Any]:
    """The forms that keep every promise of the reference: all of our own but the reference itself."""
    return [row for row in serving(*ops) if BORROWED not in str(row)]


def ours(*ops: str) -> list[Any]:
    """The reference, and the forms that keep all its promises."""
    return [REFERENCE, *fast(*ops)]


def form(op: str, name: str) -> Any:
    """One form of an op, never through the chooser: its module, or what calls it on another device."""
    stem, _, device = name.partition("@")
    module = importlib.import_module(f"sglang_nemotron.ops.{op}_{stem}")
    return OnDevice(module, device) if device else module


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected magnitude; NaN where both are NaN counts as equal, else infinite."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, (actual.shape, expected.shape)
    actual, expected = actual.double(), expected.double()
    if not torch.equal(actual.isnan(), expected.isnan()):
        return float("inf")
    actual, expected = actual.nan_to_num(0.0, NAN, NAN), expected.nan_to_num(0.0, NAN, NAN)
    if actual.numel() == 0:
        return 0.0
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-3)).item()


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    found = error(actual, expected)
    assert found <= tolerance, f"error {found:.3g} > {tolerance:.3g}"


def ragged(lens: list[int], slots: list[int], has_initial: list[bool], chunk_size: int = 128) -> RaggedBatch:
    ends = torch.tensor([0, *lens]).cumsum(0).to(torch.int32)
    return RaggedBatch(ends, lens, torch.tensor(slots), torch.tensor(has_initial), has_initial, chunk_size)


def snapshots(*wanted: tuple[int, int, int]) -> Snapshots:
    """From (row, end, slot) triples."""
    return Snapshots([w[0] for w in wanted], [w[1] for w in wanted], torch.tensor([w[2] for w in wanted]))


def poison_unread(state: torch.Tensor, batch: RaggedBatch) -> None:
    """NaN into every slot that no sequence of the batch may start from."""
    read = [slot for slot, initial in zip(batch.slots_R.tolist(), batch.has_initial, strict=True) if initial]
    for slot in range(state.shape[0]):
        if slot not in read:
            state[slot] = NAN


@dataclass(frozen=True)
class Conv:
    """One call of the convolution; `state_SCW` is copied by every run."""

    x_TC: torch.Tensor
    weight_CK: torch.Tensor
    bias_C: torch.Tensor | None
    state_SCW: torch.Tensor
    batch: RaggedBatch
    snapshots: Snapshots | None = None

    def run(self, module: ModuleType) -> tuple[torch.Tensor, torch.Tensor]:
        state_SCW = self.state_SCW.clone(memory_format=torch.preserve_format)
        fixed = (self.weight_CK, self.bias_C, state_SCW)
        y_TC = module.conv1d_prefill(self.x_TC, *fixed, batch=self.batch, snapshots=self.snapshots)
        return y_TC, state_SCW


def conv_case(
    batch: RaggedBatch,
    wanted: Snapshots | None = None,
    channels: int = 24,
    width: int = 4,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    state_dtype: torch.dtype = torch.float32,
    num_slots: int = 12,
    tail: int = 3,
) -> Conv:
    """x is a view of a wider projection with NaN padding rows; the state is one layer's channels-last view."""
    num_tokens = sum(batch.seq_lens)
    projected = torch.randn(num_tokens + tail, channels + 10, dtype=dtype)
    projected[num_tokens:] = NAN
    state_LSCW = torch.randn(2, num_slots, width - 1, channels, dtype=state_dtype).transpose(2, 3)
    poison_unread(state_LSCW[1], batch)
    weight_CK = torch.randn(channels, width, dtype=dtype)
    bias_C = torch.randn(channels, dtype=dtype) if bias else None
    return Conv(projected[:, 7 : 7 + channels], weight_CK, bias_C, state_LSCW[1], batch, wanted)


@dataclass(frozen=True)
class Scan:
    """One call of the scan; `state_SHPN` is copied by every run."""

    x_THP: torch.Tensor
    dt_TH: torch.Tensor
    A_H: torch.Tensor
    B_TGN: torch.Tensor
    C_TGN: torch.Tensor
    D_H: torch.Tensor
    dt_bias_H: torch.Tensor
    state_SHPN: torch.Tensor
    batch: RaggedBatch
    snapshots: Snapshots | None = None
    dt_limit: tuple[float, float] = (0.0, float("inf"))

    def run(self, module: ModuleType) -> tuple[torch.Tensor, torch.Tensor]:
        state_SHPN = self.state_SHPN.clone()
        fixed = (self.A_H, self.B_TGN, self.C_TGN, self.D_H, self.dt_bias_H, state_SHPN)
        places = {"batch": self.batch, "snapshots": self.snapshots, "dt_limit": self.dt_limit}
        return module.ssd_prefill(self.x_THP, self.dt_TH, *fixed, **places), state_SHPN

    def step(self, module: ModuleType, slots_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens as decode rows, one per slot."""
        state_SHPN = self.state_SHPN.clone()
        fixed = (self.A_H, self.B_TGN, self.C_TGN, self.D_H, self.dt_bias_H, state_SHPN)
        return module.ssm_step(self.x_THP, self.dt_TH, *fixed, slots_B=slots_B, dt_limit=self.dt_limit), state_SHPN

    def tokens(self, rows: slice, batch: RaggedBatch, state_SHPN: torch.Tensor | None = None) -> Scan:
        """The same weights on some of the tokens."""
        cut = {name: getattr(self, name)[rows] for name in ("x_THP", "dt_TH", "B_TGN", "C_TGN")}
        state_SHPN = self.state_SHPN if state_SHPN is None else state_SHPN
        return replace(self, **cut, batch=batch, state_SHPN=state_SHPN, snapshots=None)


def scan_case(
    batch: RaggedBatch,
    wanted: Snapshots | None = None,
    heads: int = 8,
    head_dim: int = 4,
    groups: int = 2,
    state: int = 16,
    dtype: torch.dtype = torch.float32,
    state_dtype: torch.dtype = torch.float32,
    num_slots: int = 12,
    tail: int = 3,
) -> Scan:
    """x, B and C are views of one convolved tensor and dt of the projection, with NaN padding rows at the tail."""
    num_tokens = sum(batch.seq_lens)
    inner, size = heads * head_dim, groups * state
    mixed = torch.randn(num_tokens + tail, inner + 2 * size, dtype=dtype)
    projected = torch.randn(num_tokens + tail, heads + 5, dtype=dtype)
    mixed[num_tokens:], projected[num_tokens:] = NAN, NAN
    x, B, C = mixed.split([inner, size, size], dim=-1)
    state_SHPN = torch.randn(num_slots, heads, head_dim, state, dtype=state_dtype)
    poison_unread(state_SHPN, batch)
    return Scan(
        x.unflatten(1, (heads, head_dim)),
        projected[:, 5:],
        -torch.exp(torch.rand(heads) * 4 - 2),
        B.unflatten(1, (groups, state)),
        C.unflatten(1, (groups, state)),
        torch.randn(heads),
        torch.randn(heads),
        state_SHPN,
        batch,
        wanted,
    )
