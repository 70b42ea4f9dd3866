"""Slots, bytes and splits are SGLang's own, by its own functions; the tables of docs/state.md are what comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.state.capacity import (
    Need,
    Pools,
    choose_ratio,
    choose_strategy,
    pools_of,
    ratio_of,
    share_of_states,
    skips_decode_lock,
    slots_per_request,
)
from sglang_nemotron.state.layout import StateLayout, state_layout
from support.specs import relayered

ROOT = Path(__file__).parents[2]
PUBLISHED = decoder_spec(json.loads((ROOT / "tests" / "data" / "nano-30b-a3b.config.json").read_text()))
STATE_DOC = ROOT / "docs" / "state.md"
GIB = 2**30
CONTEXT = 262_144


def layout(ssm_dtype: str = "float32", pattern: str | None = None, tp_size: int = 1) -> StateLayout:
    spec = PUBLISHED if pattern is None else relayered(PUBLISHED, pattern)
    return state_layout(spec, tp_size=tp_size, conv_dtype="bfloat16", ssm_dtype=ssm_dtype, kv_dtype="bfloat16")


# ---- slots a request


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("strategy", [None, "no_buffer", "extra_buffer", "extra_buffer_lazy"])
def test_slots_are_those_that_sglang_admits_by(
    strategy: str | None, overlap: bool, skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sglang.srt.mem_cache import kv_cache_configurator as theirs

    mamba = SimpleNamespace(
        enable_mamba_extra_buffer=strategy in ("extra_buffer", "extra_buffer_lazy"),
        enable_mamba_extra_buffer_lazy=strategy == "extra_buffer_lazy",
    )
    monkeypatch.setattr(theirs, "get_memory", lambda: SimpleNamespace(disable_radix_cache=strategy is None))
    monkeypatch.setattr(theirs, "get_exec", lambda: SimpleNamespace(mamba=mamba))
    monkeypatch.setattr(theirs, "get_schedule", lambda: SimpleNamespace(disable_overlap_schedule=not overlap))
    monkeypatch.setenv("SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK", "1" if skip else "0")
    admitted = theirs.KVCacheConfigurator._calculate_mamba_ratio
    if strategy == "extra_buffer_lazy" and not overlap:
        with pytest.raises(AssertionError):
            admitted(SimpleNamespace())
        with pytest.raises(ValueError, match="needs the overlap schedule"):
            slots_per_request(strategy, overlap=False, skip_decode_lock=skip)
        return
    assert slots_per_request(strategy, overlap=overlap, skip_decode_lock=skip) == admitted(SimpleNamespace())


# ---- what a server and a plan of one choose alike


@pytest.mark.parametrize(
    ("overlap", "has_states", "ours", "page_size", "chosen"),
    [
        (True, True, True, 1, "extra_buffer_lazy"),
        (True, True, False, 1, "extra_buffer"),
        (True, False, True, 1, "extra_buffer"),
        (False, True, True, 1, "no_buffer"),
        (False, True, True, 64, "extra_buffer"),
        (False, False, False, 1, "no_buffer"),
    ],
)
def test_the_strategy_that_nobody_gave(
    overlap: bool, has_states: bool, ours: bool, page_size: int, chosen: str
) -> None:
    found = choose_strategy(overlap=overlap, has_states=has_states, ours=ours, page_size=page_size)
    assert found == chosen and skips_decode_lock(found) == (chosen == "extra_buffer_lazy")


def test_the_ratio_that_nobody_gave() -> None:
    known = {"most_requests": 10, "context_tokens": CONTEXT}
    need, bytes_ = Need(3, 2048), 20 * GIB
    share = share_of_states(layout(), need, budget=bytes_, most_requests=10, least_tokens=CONTEXT)
    assert choose_ratio(layout(), need, budget=bytes_, **known) == ratio_of(share)
    # without a budget the hint alone divides: no number of requests, and no context, is looked at
    alone = ratio_of(share_of_states(layout(), need))
    assert alone != ratio_of(share)
    assert {choose_ratio(layout(), need, budget=no, **known) for no in (None, -1)} == {alone}
    assert choose_ratio(layout(pattern="*E"), need, budget=bytes_, **known) is None
    assert choose_ratio(layout(pattern="ME"), need, budget=bytes_, **known) is None


# ---- slots a request, by hand


def test_slots_by_hand() -> None:
    assert slots_per_request("extra_buffer") == 5
    assert slots_per_request("extra_buffer_lazy") == 4
    assert slots_per_request("extra_buffer_lazy", skip_decode_lock=True) == 3
    assert slots_per_request(None) == 1
    with pytest.raises(ValueError, match="strategy='auto' is not supported; allowed: no_buffer"):
        slots_per_request("auto")


# ---- bytes of pools


@pytest.mark.parametrize("ratio", [0.1, 0.9, 5.851, 19.504])
@pytest.mark.parametrize("gib", [2.0, 7.7, 63.6])
def test_pools_are_those_that_sglang_makes(gib: float, ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.mem_cache import kv_cache_configurator as theirs

    whole = layout()
    schedule = SimpleNamespace(max_mamba_cache_size=None, mamba_full_memory_ratio=ratio, max_running_requests=None)
    exec_ = SimpleNamespace(mamba=SimpleNamespace(enable_linear_replayssm_spec=False))
    monkeypatch.setattr(theirs, "get_schedule", lambda: schedule)
    monkeypatch.setattr(theirs, "get_exec", lambda: exec_)
    monkeypatch.setattr(theirs, "get_memory", lambda: SimpleNamespace(disable_radix_cache=False))
    context = SimpleNamespace(override=lambda _, **fields: vars(schedule).update(fields))
    monkeypatch.setattr(theirs, "get_context", lambda: context)
    params = SimpleNamespace(layers=list(whole.mamba_layers), mamba_cache_per_req=whole.bytes_per_slot)
    configurator: Any = SimpleNamespace(
        mambaish_config=SimpleNamespace(mamba2_cache_params=params),
        pp_size=1,
        spec_algorithm=SimpleNamespace(is_none=lambda: True),
        fused_entry_bytes=lambda _: None,
        extra_mamba_cache_bytes_per_req=0,
        attn_dp_size=1,
    )
    rest = theirs.KVCacheConfigurator._handle_max_mamba_cache(configurator, gib)
    ours = pools_of(whole, gib * GIB, ratio)
    assert ours.num_slots == schedule.max_mamba_cache_size
    assert ours.state_bytes(whole) + rest * GIB == pytest.approx(gib * GIB)
    assert abs(ours.num_tokens - int(rest * GIB) // whole.kv_bytes_per_token) <= 1


def test_padding_is_counted() -> None:
    whole = layout()
    pools = Pools(num_slots=512, num_tokens=64_000, page_size=64)
    assert pools.state_bytes(whole) == 513 * whole.bytes_per_slot
    assert pools.kv_bytes(whole) == 64_064 * whole.kv_bytes_per_token


def test_pages_are_whole() -> None:
    paged = pools_of(layout(), 7.7 * GIB, 0.9, page_size=64)
    assert paged.num_tokens % 64 == 0 and paged.num_slots == pools_of(layout(), 7.7 * GIB, 0.9).num_slots


@pytest.mark.parametrize(
    ("of", "budget", "said"),
    [
        (layout(pattern="MM"), GIB, "only one of them"),
        (layout(pattern="**"), GIB, "only one of them"),
        (layout(), 2**20, "hold no state of 49082368 bytes"),
    ],
)
def test_what_cannot_be_divided(of: StateLayout, budget: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pools_of(of, budget, 1.0)


# ---- the split


@pytest.mark.parametrize("tokens", [1, 2048, 100_000])
@pytest.mark.parametrize("ssm_dtype", ["float32", "float16"])
@pytest.mark.parametrize("tp_size", [1, 2, 8])
def test_no_other_split_runs_more(tokens: int, ssm_dtype: str, tp_size: int) -> None:
    whole, need = layout(ssm_dtype, tp_size=tp_size), Need(3, tokens)
    best = pools_of(whole, 63.6 * GIB, ratio_of(share_of_states(whole, need))).requests(need)
    shares = [share / 100 for share in range(1, 100)]
    others = [pools_of(whole, 63.6 * GIB, share / (1 - share)).requests(need) for share in shares]
    # one request at most is lost by whole slots and by five digits of the ratio
    assert max(others) <= best + max(1, best // 500)


def test_a_known_budget_changes_nothing_by_itself() -> None:
    whole, need = layout(), Need(3, 4096)
    assert share_of_states(whole, need, budget=63.6 * GIB) == pytest.approx(share_of_states(whole, need))


def test_a_cap_on_requests_leaves_the_rest_to_cached_prefixes() -> None:
    whole, need = layout(), Need(3, 4096)
    capped = share_of_states(whole, need, budget=63.6 * GIB, most_requests=32)
    pools = pools_of(whole, 63.6 * GIB, ratio_of(capped))
    assert pools.requests(need) >= 32
    cached = (pools.num_slots - 32 * 3, (pools.num_tokens - 32 * 4096) / 4096)
    assert cached[0] == pytest.approx(cached[1], rel=0.01)
    # a cap that is never reached is none
    assert share_of_states(whole, need, budget=GIB, most_requests=9999) == pytest.approx(share_of_states(whole, need))


def test_the_longest_request_fits_up_to_half_of_the_memory() -> None:
    whole, need = layout(), Need(3, 2048)
    floored = share_of_states(whole, need, budget=7.7 * GIB, least_tokens=CONTEXT)
    assert (1 - floored) * 7.7 * GIB == pytest.approx(CONTEXT * whole.kv_bytes_per_token)
    assert share_of_states(whole, need, budget=2 * GIB, least_tokens=CONTEXT) == pytest.approx(0.5)


def test_models_of_one_kind() -> None:
    need = Need(3, 2048)
    assert share_of_states(layout(pattern="MM"), need) == 1.0
    assert share_of_states(layout(pattern="**"), need) == 0.0
    assert share_of_states(layout(pattern="EE"), need) == 0.0


# ---- what docs/state.md says


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under this heading of docs/state.md, without its head."""
    section = STATE_DOC.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_requests_that_run_at_once_are_those_of_the_table() -> None:
    table = rows("Requests at once, by arithmetic")
    assert len(table) == 4
    for slots, dtype, large, small, floored in table:
        whole, need = layout(dtype), Need(int(slots), 2048)
        ratio = ratio_of(share_of_states(whole, need))
        ours = [pools_of(whole, gib * GIB, ratio).requests(need) for gib in (63.6, 7.7)]
        share = share_of_states(whole, need, budget=7.7 * GIB, least_tokens=CONTEXT)
        ours.append(pools_of(whole, 7.7 * GIB, ratio_of(share)).requests(need))
        assert [int(cell) for cell in (large, small, floored)] == ours, (slots, dtype)


def test_other_lengths_are_those_of_the_table() -> None:
    table = rows("Other lengths than the hint")
    assert len(table) >= 5
    whole = layout()
    for cells in table:
        tokens, *said = (int(re.sub(r"\D", "", cell)) for cell in cells)
        ours = [pools_of(whole, 63.6 * GIB, 0.9).requests(Need(5, tokens))]
        for hint in (2048, 4096, 8192, 16384, 32768):
            share = share_of_states(whole, Need(3, hint), budget=63.6 * GIB, least_tokens=CONTEXT)
            ours.append(pools_of(whole, 63.6 * GIB, ratio_of(share)).requests(Need(3, tokens)))
        assert said == ours, tokens


def test_fewer_slots_run_what_the_text_says() -> None:
    (said,) = re.findall(r"fp32 states: ([\d,]+) with two slots, ([\d,]+) with one", STATE_DOC.read_text())
    whole = layout()
    for slots, count in zip((2, 1), said, strict=True):
        need = Need(slots, 2048)
        ours = pools_of(whole, 63.6 * GIB, ratio_of(share_of_states(whole, need))).requests(need)
        assert int(count.replace(",", "")) == ours
