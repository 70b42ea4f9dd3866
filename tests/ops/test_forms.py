"""The table of forms: what serves which call, the user's own choice, one line in the log, and no row that is dead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_nemotron import ops
from sglang_nemotron.ops import forms
from sglang_nemotron.ops.forms import APART, FORMS, LAYER, OPS, OVERRIDE, REFERENCE, Case, choose, forms_of

HOPPER, BLACKWELL = (9, 0), (10, 0)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No override of this machine's, and a log in which nothing was said yet."""
    monkeypatch.delenv(OVERRIDE, raising=False)
    forms._overrides.cache_clear()
    forms._say.cache_clear()


def a_case(op: str, device: str = "cpu", capability: tuple[int, int] = (0, 0), **changes: Any) -> Case:
    made = Case(op, device, capability, torch.bfloat16, torch.bfloat16, 4, (("D", 8), ("H", 2), ("Q", 1)))
    return made._replace(**changes)


def chosen(op: str, *place: Any, **changes: Any) -> str:
    return choose(a_case(op, *place, **changes)).name


@pytest.mark.parametrize("op", OPS)
def test_a_cpu_is_served_by_torch(op: str) -> None:
    assert chosen(op) == (APART if op in ("mamba_step", "few_rows") else "torch")


def test_cuda_is_served_by_our_kernels_where_there_are_some() -> None:
    named = {op: chosen(op, "cuda", HOPPER) for op in OPS}
    ours = {"experts", "experts_fp8", "router", "mamba_step"}
    assert named.pop("few_rows") == APART
    assert named == {op: "triton" if op in ours else "sglang" for op in named}


@pytest.mark.parametrize(
    ("rows", "place", "name"),
    [
        (1, ("cuda", HOPPER), "triton"),
        (2, ("cuda", HOPPER), "triton"),
        (3, ("cuda", HOPPER), APART),
        # not measured there: only an override takes it
        (1, ("cuda", (8, 0)), APART),
        (1, ("cuda", BLACKWELL), APART),
        (1, ("cpu",), APART),
    ],
)
def test_few_rows_go_whole_layers_at_a_time_where_that_was_measured(
    rows: int, place: tuple[Any, ...], name: str
) -> None:
    assert chosen("few_rows", *place, rows=rows) == name


@pytest.mark.parametrize(
    ("rows", "stored", "capability", "traits", "name"),
    [
        (16, torch.float32, HOPPER, (), "triton"),
        (17, torch.float32, HOPPER, (), APART),
        (512, torch.float16, HOPPER, (), "triton"),
        (512, torch.bfloat16, BLACKWELL, (), "triton"),
        (1, torch.float32, (7, 5), (), APART),
        (512, torch.float16, HOPPER, ("rounded_at_random",), "triton"),
        # a call of the fused op is served by a fused form
        (512, torch.float32, HOPPER, ("called",), "triton"),
    ],
)
def test_one_step_in_two_launches_where_that_pays(
    rows: int, stored: torch.dtype, capability: tuple[int, int], traits: tuple[str, ...], name: str
) -> None:
    assert chosen("mamba_step", "cuda", capability, rows=rows, stored=stored, traits=traits) == name


def test_an_override_takes_a_form_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in ((APART, 1), ("triton", 512)):
        monkeypatch.setenv(OVERRIDE, f"mamba_step={name}")
        forms._overrides.cache_clear()
        assert chosen("mamba_step", "cuda", HOPPER, rows=rows, stored=torch.float32) == name
    monkeypatch.setenv(OVERRIDE, f"mamba_step={APART}")
    forms._overrides.cache_clear()
    with pytest.raises(ValueError, match="which does not serve"):
        chosen("mamba_step", "cuda", HOPPER, traits=("rounded_at_random",))


def test_random_rounding_on_a_cpu_is_the_fused_twins() -> None:
    assert chosen("mamba_step", traits=("rounded_at_random",)) == "torch"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"capability": (8, 0)}, "sglang"),
        ({"capability": (8, 9), "dtype": torch.float16}, "sglang"),
        ({"capability": BLACKWELL}, "torch"),
        ({"capability": (7, 5)}, "torch"),
        ({"dtype": torch.float32}, "torch"),
    ],
)
def test_flash_attention_serves_where_it_is_built(changes: dict[str, Any], name: str) -> None:
    assert chosen("full_attention", "cuda", **{"capability": HOPPER, **changes}) == name


def test_a_norm_over_ranks_is_torchs() -> None:
    assert chosen("gated_norm", "cuda", HOPPER, traits=("spans_ranks",)) == "torch"


def test_every_row_serves_some_call() -> None:
    reached = set()
    for op in OPS:
        for place in (("cpu",), ("cuda", HOPPER), ("cuda", BLACKWELL)):
            for traits in ((), ("spans_ranks",), ("packed",), ("rounded_at_random",)):
                if op == "few_rows" and traits:
                    continue
                for dtype, rows in ((torch.float32, 4), (torch.bfloat16, 4), (torch.bfloat16, 1)):
                    reached.add((op, chosen(op, *place, traits=traits, dtype=dtype, rows=rows)))
    assert reached == {(row.op, row.name) for row in FORMS if not row.on_request}


