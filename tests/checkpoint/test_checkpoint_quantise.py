"""Quantised layouts: an independent dequantiser reads back what was written; lists are those of the published files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.models.nemotron_h import NemotronHForCausalLM

from sglang_nemotron.checkpoint.quant_layout import excluded_modules, hf_quant_config, layer_algorithms
from sglang_nemotron.checkpoint.quantise import e2m1_codes, quantise_fp8, quantise_nvfp4
from sglang_nemotron.checkpoint.spec import PRESETS

ATTENTION = (5, 12, 19, 26, 33, 42)
BEFORE_ATTENTION = (4, 11, 18, 25, 32, 41)
PATTERN = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


def e4m3(byte: int) -> float:
    """float8_e4m3fn from its definition: sign, 4 bits of exponent (bias 7), 3 of mantissa, no infinity."""
    sign, exponent, mantissa = -1.0 if byte & 128 else 1.0, byte >> 3 & 15, byte & 7
    if byte & 127 == 127:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def e2m1(code: int) -> float:
    """A 4-bit float from its definition: sign, 2 bits of exponent (bias 1), 1 of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 8 else 1.0, code >> 1 & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


E4M3 = np.array([e4m3(byte) for byte in range(256)])
E2M1 = np.array([e2m1(code) for code in range(16)])


