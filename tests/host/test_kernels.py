"""Which kernels a server of ours asks SGLang for: a user's own flag wins, and other cards keep SGLang's choice."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.arg_groups.mamba_hook import handle_mamba_backend
from sglang.srt.arg_groups.overrides import resolving_view, validate_declarations
from sglang.srt.server_args import prepare_server_args

from sglang_nemotron.host import kernels
from sglang_nemotron.state.rounding import ROUNDING

CUTLASS = {"moe_runner_backend": "flashinfer_cutlass"}
FLAG = "--enable-mamba-cache-stochastic-rounding"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this machine's card one of that compute capability, or none."""
    monkeypatch.setenv(ROUNDING, "stale")

    def choose(capability: tuple[int, int] | None) -> None:
        platform = SimpleNamespace(is_cuda=capability is not None, device_capability=capability)
        monkeypatch.setattr(kernels, "get_platform", lambda: platform)

    return choose


def view(**given: Any) -> Any:
    plain = {
        "moe_runner_backend": "auto",
        "moe_a2a_backend": "none",
        "ep_size": 1,
        "mamba_ssm_dtype": None,
        "enable_mamba_cache_stochastic_rounding": False,
    }
    return SimpleNamespace(**plain | given)


@pytest.mark.parametrize(
    ("capability", "quantised", "chosen"),
    [
        ((8, 0), False, True),
        ((8, 0), True, False),
        ((8, 9), True, True),
        ((9, 0), True, True),
        ((9, 0), False, True),
        ((10, 0), False, False),
        ((12, 0), True, False),
        (None, False, False),
    ],
)
def test_experts_run_on_ours_before_blackwell(on: Any, capability: Any, quantised: bool, chosen: bool) -> None:
    on(capability)
    declared = CUTLASS | ({"quantization": "modelopt_fp8"} if quantised else {})
    assert kernels.runner_of_experts(view(), declared) == ({"moe_runner_backend": "triton"} if chosen else {})


@pytest.mark.parametrize(
    ("given", "declared"),
    [
        ({"moe_runner_backend": "flashinfer_cutlass"}, {}),
        ({"moe_runner_backend": "triton"}, {}),
        ({"ep_size": 2}, CUTLASS),
        ({"moe_a2a_backend": "deepep"}, CUTLASS),
        ({}, {"moe_runner_backend": "marlin"}),
        ({}, {}),
    ],
)
def test_what_the_user_or_sglang_decides_stays(on: Any, given: dict[str, Any], declared: dict[str, Any]) -> None:
    on((9, 0))
    assert kernels.runner_of_experts(view(**given), declared) == {}


def test_random_rounding_is_ours_from_ampere_on(on: Any) -> None:
    on((8, 0))
    asked = prepare_server_args(["--model-path", "none", "--mamba-ssm-dtype", "float16", FLAG])
    kernels.take_over_rounding(asked, resolving_view(asked))
    assert not resolving_view(asked).enable_mamba_cache_stochastic_rounding
    assert os.environ[ROUNDING] == "stochastic"
    # SGLang's own check, which refuses the flag on every card but Blackwell, has nothing left to refuse
    handle_mamba_backend(asked)
    # a second server of this process that is not asked for it
    kernels.take_over_rounding(asked, view(mamba_ssm_dtype="float16"))
    assert ROUNDING not in os.environ


def test_what_we_declare_may_be_declared(on: Any) -> None:
    on((9, 0))
    server_args = prepare_server_args(["--model-path", "none"])
    chosen = kernels.runner_of_experts(view(), CUTLASS)
    validate_declarations(server_args, [("ours", chosen)])
    assert chosen


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        ((9, 0), None, "--mamba-ssm-dtype is not given; add --mamba-ssm-dtype float16"),
        ((9, 0), "bfloat16", "--mamba-ssm-dtype is bfloat16"),
        ((7, 5), "float16", "compute capability 8.0"),
        (None, "float16", "needs an NVIDIA GPU"),
    ],
)
def test_random_rounding_without_what_it_needs(on: Any, capability: Any, dtype: str | None, said: str) -> None:
    on(capability)
    with pytest.raises(ValueError) as refused:
        kernels.take_over_rounding(None, view(enable_mamba_cache_stochastic_rounding=True, mamba_ssm_dtype=dtype))
    assert FLAG in str(refused.value) and said in str(refused.value)


@pytest.mark.parametrize(
    ("capability", "words", "off"),
    [
        ((9, 0), ["--tp", "2"], True),
        ((10, 0), ["--tp", "4"], True),
        ((9, 0), [], False),
        ((8, 0), ["--tp", "2"], False),
        (None, ["--tp", "2"], False),
        ((9, 0), ["--tp", "2", "--flashinfer-allreduce-fusion-backend", "trtllm"], False),
    ],
)
def test_ranks_add_up_without_what_is_compiled_first(
    on: Any, monkeypatch: pytest.MonkeyPatch, capability: Any, words: list[str], off: bool
) -> None:
    on(capability)
    args = prepare_server_args(["--model-path", "x", *words])
    said: list[str] = []
    monkeypatch.setattr(kernels.logger, "info", said.append)
    kernels.leave_sums_unfused(args, resolving_view(args))
    assert resolving_view(args).enforce_disable_flashinfer_allreduce_fusion is off
    assert len(said) == off and all("--flashinfer-allreduce-fusion-backend auto" in line for line in said)


def test_sglang_takes_the_switch(on: Any) -> None:
    """SGLang's own pass after its choice reads what was declared."""
    from sglang.srt.arg_groups.overrides import _enforce_disable_allreduce_fusion

    on((9, 0))
    args = prepare_server_args(["--model-path", "x", "--tp", "2"])
    assert _enforce_disable_allreduce_fusion(resolving_view(args)) == {}
    kernels.leave_sums_unfused(args, resolving_view(args))
    assert _enforce_disable_allreduce_fusion(resolving_view(args)) == {"flashinfer_allreduce_fusion_backend": None}
