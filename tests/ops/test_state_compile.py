"""The Triton kernels of a decode step compile for old and new cards, down to machine code; needs no GPU.

What the interpreter lets pass and the compiler does not shows here: types of constants, branches of compile time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.ops.schedules import Tile
from support.machine_code import stray_packs
from support.ops_cases import form

# the process that interprets has kernels that cannot be compiled
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(INTERPRETED, reason="kernels are interpreted")
# compute capability -> bytes of shared memory that one program may have
CARDS = {80: 163 << 10, 90: 227 << 10, 120: 99 << 10}
H, P, N, G, K, D, E = 64, 64, 128, 8, 4, 2688, 128
POINTERS = {
    **dict.fromkeys(("conv_in", "gate", "dt_raw", "windows", "conv_w", "conv_b", "norm_w", "mixed", "y"), "*bf16"),
    **dict.fromkeys(("A_H", "D_H", "dt_bias_H", "steps_BH2", "bias", "partial_STE", "weights_Tk"), "*fp32"),
    **dict.fromkeys(("slots_B", "counters", "conv", "ssm"), "*i32"),
    **dict.fromkeys(("seed_1", "ids_Tk", "src_B", "dst_B"), "*i64"),
    **{"x": "*bf16", "mask_B": "*i1"},
    **dict.fromkeys(("eps", "dt_min", "dt_max", "scale"), "fp32"),
    **dict.fromkeys(("stride_conv_l", "stride_ssm_l"), "i64"),
}


def check(kernel: Any, card: int, constants: dict[str, Any], warps: int, **types: str) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = [parameter.name for parameter in kernel.params]
    constants = {name: value for name, value in constants.items() if name in names}
    types = {**POINTERS, **types}
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types.get(name, "").startswith("*")},
    )
    options = {"num_warps": warps, **({"launch_pdl": True} if card >= 90 else {})}
    compiled = compile(source, target=GPUTarget("cuda", card, 32), options=options)
    assert compiled.metadata.shared <= CARDS[card]
    return compiled


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize(("state", "stochastic"), [("fp32", False), ("fp16", True)])
def test_mamba_step(card: int, state: str, stochastic: bool) -> None:
    module = form("mamba_step", "triton")
    fixed = {"H": H, "P": P, "N": N, "G": G, "K": K, "C": H * P + 2 * G * N, "HAS_BIAS": True, "PDL": card >= 90}
    fixed |= {"NORM": True, "STOCHASTIC": stochastic, "ROUNDS": 7, **({} if stochastic else {"seed_1": None})}
    fixed |= {"BLOCK_C": 256, "BLOCK_H": H, "BLOCK_N": N, "BLOCK_G": H * P // G}
    check(module._conv_kernel, card, fixed, 4)
    table = module._SCHEDULES["NVIDIA H200"][4 if state == "fp32" else 2, stochastic]
    for schedule in (schedule for _, schedule in (table if card == 90 else table[-1:])):
        cut = {"SPLITS": schedule.splits, "STAGES": schedule.stages, "BLOCK_P": schedule.block_p}
        check(module._step_kernel, card, fixed | cut, schedule.warps, states=f"*{state}")


@pytest.mark.parametrize(("card", "weight"), [(80, "bf16"), (90, "bf16"), (90, "fp32"), (120, "bf16")])
def test_router(card: int, weight: str) -> None:
    module = form("router", "triton")
    fixed = {"D": D, "E": E, "TOP_K": 6, "RENORMALIZE": True, "EXACT_16": weight == "bf16", "PDL": card >= 90}
    fixed |= {"BLOCK_E": E, "BLOCK_K": 8}
    table = module._SCHEDULES
    for schedule in (schedule for _, schedule in (table if card == 90 else table[1:2])):
        _, splits, apart = module._cut(schedule, 512, D)
        cut = {"SPLITS": splits, "APART": apart, "BLOCK_T": schedule.block_t, **({"counters": None} if apart else {})}
        cut |= {"BLOCK_C": 1, "BLOCK_D": schedule.block_d if weight == "bf16" else 32}
        check(module._route_kernel, card, fixed | cut, schedule.warps, weight=f"*{weight}")
        if apart:
            check(module._choose_kernel, card, fixed | cut | {"BLOCK_C": schedule.choose_t}, 4)


@pytest.mark.parametrize("card", CARDS)
def test_track(card: int) -> None:
    words = {"CONV_WORDS": 9216, "SSM_WORDS": 524288, "CONV_BLOCKS": 3, "SSM_BLOCKS": 128}
    check(form("track", "triton")._copy_kernel, card, {**words, "BLOCK_B": 512, "BLOCK": 4096}, 8)


# ---- whole layers of a step with few rows

WIDTH, SHARED, TOP_K, CHANNELS = 1856, 3712, 6, H * P + 2 * G * N
FLOAT8 = "fp8e4nv"


def streams(weights: str, *, tokens: int, card: int, per_row: bool = False) -> dict[str, Any]:
    """What every such kernel is told, with weights of one type."""
    vector = 16 if weights == FLOAT8 else 8
    vectors = {"VECTOR": vector, "SHARED_VECTOR": vector, "ROUTER_VECTOR": 8}
    sizes = {"T": tokens, "D": D, "ROW": 4096}
    return {**vectors, **sizes, "PDL": card >= 90, "FLOAT8": weights == FLOAT8, "PER_ROW": per_row}


def few_rows(weights: str) -> dict[str, str]:
    named = ("h", "norm_D", "norm_K", "gate", "x_TD", "y", "w_ED", "hidden_TS")
    scales = ("x_scale", "w_scale", "shared_x_scale", "shared_w_scale", "hidden_scale", "w_scale_E", "logits_TE")
    loads = ("w_NK", "w_ND", "up_SD", "shared_w", "w_EDI", "hidden_nI")
    return {
        **dict.fromkeys(named, "*bf16"),
        **dict.fromkeys(scales, "*fp32"),
        **dict.fromkeys(loads, f"*{weights}"),
        "bias_E": "*fp32",
    }


# float8_operand in ops/_launch_triton.py says what goes wrong with equal pairs of FP8 numbers
@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize(("card", "weights"), [(80, "bf16"), (90, "bf16"), (90, FLOAT8), (120, "bf16")])
def test_few_rows(card: int, weights: str, tokens: int, tmp_path: Path) -> None:
    module, types = form("few_rows", "triton"), few_rows(weights)
    fixed = streams(weights, tokens=tokens, card=card)
    absent = {} if weights == FLOAT8 else dict.fromkeys(("x_scale", "w_scale", "hidden_scale", "w_scale_E"))
    tiles = module._TILES[1 if weights == FLOAT8 else 2]

    def check_few(kernel: Any, tile: Tile, constants: dict[str, Any], types: dict[str, str]) -> None:
        cut = {"BLOCK_N": tile.out, "BLOCK_K": tile.inner}
        made = check(kernel, card, fixed | absent | cut | constants, tile.warps, **types)
        assert weights != FLOAT8 or not stray_packs(made, tmp_path)

    for ends in ({"NORM": True, "ADD": False}, {"NORM": False, "ADD": True, "norm_K": None}):
        check_few(module._linear_kernel, tiles.linear, ends | {"N": 10304, "K": D}, types)
    mamba = {"INNER": H * P, "C": CHANNELS, "H": H, "K": K, "HAS_BIAS": True}
    check_few(module.mamba_in_kernel, tiles.mamba_in, mamba, types)
    moe = {"E": E, "S": SHARED, "TOP_K": TOP_K, "RENORMALIZE": True, "BLOCK_E": E, "BLOCK_TOP": 8}
    kept = {**types, "hidden_TS": f"*{weights}"}
    check_few(module.route_and_shared_up_kernel, tiles.route, moe, kept)
    for shared in {weights, "bf16"}:
        eight = shared == FLOAT8
        down = {"E": E, "S": SHARED, "TOP_K": TOP_K, "WIDTH": WIDTH, "SHARED_FLOAT8": eight}
        down |= {
            "SHARED_VECTOR": 16 if eight else 8,
            **({} if eight else {"shared_x_scale": None, "shared_w_scale": None}),
        }
        given = {**types, "shared_w": f"*{shared}", "hidden_TS": f"*{shared}"}
        check_few(module.down_and_add_kernel, tiles.down, down, given)
