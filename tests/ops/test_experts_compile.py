"""The routed experts' Triton kernels compile for every card they claim, down to machine code; needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from sglang_nemotron.ops import _experts_blocks_triton as blocks
from sglang_nemotron.ops import _experts_pairs_triton as pairs
from sglang_nemotron.ops import schedules
from sglang_nemotron.ops.schedules import ExpertSchedule, Tile
from support.machine_code import stray_packs
from support.ops_cases import form

HIDDEN, WIDTH = 2688, 1856
# compute capability -> bytes of shared memory that one program may have
CARDS = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
TABLE = json.loads(schedules.TABLE.read_text())["experts"]


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], card: int, tile: Tile) -> Any:
    """Machine code of a kernel whose pointers and strides are as aligned as in a model."""
    names = [parameter.name for parameter in kernel.params]
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name not in constants},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages, **({"launch_pdl": True} if card >= 90 else {})}
    return compile(source, target=GPUTarget("cuda", card, 32), options=options)


def grouped(card: int, schedule: ExpertSchedule, float8: bool, up: bool) -> Any:
    tile, number = (schedule.up, WIDTH) if up else (schedule.down, HIDDEN)
    element = "fp8e4nv" if float8 else "bf16"
    weights = f"tensordesc<{element}[1,{tile.out},{tile.inner}]>" if schedule.tma else f"*{element}"
    types = {"x_ptr": f"*{element}", "w_ptr": weights, "out_ptr": f"*{element}" if up else "*bf16"}
    types |= {"pairs_ptr": "*i32", "blocks_ptr": "*i32", "x_stride": "i32"}
    scales = ("x_scale_ptr", "w_scale_ptr", "out_scale_ptr")
    constants: dict[str, Any] = {"K": HIDDEN if up else WIDTH, "N": number, "TOP_K": 6, "UP": up, "FLOAT8": float8}
    constants |= {"SWAP": schedule.swap, "TMA": schedule.tma, "PROMOTE": schedule.promote if float8 else 0}
    constants |= {"ROUNDED": tl.bfloat16, "BLOCK_M": schedule.rows, "BLOCK_N": tile.out, "BLOCK_K": tile.inner}
    constants |= {"HALVES": schedule.rows >= 128 and not schedule.swap, "PDL": card >= 90}
    present = scales[: 3 if up else 2] if float8 else ()
    constants |= dict.fromkeys(set(scales) - set(present))
    return compiled(blocks._grouped_kernel, types | dict.fromkeys(present, "*fp32"), constants, card, tile)


def down_of_pairs(card: int, tile: Tile, float8: bool) -> Any:
    element = "fp8e4nv" if float8 else "bf16"
    types = {"hidden_ptr": f"*{element}", "w_ptr": f"*{element}", "weights_ptr": "*fp32", "ids_ptr": "*i64"}
    types |= {"y_ptr": "*bf16", "hidden_scale_ptr": "*fp32", "w_scale_ptr": "*fp32"}
    constants: dict[str, Any] = {"K": WIDTH, "N": HIDDEN, "NUM_EXPERTS": 128, "TOP_K": 6, "FLOAT8": float8}
    constants |= {"BLOCK_N": tile.out, "BLOCK_K": tile.inner, "PDL": card >= 90}
    if not float8:
        constants |= {"hidden_scale_ptr": None, "w_scale_ptr": None}
    return compiled(pairs._down_kernel, types, constants, card, tile)


# float8_operand in ops/_launch_triton.py says what goes wrong with equal pairs of FP8 numbers
@pytest.mark.parametrize("tile", [Tile(2, 512, 1, 1), Tile(4, 1024, 1, 1), Tile(8, 2048, 4, 1)])
def test_no_pair_of_fp8_numbers_comes_from_nowhere(tile: Tile, tmp_path: Path) -> None:
    types = {"x_ptr": "*bf16", "w_ptr": "*fp8e4nv", "ids_ptr": "*i64", "hidden_ptr": "*fp8e4nv", "x_stride": "i32"}
    types |= dict.fromkeys(("x_scale_ptr", "w_scale_ptr", "hidden_scale_ptr"), "*fp32")
    constants = {"K": HIDDEN, "N": WIDTH, "NUM_EXPERTS": 128, "TOP_K": 6, "FLOAT8": True, "PDL": True}
    constants |= {"BLOCK_N": tile.out, "BLOCK_K": tile.inner}
    assert not stray_packs(compiled(pairs._up_kernel, types, constants, 90, tile), tmp_path)


@pytest.mark.parametrize(
    ("card", "dtype"),
    [(card, dtype) for dtype in TABLE["any device"] for card in CARDS if card > 80 or dtype[0] == "b"],
)
def test_every_card_has_a_form(card: int, dtype: str) -> None:
    float8 = dtype != "bfloat16"
    few, many = (ExpertSchedule.from_row(TABLE["any device"][dtype][index]) for index in (0, 1))
    assert down_of_pairs(card, few.down, float8).metadata.shared <= CARDS[card]
    assert grouped(card, many, float8, up=True).metadata.shared <= CARDS[card]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_hopper_uses_its_own_instructions(dtype: str) -> None:
    rows = [ExpertSchedule.from_row(row) for row in next(iter(TABLE["NVIDIA H200"][dtype].values()))]
    for schedule in (rows[-1], next(row for row in rows if row.form == "blocks")):
        kernel = grouped(90, schedule, dtype != "bfloat16", up=False)
        assert kernel.metadata.shared <= CARDS[90]
        assert "wgmma.mma_async" in kernel.asm["ptx"] and "cp.async.bulk.tensor" in kernel.asm["ptx"]


def test_every_row_fits_its_card() -> None:
    for device, dtypes in TABLE.items():
        for dtype, shapes in dtypes.items():
            size, card = (2 if dtype == "bfloat16" else 1), (90 if device != "any device" else 89)
            for rows in [shapes] if isinstance(shapes, list) else shapes.values():
                assert [row["tokens"] for row in rows][-1] is None
                assert [row["tokens"] for row in rows][:-1] == sorted(row["tokens"] for row in rows[:-1])
                for schedule in map(ExpertSchedule.from_row, rows):
                    for tile in (schedule.up, schedule.down):
                        used = (tile.out + schedule.rows) * tile.inner * tile.stages * size
                        assert schedule.form == "pairs" or used <= CARDS[card]


def test_fp8_is_refused_where_the_card_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = form("experts_fp8", "triton")
    monkeypatch.setattr(eight, "capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match=r"need compute capability 8\.9, this device has 8\.0"):
        eight._check_card(torch.device("cuda"))


@pytest.mark.parametrize(
    ("name", "capability", "shape", "message"),
    [
        ("NVIDIA H200", (9, 0), "E128 k6 D2688 I1856", None),
        ("NVIDIA H200", (9, 0), "E128 k6 D2688 I928", "using what NVIDIA H200 runs for E128 k6 D2688 I1856"),
        ("NVIDIA H100 80GB HBM3", (9, 0), "E128 k6 D2688 I1856", "using what NVIDIA H200 runs"),
        ("NVIDIA L40S", (8, 9), "E128 k6 D2688 I1856", "not tuned for this device, using what fits any"),
    ],
)
def test_the_table_says_what_it_chose(
    name: str,
    capability: tuple[int, int],
    shape: str,
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    schedules._names.cache_clear()
    schedules._rows.cache_clear()
    width = int(shape.rpartition("I")[2])
    given = {"num_experts": 128, "top_k": 6, "hidden": 2688, "width": width}
    with caplog.at_level("INFO"):
        for tokens in (1, 300, 100_000):
            schedules.expert_schedule(torch.device("cuda", 0), torch.bfloat16, **given, num_tokens=tokens)
    schedules._names.cache_clear()
    schedules._rows.cache_clear()
    assert len(caplog.messages) == (message is not None)
    assert message is None or message in caplog.messages[0]
