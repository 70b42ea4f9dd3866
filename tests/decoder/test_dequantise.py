"""Dequantised weights against formulas written out by hand, and the holder that waits for scales in any order."""

from __future__ import annotations

import itertools

import pytest
import torch

from sglang_nemotron.decoder.dequantise import Dequantiser, dequantise_fp8, dequantise_nvfp4

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def test_fp8_per_tensor_and_per_row():
    weight = torch.tensor([[1.0, -2.0], [0.5, 448.0]]).to(torch.float8_e4m3fn)
    assert torch.equal(dequantise_fp8(weight, torch.tensor(0.5)), torch.tensor([[0.5, -1.0], [0.25, 224.0]]))
    rows = dequantise_fp8(weight, torch.tensor([[2.0], [4.0]]))
    assert torch.equal(rows, torch.tensor([[2.0, -4.0], [2.0, 1792.0]]))
    with pytest.raises(ValueError, match="weight_scale"):
        dequantise_fp8(weight, torch.ones(3))


def test_nvfp4_every_code_in_both_nibbles():
    # byte c holds code c low and 15 - c high: 16 bytes, 32 inputs, two blocks
    packed = torch.tensor([[c | ((15 - c) << 4) for c in range(16)]], dtype=torch.uint8)
    scale = torch.tensor([[2.0, 0.5]]).to(torch.float8_e4m3fn)
    out = dequantise_nvfp4(packed, scale, torch.tensor(3.0))
    values = list(itertools.chain.from_iterable((E2M1[c], E2M1[15 - c]) for c in range(16)))
    expected = [v * 6.0 for v in values[:16]] + [v * 1.5 for v in values[16:]]
    assert torch.equal(out, torch.tensor([expected]))


def test_nvfp4_refuses_scales_of_another_block():
    with pytest.raises(ValueError, match=r"weight_scale has shape \(1, 1\); expected \(1, 2\)"):
        dequantise_nvfp4(torch.zeros(1, 16, dtype=torch.uint8), torch.ones(1, 1), torch.tensor(1.0))


def test_holder_waits_for_scales_in_any_order():
    packed = torch.randint(0, 256, (4, 16), dtype=torch.uint8)
    parts = {
        "weight": packed,
        "weight_scale": torch.rand(4, 2).to(torch.float8_e4m3fn),
        "weight_scale_2": torch.tensor(0.25),
    }
    expected = dequantise_nvfp4(parts["weight"], parts["weight_scale"], parts["weight_scale_2"])
    for order in itertools.permutations(parts):
        holder = Dequantiser()
        results = [holder.add("w", leaf, parts[leaf]) for leaf in order]
        assert results[0] is None and results[1] is None
        assert torch.equal(results[2], expected)
        assert holder.incomplete() == []


def test_holder_passes_plain_weights_and_names_what_never_finished():
    holder = Dequantiser()
    plain = torch.ones(2, 2)
    assert holder.add("a", "weight", plain) is plain
    holder.add("b", "weight", torch.zeros(2, 2).to(torch.float8_e4m3fn))
    holder.add("c", "weight_scale", torch.ones(()))
    assert holder.incomplete() == ["b (has only weight)", "c (has only weight_scale)"]
