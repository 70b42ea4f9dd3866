"""The routed experts' Triton kernels against the references: interpreted in a process of its own, and on a card.

`TRITON_INTERPRET=1` must be there before Triton is imported, so CI runs this file once more in a subprocess.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.schedules import ExpertSchedule, Tile
from support.experts_cases import (
    DEVICES,
    DTYPE,
    INTERPRETED,
    SCHEDULES,
    SHAPES,
    TOKENS,
    Given,
    inputs,
    name,
    quantised,
    random_ids,
    skip_some,
    whole_numbers,
    with_ids,
)
from support.ops_cases import assert_near, form

# a hidden value on a rounding tie may fall to either side and is then carried through the second product
TOLERANCE = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
# whole numbers: float16 holds each of them, bfloat16 not the larger sums
EXACT = 0.0 if INTERPRETED else 2**-7
HERE = Path(__file__)
PACKAGE = "sglang_nemotron.ops"

on_devices = pytest.mark.parametrize("device", DEVICES)
on_schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=name)


if not INTERPRETED:

    def test_in_the_interpreter() -> None:
        from support.waiting import NET_S

        environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", str(HERE)]
        run = subprocess.run(
            command, env=environment, cwd=HERE.parents[2], capture_output=True, text=True, timeout=NET_S
        )
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
        passed = re.search(r"(\d+) passed", run.stdout)
        assert passed and int(passed[1]) >= 50, run.stdout[-500:]


def kernels(schedule: ExpertSchedule) -> SimpleNamespace:
    """The Triton form with this schedule instead of the table's."""
    run = form("experts", "triton")._run
    return SimpleNamespace(
        experts=lambda *given: run(*given, None, schedule),
        experts_fp8=lambda *given: run(*given, schedule),
    )


def few(schedule: ExpertSchedule, tokens: int) -> None:
    if INTERPRETED and schedule.form == "pairs" and tokens > 8:
        pytest.skip("the interpreter takes a program at a time; pairs are for few tokens")


def compare(module: Any, given: Given) -> torch.Tensor:
    expected = form("experts", "reference").experts(*given)
    found = module.experts(*given)
    assert not expected.isnan().any()
    assert_near(found.cpu(), expected.cpu(), TOLERANCE[expected.dtype])
    return found


def compare_fp8(module: Any, given: Given, scales: Float8Scales, tolerance: float) -> None:
    expected = form("experts_fp8", "reference").experts_fp8(*given, scales)
    assert not expected.isnan().any()
    assert_near(module.experts_fp8(*given, scales).cpu(), expected.cpu(), tolerance)


@on_devices
@on_schedules
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", TOKENS)
def test_equals_reference(device: str, schedule: ExpertSchedule, shape: Any, tokens: int) -> None:
    few(schedule, tokens)
    given = inputs(tokens, shape, device)
    compare(kernels(schedule), given if tokens % 2 else skip_some(given))


@on_devices
@on_schedules
@pytest.mark.parametrize("dtype", [DTYPE] if INTERPRETED else [torch.bfloat16, torch.float16])
def test_same_inputs_give_the_same_bits(device: str, schedule: ExpertSchedule, dtype: torch.dtype) -> None:
    given = inputs(2 if INTERPRETED else 24, SHAPES[0], device, dtype)
    found = compare(kernels(schedule), given)
    for _ in range(1 if INTERPRETED else 20):
        assert torch.equal(kernels(schedule).experts(*given), found)


@on_devices
@on_schedules
def test_uneven_routing(device: str, schedule: ExpertSchedule) -> None:
    num_experts, top_k, _, _ = shape = SHAPES[-1]
    tokens = (2 if schedule.form == "pairs" else 9) if INTERPRETED else 40
    given = inputs(tokens, shape, device)
    # all to one pair of experts and the others without a token; all to the last; nothing for this rank at all
    compare(kernels(schedule), with_ids(given, torch.tensor([[3, 1]]).repeat(tokens, 1)))
    compare(kernels(schedule), with_ids(given, torch.tensor([[num_experts - 1, -1]]).repeat(tokens, 1)))
    nothing = with_ids(given, torch.full((tokens, top_k), -1))
    assert torch.equal(compare(kernels(schedule), nothing).cpu(), torch.zeros(tokens, shape[2], dtype=DTYPE))


@on_devices
@on_schedules
def test_ids_may_be_int32(device: str, schedule: ExpertSchedule) -> None:
    given = inputs(2, SHAPES[-1], device)
    found = kernels(schedule).experts(*given)
    assert torch.equal(kernels(schedule).experts(*given[:4], given[4].int()), found)


@on_devices
@on_schedules
@pytest.mark.parametrize("tokens", [1, 3] if INTERPRETED else [1, 5, 33])
@pytest.mark.parametrize("shape", [(5, 2, 96, 80)] if INTERPRETED else [(5, 2, 96, 80), (16, 6, 2688, 1856)])
def test_fp8_is_exact_where_nothing_is_rounded(device: str, schedule: ExpertSchedule, shape: Any, tokens: int) -> None:
    few(schedule, tokens)
    given, scales = whole_numbers(tokens, shape, device)
    compare_fp8(kernels(schedule), skip_some(given) if tokens > 1 else given, scales, EXACT)