def test_a_form_on_request_serves_an_override_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [row for row in FORMS if row.on_request]
    assert {row.name for row in waiting} == {"triton"}
    monkeypatch.setenv(OVERRIDE, ",".join(f"{row.op}={row.name}" for row in waiting))
    assert [chosen(row.op, "cuda", HOPPER, rows=1) for row in waiting] == [row.name for row in waiting]


@pytest.mark.parametrize(
    ("changes", "serves"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),
        ({"stored": torch.float8_e4m3fn}, False),
        ({"traits": ("packed",)}, False),
        ({"traits": ("managed",)}, False),
        ({"capability": (7, 5)}, False),
    ],
)
def test_experts_on_our_kernels_where_they_are_right(
    changes: dict[str, Any], serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = a_case("experts", "cuda", HOPPER)._replace(**changes)
    assert choose(asked).name == ("triton" if serves else LAYER)
    called = asked._replace(traits=(*asked.traits, "called"))
    if serves:
        assert choose(called).name == "triton"
    else:
        with pytest.raises(ValueError, match="no form of op 'experts' serves"):
            choose(called)
    monkeypatch.setenv(OVERRIDE, "experts=layer")
    forms._overrides.cache_clear()
    assert choose(asked).name == LAYER


def test_fp8_experts_need_a_card_that_multiplies_fp8() -> None:
    assert [chosen("experts_fp8", "cuda", place) for place in ((8, 0), (8, 9), HOPPER, BLACKWELL)] == [
        *(LAYER, "triton", "triton", "triton")
    ]


def test_every_file_of_a_form_has_a_row() -> None:
    folder = Path(forms.__file__).parent
    files = {file.stem for file in folder.glob("[a-z]*_*.py")}
    rows = {f"{row.op}_{row.name}" for row in FORMS if row.name not in (LAYER, APART)}
    assert files == rows | {f"{op}_{REFERENCE}" for op in OPS}


def test_a_device_without_a_form_is_named() -> None:
    with pytest.raises(ValueError, match=r"no form of op 'ssd' serves .*xpu.*; it has sglang \(cuda\), torch \(cpu\)"):
        chosen("ssd", "xpu")


# ---- the user's own choice


def test_an_override_serves_its_op_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "full_attention=torch, router=reference")
    assert chosen("full_attention", "cuda", HOPPER) == "torch" and chosen("router") == REFERENCE
    assert chosen("gated_norm", "cuda", HOPPER) == "sglang"
    assert forms.module_for(a_case("router")).__name__.endswith("ops.router_reference")


def test_an_override_that_cannot_serve_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "gated_norm=sglang")
    assert chosen("gated_norm", "cuda", HOPPER) == "sglang"
    with pytest.raises(ValueError, match="SGLANG_NEMOTRON_OPS asks for gated_norm=sglang, which does not serve"):
        chosen("gated_norm", "cuda", HOPPER, traits=("spans_ranks",))


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("gated_norm=fast", "allowed: gated_norm=sglang|torch|reference"),
        ("gated_norm", "allowed: gated_norm=sglang|torch|reference"),
        ("norm=torch", "allowed: one of conv1d, "),
    ],
)
def test_an_override_of_nothing_is_refused(text: str, allowed: str) -> None:
    with pytest.raises(ValueError) as refused:
        forms.check_overrides({OVERRIDE: text})
    assert repr(text) in str(refused.value) and allowed in str(refused.value)
    forms.check_overrides({})


# ---- said once


def test_each_choice_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger=forms.__name__):
        for rows in (1, 2, 3):
            x = torch.randn(rows, 8)
            ops.gated_norm(x, x, torch.ones(8), num_groups=2, eps=1e-5)
        ops.gated_norm(x, x, torch.ones(8), num_groups=2, eps=1e-5, reduce_sum=lambda squares: squares)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "op gated_norm on cpu: torch (torch.float32, stored torch.float32, I=8 Q=2)",
        "op gated_norm on cpu: torch (torch.float32, stored torch.float32, I=8 Q=2 spans_ranks)",
    ]


def test_packed_experts_are_told_from_plain_ones() -> None:
    x_TD = torch.zeros(3, 8)
    plain = ops.experts_case(x_TD, torch.zeros(4, 6, 8), top_k=2)
    assert (plain.size("E"), plain.size("I"), plain.size("D"), plain.size("k"), plain.traits) == (4, 6, 8, 2, ())
    for packed in (None, torch.zeros(4, 6, 4, dtype=torch.uint8), torch.zeros(4, 2, 3, 8)):
        assert ops.experts_case(x_TD, packed, top_k=2).traits == ("packed",)
    assert ops.experts_case(x_TD, torch.zeros(4, 6, 8), top_k=2, managed=True).traits == ("managed",)
    assert ops.experts_case(x_TD, torch.zeros(4, 6, 8).to(torch.float8_e4m3fn), top_k=2).op == "experts_fp8"


def test_rows_of_an_op_are_in_order() -> None:
    assert [row.name for row in forms_of("full_attention")] == ["sglang", "torch"]
