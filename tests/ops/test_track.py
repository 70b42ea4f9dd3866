"""Copying states aside: both forms against each other and against what the mask promises."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ops_cases import NAN, assert_near, fast, form, ours, serving

REFERENCE, TORCH = form("track", "reference"), form("track", "torch")
FORMS, FAST = ours("track"), fast("track")


def pools(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    conv_LSCW = torch.randn(3, 10, 4, 6, dtype=dtype).transpose(2, 3)
    return conv_LSCW, torch.randn(3, 10, 2, 4, 5)


def compare(module: Any, src: list[int], dst: list[int], mask: list[bool], dtype: torch.dtype = torch.float32) -> None:
    conv_LSCW, ssm_LSHPN = pools(dtype)
    for slot, wanted in zip(dst, mask, strict=True):
        if wanted:
            conv_LSCW[:, slot], ssm_LSHPN[:, slot] = NAN, NAN
    rows = {"src_B": torch.tensor(src), "dst_B": torch.tensor(dst), "mask_B": torch.tensor(mask, dtype=torch.bool)}
    expected = conv_LSCW.clone(), ssm_LSHPN.clone()
    REFERENCE.copy_states(*expected, **rows)
    assert not any(pool.isnan().any() for pool in expected)
    module.copy_states(conv_LSCW, ssm_LSHPN, **rows)
    assert_near(conv_LSCW, expected[0], 0.0)
    assert_near(ssm_LSHPN, expected[1], 0.0)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [[True, False, True], [False] * 3, [True] * 3])
def test_equals_reference(name: str, mask: list[bool], dtype: torch.dtype) -> None:
    compare(form("track", name), [1, 4, 6], [2, 9, 0], mask, dtype)


@pytest.mark.parametrize("name", serving("track"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [[True, False, True], [False] * 3, [True] * 3])
def test_forms_that_serve_equal_the_reference(name: str, mask: list[bool], dtype: torch.dtype) -> None:
    compare(form("track", name), [1, 4, 6], [2, 9, 3], mask, dtype)


def test_unmasked_rows_may_name_anything() -> None:
    compare(TORCH, [-1, 4, 99], [-1, 9, 4], [False, True, False])


def test_no_rows() -> None:
    compare(TORCH, [], [], [])


@pytest.mark.parametrize("name", FORMS)
def test_slots_may_be_int32_and_all_layers_are_copied(name: str) -> None:
    conv_LSCW, ssm_LSHPN = pools()
    kept = conv_LSCW.clone(), ssm_LSHPN.clone()
    rows = {"src_B": torch.tensor([3]).int(), "dst_B": torch.tensor([7]).int(), "mask_B": torch.tensor([True])}
    form("track", name).copy_states(conv_LSCW, ssm_LSHPN, **rows)
    others = [slot for slot in range(10) if slot != 7]
    for pool, before in zip((conv_LSCW, ssm_LSHPN), kept, strict=True):
        assert torch.equal(pool[:, 7], before[:, 3])
        assert torch.equal(pool[:, others], before[:, others])


def fault_first_layer_only(conv, ssm, **rows):  # type: ignore[no-untyped-def]
    TORCH.copy_states(conv[:1], ssm[:1], **rows)


def fault_mask_ignored(conv, ssm, *, src_B, dst_B, mask_B):  # type: ignore[no-untyped-def]
    TORCH.copy_states(conv, ssm, src_B=src_B, dst_B=dst_B, mask_B=torch.ones_like(mask_B))


def fault_conv_forgotten(conv, ssm, **rows):  # type: ignore[no-untyped-def]
    TORCH.copy_states(conv.clone(), ssm, **rows)


@pytest.mark.parametrize("fault", [fault_first_layer_only, fault_mask_ignored, fault_conv_forgotten])
def test_the_comparison_sees_a_fault(fault: Any) -> None:
    with pytest.raises(AssertionError):
        compare(SimpleNamespace(copy_states=fault), [1, 4, 6], [2, 9, 0], [True, False, True])