@pytest.mark.gpu
@on_schedules
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", [1, 8, 33, 129])
def test_fp8_equals_reference(schedule: ExpertSchedule, shape: Any, tokens: int) -> None:
    given, scales = quantised(inputs(tokens, shape, "cuda"))
    # the matrix unit's own sums move more hidden values over a rounding tie
    tolerance = 2**-6 if schedule.promote else 2**-5
    compare_fp8(kernels(schedule), skip_some(given) if tokens > 1 else given, scales, tolerance)
    found = kernels(schedule).experts_fp8(*given, scales)
    assert torch.equal(kernels(schedule).experts_fp8(*given, scales), found)


@pytest.mark.parametrize("tokens", [1, 7])
def test_fp8_in_torch_equals_reference(tokens: int) -> None:
    given, scales = quantised(inputs(tokens, (8, 3, 96, 80), "cpu"))
    given = skip_some(given) if tokens > 1 else given
    compare_fp8(form("experts_fp8", "torch"), given, scales, 2**-6)
    ones = with_ids(given, torch.full_like(given[4], -1))
    assert torch.equal(form("experts_fp8", "torch").experts_fp8(*ones, scales), torch.zeros_like(given[0]))


@on_devices
@pytest.mark.parametrize(("tokens", "block_rows"), [(0, 16), (1, 4), (9, 4), (100, 4), (100, 16)])
def test_sort_equals_reference(device: str, tokens: int, block_rows: int) -> None:
    ids_Tk = random_ids(tokens, 20, 3)
    ids_Tk[torch.rand(ids_Tk.shape) < 0.2] = -1
    given = {"num_experts": 20, "block_rows": block_rows}
    pairs_n, blocks_b3 = form("_expert_sort", "reference").sort_pairs(ids_Tk, **given)
    found_n, found_b3 = form("_expert_sort", "triton").sort_pairs(ids_Tk.to(device), **given)
    held = int((ids_Tk >= 0).sum())
    assert torch.equal(found_n.cpu()[:held], pairs_n[:held]) and torch.equal(found_b3.cpu(), blocks_b3)
    if tokens:
        x_TD, scale = torch.randint(-8, 9, (tokens, 70)).half() / 2, torch.tensor(0.5)
        expected = form("_expert_sort", "reference").sort_pairs_quantising(ids_Tk, x_TD, scale, **given)[2]
        moved = (ids_Tk.to(device), x_TD.to(device), scale.to(device))
        found_n, found_b3, found = form("_expert_sort", "triton").sort_pairs_quantising(*moved, **given)
        assert torch.equal(found.cpu().float(), expected.float())
        assert torch.equal(found_n.cpu()[:held], pairs_n[:held]) and torch.equal(found_b3.cpu(), blocks_b3)


@on_devices
def test_sort_in_several_chunks(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form("_expert_sort", "triton"), "_CHUNK", 128)
    test_sort_equals_reference(device, 100 if INTERPRETED else 3000, 16)


@on_devices
def test_relu2(device: str) -> None:
    x = torch.tensor([[-2.0, -0.0, 0.5, 3.0, float("nan"), float("inf")]], dtype=torch.float16, device=device)
    found = form("experts", "triton").relu2(x).cpu()
    expected = form("experts", "reference").relu2(x.cpu())
    assert torch.equal(found.nan_to_num(-1.0, -2.0), expected.nan_to_num(-1.0, -2.0)) and found.isnan().sum() == 1


@on_devices
def test_no_tokens_and_the_table(device: str) -> None:
    triton_form = form("experts", "triton")
    assert triton_form.experts(*inputs(0, SHAPES[-1], device)).shape == (0, SHAPES[-1][2])
    # the table's own choice at each bucket's edge
    for tokens in (6,) if INTERPRETED else (1, 4, 8, 64, 513, 1500):
        compare(triton_form, inputs(tokens, SHAPES[-1], device))
        compare_fp8(form("experts_fp8", "triton"), *whole_numbers(tokens, (5, 2, 96, 80), device), EXACT)


def refused(given: Given, **other: torch.Tensor) -> tuple[torch.Tensor, ...]:
    names = ("x", "up", "down", "weights", "ids")
    return tuple(other.get(key, tensor) for key, tensor in zip(names, given, strict=True))


