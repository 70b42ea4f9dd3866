"""Copying states aside in one launch, bit by bit: against the reference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.ops_cases import NAN, form
from support.triton_cases import DEVICE, FULL_SIZE, ON_TRITON

pytestmark = ON_TRITON
REFERENCE = form("track", "reference")


@pytest.fixture(scope="module")
def triton_form() -> Any:
    return form("track", "triton")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def pools(shape: tuple[int, ...], width: int, dtypes: tuple[torch.dtype, ...], slots: int) -> tuple[torch.Tensor, ...]:
    """Conv windows that lie channels last, of every second layer of a pool, and states."""
    conv = torch.randn(6, slots, width, 26, device=DEVICE).to(dtypes[0])[::2].transpose(2, 3)
    return conv, torch.randn(3, slots, *shape, device=DEVICE).to(dtypes[1])


def compare(
    module: Any,
    src: list[int],
    dst: list[int],
    mask: list[bool],
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32),
    shape: tuple[int, ...] = (2, 40, 65),
    slots: int = 10,
    index: torch.dtype = torch.int64,
) -> None:
    given = pools(shape, 3, dtypes, slots)
    for slot, wanted in zip(dst, mask, strict=True):
        if wanted:
            given[0][:, slot], given[1][:, slot] = NAN, NAN
    # a NaN with a payload is moved as it is
    bits(given[1][0, src[0] if src and src[0] >= 0 else 0])[..., :3] = 255
    rows = {
        "src_B": torch.tensor(src, dtype=index, device=DEVICE),
        "dst_B": torch.tensor(dst, dtype=index, device=DEVICE),
        "mask_B": torch.tensor(mask, dtype=torch.bool, device=DEVICE),
    }
    expected = tuple(pool.clone() for pool in given)
    REFERENCE.copy_states(*expected, **rows)
    module.copy_states(*given, **rows)
    for found, wanted in zip(given, expected, strict=True):
        assert torch.equal(bits(found), bits(wanted))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("mask", [[True, False, True], [False] * 3, [True] * 3])
def test_equals_reference(triton_form: Any, mask: list[bool], index: torch.dtype) -> None:
    compare(triton_form, [1, 4, 6], [2, 9, 0], mask, index=index)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("conv_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 1), (2, 40, 64)])
def test_sizes_and_dtypes(
    triton_form: Any, conv_dtype: torch.dtype, state_dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    compare(triton_form, [1, 4], [2, 9], [True, True], dtypes=(conv_dtype, state_dtype), shape=shape)


def test_unmasked_rows_may_name_anything(triton_form: Any) -> None:
    compare(triton_form, [-1, 4, 99], [-1, 9, 4], [False, True, False])
    compare(triton_form, [], [], [])


@FULL_SIZE
def test_full_size(triton_form: Any) -> None:
    order = torch.randperm(128).tolist()
    mask = (torch.rand(64) < 0.3).tolist()
    compare(triton_form, order[:64], order[64:], mask, shape=(64, 64, 128), slots=128)


def test_refuses_slots_with_gaps(triton_form: Any) -> None:
    conv, ssm = pools((2, 4, 6), 3, (torch.float32, torch.float32), 10)
    row = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="densely"):
        triton_form.copy_states(conv, ssm[..., ::2], src_B=row, dst_B=row + 1, mask_B=row == 0)


def faulty(change: str, triton_form: Any) -> Any:
    def copy_states(conv, ssm, *, src_B, dst_B, mask_B):  # type: ignore[no-untyped-def]
        if change == "first layer only":
            conv, ssm = conv[:1], ssm[:1]
        if change == "mask ignored":
            mask_B = torch.ones_like(mask_B)
        if change == "conv forgotten":
            conv = conv.clone()
        if change == "through float":
            ssm[:, dst_B] = (ssm[:, src_B] * 1.0).where(ssm[:, src_B] != 0, 0.0)
            mask_B = torch.zeros_like(mask_B)
        triton_form.copy_states(conv, ssm, src_B=src_B, dst_B=dst_B, mask_B=mask_B)

    return SimpleNamespace(copy_states=copy_states)


@pytest.mark.parametrize("change", ["first layer only", "mask ignored", "conv forgotten", "through float"])
def test_the_comparison_sees_a_fault(change: str, triton_form: Any) -> None:
    with pytest.raises(AssertionError):
        compare(faulty(change, triton_form), [1, 4, 6], [2, 9, 0], [True, False, True])
