"""The whole decode step of a mixer on a CPU: the quick forms in a row against the references in a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sglang_nemotron.ops.step import StochasticRounding
from support.mamba_step_cases import case
from support.ops_cases import assert_near, form

CPU = torch.device("cpu")
# of the largest value: sums in another order; in bf16 nearly equal values may be rounded to either side, thrice
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3 * 2**-7}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shapes", [{}, {"norm": False}, {"heads": 6, "groups": 3, "width": 2, "bias": False}])
def test_torch_equals_reference(dtype: torch.dtype, shapes: dict[str, Any]) -> None:
    step = case([4, -1, 2], dtype=dtype, device=CPU, **shapes)
    found, expected = (step.run(form("mamba_step", name)) for name in ("torch", "reference"))
    assert not expected[0].isnan().any()
    for a, b, limit in zip(found, expected, (TOLERANCE[dtype], 0.0, max(TOLERANCE[dtype] / 3, 2e-6)), strict=True):
        assert_near(a, b, limit)


def test_a_cpu_rounds_no_state_at_random() -> None:
    step = case([4], state_dtype=torch.float16, device=CPU)
    rounding = StochasticRounding(torch.tensor([1]), 0)
    with pytest.raises(ValueError, match="float32"):
        form("mamba_step", "torch").mamba_step(
            *(step.conv_in_BC, step.gate_BI, step.dt_BH, step.conv_SCW, step.ssm_SHPN, step.weights),
            slots_B=step.slots_B,
            eps=1e-5,
            rounding=rounding,
        )