def dequantise(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Plain weights from a quantised checkpoint, told apart by dtype; scales of activations and caches are dropped."""
    plain = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if name.endswith(("_scale", "_scale_2")):
            continue
        if tensor.dtype == torch.float8_e4m3fn:
            scale = tensors[f"{module}.weight_scale"].double().item()
            tensor = torch.from_numpy(E4M3[tensor.view(torch.uint8).numpy()] * scale).float()
        elif tensor.dtype == torch.uint8:
            num_out, num_packed = tensor.shape
            wide = np.empty((num_out, num_packed * 2))
            for row in range(num_out):
                for column, byte in enumerate(tensor[row].tolist()):
                    wide[row, 2 * column] = E2M1[byte & 15]
                    wide[row, 2 * column + 1] = E2M1[byte >> 4]
            scales = E4M3[tensors[f"{module}.weight_scale"].view(torch.uint8).numpy()]
            wide *= np.repeat(scales, 16, axis=1) * tensors[f"{module}.weight_scale_2"].double().item()
            tensor = torch.from_numpy(wide).float()
        plain[name] = tensor
    return plain


def test_e2m1_codes_are_nearest_with_ties_to_even():
    values = torch.linspace(-8, 8, 6401)
    for value, code in zip(values.tolist(), e2m1_codes(values).tolist(), strict=True):
        distance = np.abs(E2M1[:8] - abs(value))
        nearest = np.flatnonzero(distance <= distance.min() + 1e-9)
        # of two equally near codes, the one with an even mantissa
        wanted = nearest[0] if len(nearest) == 1 else next(i for i in nearest if i % 2 == 0)
        assert code & 7 == wanted, value
        assert code >> 3 == int(value < 0 and wanted > 0), value


def test_fp8_keeps_three_bits_of_mantissa():
    weight = torch.randn(40, 48, generator=torch.Generator().manual_seed(1)) * 0.3
    parts = quantise_fp8(weight, input_amax=8.0)
    assert parts["weight"].dtype == torch.float8_e4m3fn and parts["weight_scale"].shape == ()
    assert parts["input_scale"].item() == pytest.approx(8 / 448)
    back = dequantise({f"m.{name}": tensor for name, tensor in parts.items()})["m.weight"]
    # half a step of 1/8 relative, or of the smallest subnormal
    bound = weight.abs() / 16 + parts["weight_scale"] * 2.0**-10
    assert ((back - weight).abs() <= bound * 1.001).all()
    assert back.abs().max().item() == pytest.approx(weight.abs().max().item(), rel=1e-6)


def test_nvfp4_error_is_half_a_step_of_its_group():
    generator = torch.Generator().manual_seed(2)
    # groups of very different size, one of zeros: what the per-group scale is for
    weight = torch.randn(24, 64, generator=generator) * torch.logspace(-2, 0, 4).repeat_interleave(16)
    weight[3, 16:32] = 0
    parts = quantise_nvfp4(weight, input_amax=8.0)
    assert (parts["weight"].dtype, tuple(parts["weight"].shape)) == (torch.uint8, (24, 32))
    assert (parts["weight_scale"].dtype, tuple(parts["weight_scale"].shape)) == (torch.float8_e4m3fn, (24, 4))
    assert parts["input_scale"].item() == pytest.approx(8 / 448 / 6)
    back = dequantise({f"m.{name}": tensor for name, tensor in parts.items()})["m.weight"]
    step = (parts["weight_scale"].float() * parts["weight_scale_2"]).repeat_interleave(16, dim=1)
    # widest gap of e2m1 is 2 (4 to 6); saturation by the rounding of the group's scale (1/16) adds up to 0.4
    assert ((back - weight).abs() <= step * 1.0 * 1.001).all()
    assert (back[3, 16:32] == 0).all()
    # a dequantiser with the nibbles swapped would be caught
    swapped = dict(parts, weight=(parts["weight"] << 4) | (parts["weight"] >> 4))
    wrong = dequantise({f"m.{name}": tensor for name, tensor in swapped.items()})["m.weight"]
    assert ((wrong - weight).abs() > step).float().mean() > 0.3


def test_all_zero_weights_stay_zero():
    for quantise in (quantise_fp8, quantise_nvfp4):
        parts = quantise(torch.zeros(8, 32), 8.0)
        assert all(torch.isfinite(tensor.float()).all() for tensor in parts.values())
        assert (dequantise({f"m.{name}": tensor for name, tensor in parts.items()})["m.weight"] == 0).all()


def test_nvfp4_exclusions_are_the_published_list():
    spec = replace(PRESETS["full"], quantization="nvfp4")
    published = {"lm_head"}
    published |= {f"backbone.layers.{i}.mixer.{p}_proj" for i in ATTENTION for p in "qkvo"}
    published |= {f"backbone.layers.{i}.mixer.{p}_proj" for i in BEFORE_ATTENTION for p in ("in", "out")}
    published |= {f"backbone.layers.{i}.mixer.conv1d" for i, letter in enumerate(PATTERN) if letter == "M"}
    found = excluded_modules(spec)
    assert len(found) == len(set(found)) == 60 and set(found) == published
    # 23 x 128 experts and 23 shared, up and down; in and out of 17 Mamba layers
    assert len(layer_algorithms(spec)) == 23 * 129 * 2 + 17 * 2
    config = hf_quant_config(spec)
    assert config["producer"] == {"name": "modelopt", "version": "0.29.0"}
    assert {k: v for k, v in config["quantization"].items() if k != "exclude_modules"} == {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
    }


def test_mixed_counts_are_the_published_ones():
    algorithms = layer_algorithms(replace(PRESETS["full"], quantization="mixed"))
    by_algo = {algo: [m for m, a in algorithms.items() if a == algo] for algo in ("NVFP4", "FP8")}
    assert len(by_algo["NVFP4"]) == 5888 and all(".experts." in m for m in by_algo["NVFP4"])
    assert len(by_algo["FP8"]) == 98
    assert sum(m.endswith(".o_proj") for m in by_algo["FP8"]) == 6


@pytest.mark.parametrize("quantization", ["fp8", "nvfp4", "mixed"])
def test_every_tensor_is_declared_and_dequantises(make, quantization: str):
    changes = {"hybrid_override_pattern": "MEM*E-M", "seed": 3}
    quantised = load_file(make(quantization=quantization, **changes) / "model.safetensors")
    plain = load_file(make(dtype="float32", **changes) / "model.safetensors")
    spec = replace(PRESETS["toy"], quantization=quantization, **changes)
    algorithms = layer_algorithms(spec)
    assert algorithms
    suffixes = {"FP8": ("weight_scale", "input_scale"), "NVFP4": ("weight_scale", "weight_scale_2", "input_scale")}
    expected = set(plain) | {f"{m}.{suffix}" for m, algo in algorithms.items() for suffix in suffixes[algo]}
    expected |= {f"backbone.layers.3.mixer.{leaf}_proj.{leaf}_scale" for leaf in "kv"}
    assert set(quantised) == expected
    back = dequantise(quantised)
    assert set(back) == set(plain)
    for name, weight in plain.items():
        algo = algorithms.get(name.removesuffix(".weight"))
        error = (back[name].float() - weight).norm() / weight.norm()
        if algo is None:
            assert error == 0, name
        else:
            # rms errors of 3-bit and 1-bit mantissas on nearly normal weights
            low, high = {"FP8": (0.015, 0.04), "NVFP4": (0.06, 0.13)}[algo]
            assert low < error < high, (name, algo, error)


@pytest.mark.parametrize("place", ["both", "config", "file"])
@pytest.mark.parametrize("quantization", ["fp8", "nvfp4", "mixed"])
def test_declared_where_asked(make, quantization: str, place: str):
    out = make(quantization=quantization, quant_config_in=place)
    config = json.loads((out / "config.json").read_text())
    assert ("quantization_config" in config) == (place != "file")
    assert (out / "hf_quant_config.json").exists() == (place != "config")
    algo = {"fp8": "FP8", "nvfp4": "NVFP4", "mixed": "MIXED_PRECISION"}[quantization]
    sections = []
    if place != "file":
        sections.append(config["quantization_config"])
        assert sections[0]["quant_method"] == "modelopt" and sections[0]["kv_cache_scheme"]["num_bits"] == 8
    if place != "config":
        sections.append(json.loads((out / "hf_quant_config.json").read_text())["quantization"])
        assert sections[-1]["kv_cache_quant_algo"] == "FP8"
    lists = [section.get("ignore", section.get("exclude_modules")) for section in sections]
    assert all(section["quant_algo"] == algo for section in sections)
    assert all("lm_head" in names and "backbone.layers.3.mixer.q_proj" in names for names in lists)
    # layer 2 is the Mamba layer that feeds the attention layer 3; mixed quantises it nonetheless
    assert all(("backbone.layers.2.mixer.in_proj" in names) == (quantization != "mixed") for names in lists)
    assert all(("quantized_layers" in section) == (quantization == "mixed") for section in sections)


@pytest.mark.parametrize("quantization", ["fp8", "nvfp4", "mixed"])
def test_dequantised_twin_computes_nearly_the_same(make, quantization: str):
    """The reference for quantised serving: plain config, dequantised weights."""
    plain = make(dtype="float32")
    twin = dequantise(load_file(make(quantization=quantization) / "model.safetensors"))
    reference = NemotronHForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    ids = torch.randint(0, 1280, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = reference(ids).logits
        state = reference.state_dict()
        for name, value in state.items():
            value.copy_(_in_reference_layout(name, twin))
        after = reference(ids).logits
    correlation = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
    assert torch.isfinite(after).all() and 0.8 < correlation < 0.99999, correlation


def _in_reference_layout(name: str, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    name = name.replace("model.", "backbone.", 1)
    if name.endswith((".experts.up_proj", ".experts.down_proj")):
        base, leaf = name.rsplit(".", 1)
        return torch.stack([weights[f"{base}.{expert}.{leaf}.weight"].float() for expert in range(8)])
    return weights[name].float()


def test_fewer_bits_take_fewer_bytes(make):
    sizes = {q: (make(quantization=q) / "model.safetensors").stat().st_size for q in ("none", "fp8", "nvfp4")}
    assert sizes["nvfp4"] < sizes["fp8"] < sizes["none"] < 1_000_000