@on_devices
def test_refuses_what_it_was_not_built_for(device: str) -> None:
    module, given = form("experts", "triton"), inputs(4, SHAPES[-1], device)
    x, up, down, weights, ids = given
    for message, other in [
        ("not torch.float32", {"x": x.float()}),
        ("weights are torch.float32", {"up": up.float()}),
        ("do not fit", {"down": down[:, :-1]}),
        ("routing weights are float32, not torch.float64", {"weights": weights.double()}),
        ("ids are int32 or int64, not torch.int16", {"ids": ids.short()}),
        (r"not \[4, k\] both", {"ids": ids[:3]}),
        ("not contiguous", {"x": x.t().contiguous().t()}),
        ("not contiguous", {"up": up.transpose(1, 2).contiguous().transpose(1, 2)}),
    ]:
        with pytest.raises(ValueError, match=message):
            module.experts(*refused(given, **other))
    with pytest.raises(ValueError, match="runs on CUDA, not on meta"):
        module.experts(*(tensor.to("meta") for tensor in given))
    eight = form("experts_fp8", "triton")
    given, scales = whole_numbers(2, (5, 2, 96, 80), device)
    with pytest.raises(ValueError, match="weights are float8_e4m3fn, not"):
        eight.experts_fp8(*inputs(2, SHAPES[-1], device), scales)
    with pytest.raises(ValueError, match="scale up_E holds 5 float32"):
        eight.experts_fp8(*given, replace(scales, up_E=scales.up_E[:3]))


# kernel -> (file, what it says, what it shall say instead)
FAULTS = {
    "sort-pairs": ("_expert_sort_triton", "CHUNK), mask=own", "CHUNK) // 2, mask=own"),
    "sort-blocks": ("_expert_sort_triton", "tl.minimum(begin + BLOCK_ROWS, end)", "begin + 1"),
    "blocks-gather": ("_experts_blocks_triton", "pairs // TOP_K if UP", "pairs // (TOP_K + 1) if UP"),
    "blocks-tail": ("_experts_blocks_triton", "tl.range(0, K, BLOCK_K)", "tl.range(0, K - BLOCK_K, BLOCK_K)"),
    "blocks-relu2": ("_experts_blocks_triton", "relu2_values(out.to(tl.float32))", "out.to(tl.float32)"),
    "blocks-unwritten": ("_experts_blocks_triton", "(ns < N)[None, :])", "(ns < N - 1)[None, :])"),
    "sum-order": ("_experts_blocks_triton", "static_range(TOP_K)", "static_range(TOP_K - 1)"),
    "sum-weights": ("_experts_blocks_triton", "acc += weight *", "acc += tl.where(held, 1.0, 0.0) *"),
    "sum-skipped": ("_experts_blocks_triton", "held & (ds < D), other=0.0", "ds < D, other=0.0"),
    "pairs-up-tail": ("_experts_pairs_triton", "steps: tl.constexpr = (K + BLOCK_K - 1)", "steps: tl.constexpr = K"),
    "pairs-down-skipped": ("_experts_pairs_triton", "mask=held, other=0.0).to", "mask=pair >= 0, other=0.0).to"),
    "pairs-down-order": ("_experts_pairs_triton", "2 // chunks, ns", "0 // chunks, ns"),
    "pairs-unwritten": ("_experts_pairs_triton", "element_ty), mask=ns < N)", "element_ty), mask=ns < N - 1)"),
}


def broken(file: str, old: str, new: str, folder: Path) -> ModuleType:
    """A module of ours with a fault in its kernels; a file, because Triton reads kernels from files."""
    source = Path(form("experts", "triton").__file__ or "").with_name(f"{file}.py").read_text()
    assert old in source, old
    path = folder / f"broken{file}.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@on_devices
@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_sees_a_fault(device: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # sizes that no tile divides, and too few tokens for the wrong ids to be rare
    given = skip_some(inputs(4, (5, 2, 72, 40), device))
    file, old, new = FAULTS[fault]
    module = broken(file, old, new, tmp_path)
    schedule = next(one for one in SCHEDULES if one.form == ("pairs" if fault.startswith("pairs") else "blocks"))
    schedule = replace(schedule, up=Tile(16, 32, 4, 2), down=Tile(16, 32, 4, 2), tma=False)
    target = form("experts", "triton")
    if file == "_expert_sort_triton":
        monkeypatch.setattr(importlib.import_module(f"{PACKAGE}._experts_blocks_triton"), file, module)
    elif schedule.form == "pairs":
        monkeypatch.setattr(target, "experts_by_pair", module.experts_by_pair)
    else:
        monkeypatch.setattr(target, "experts_in_blocks", module.experts_in_blocks)
    with pytest.raises(AssertionError, match="error"):
        compare(kernels(schedule), given)


@pytest.mark.gpu
@on_schedules
def test_in_a_cuda_graph(schedule: ExpertSchedule) -> None:
    given = inputs(24, SHAPES[0], "cuda")
    run = kernels(schedule).experts
    run(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(*given)
    for _ in range(3):
        fresh = inputs(24, SHAPES[0], "cuda")
        for old, new in zip(given, fresh, strict=True):
            old.copy_(new)
        captured.fill_(float("nan"))
        graph.replay()
        assert torch.equal(captured, run(*given))


def test_a_schedule_survives_the_table() -> None:
    for schedule in SCHEDULES:
        assert ExpertSchedule.from_row(schedule.to_row(7)) == schedule
    assert ExpertSchedule("pairs", Tile(1, 2, 3, 4), Tile(5, 6, 7, 8)).to_row(None)["down"] == [5, 6, 7, 8]
