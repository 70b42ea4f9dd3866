"""Bytes and shapes of the state against what SGLang 0.5.23 logged for the published model, and laws over any TP."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sglang_nemotron.config.decoder import DecoderSpec, decoder_spec
from sglang_nemotron.config.layers import MambaSpec
from sglang_nemotron.family import BYTES_OF_DTYPE
from sglang_nemotron.state.layout import StateLayout, state_layout
from support.specs import relayered, resized

# tests/config/test_config.py proves what it is read as
CONFIG = Path(__file__).parents[1] / "data" / "nano-30b-a3b.config.json"
PUBLISHED = decoder_spec(json.loads(CONFIG.read_text()))
GIB = 2**30


def layout(spec: DecoderSpec = PUBLISHED, tp_size: int = 1, layers: range | None = None, **dtypes: str) -> StateLayout:
    chosen = {"conv_dtype": "bfloat16", "ssm_dtype": "float32", "kv_dtype": "bfloat16", **dtypes}
    return state_layout(spec, tp_size=tp_size, layers=layers, **chosen)


def test_published_model_on_one_rank() -> None:
    whole = layout()
    assert whole.conv_shape == (6144, 3)
    assert whole.ssm_shape == (64, 64, 128)
    assert whole.kv_shape == (2, 128)
    assert len(whole.mamba_layers) == 23
    assert whole.attention_layers == (5, 12, 19, 26, 33, 42)
    assert whole.ssm_bytes_per_slot_layer == 2 * 2**20
    assert whole.conv_bytes_per_slot_layer == 36 * 2**10
    assert whole.ssm_bytes_per_slot == 46 * 2**20
    assert round(whole.bytes_per_slot / 2**20, 1) == 46.8
    assert whole.kv_bytes_per_token == 6 * 2**10


def test_sizes_that_sglang_logged() -> None:
    """SGLang 0.5.23, one H200, BF16: sizes in its log for max_mamba_cache_size 512 and two counts of tokens.

    "conv_state size: 0.41GB, ssm_state size: 23.04GB" (GB is 2**30; the pool has one slot more than asked for);
    "#tokens: 11954412, K size: 34.20 GB, V size: 34.20 GB"; "#tokens: 6996545, K size: 20.02 GB".
    """
    whole = layout()
    assert f"{513 * whole.conv_bytes_per_slot / GIB:.2f}" == "0.41"
    assert f"{513 * whole.ssm_bytes_per_slot / GIB:.2f}" == "23.04"
    assert f"{11954412 * whole.kv_bytes_per_token / 2 / GIB:.2f}" == "34.20"
    assert f"{6996545 * whole.kv_bytes_per_token / 2 / GIB:.2f}" == "20.02"
    total = whole.total_bytes(num_slots=513, num_tokens=11954412)
    assert f"{total / GIB:.2f}" == f"{513 * whole.bytes_per_slot / GIB + 11954412 * 6144 / GIB:.2f}"
    # a window of 4 instead of 3, or 512 slots, would not print these digits
    assert f"{513 * whole.conv_bytes_per_slot / 3 * 4 / GIB:.2f}" != "0.41"
    assert f"{512 * whole.ssm_bytes_per_slot / GIB:.2f}" != "23.04"


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8, 16])
def test_ranks_together_hold_the_model_and_the_copies(tp_size: int) -> None:
    whole, part = layout(), layout(tp_size=tp_size)
    assert part.ssm_bytes_per_slot * tp_size == whole.ssm_bytes_per_slot
    kv_copies = max(tp_size // PUBLISHED.attention.num_kv_heads, 1)
    assert part.kv_bytes_per_token * tp_size == whole.kv_bytes_per_token * kv_copies
    mamba = PUBLISHED.mamba
    group_copies = max(tp_size // mamba.num_groups, 1)
    channels = mamba.inner + 2 * mamba.num_groups * group_copies * mamba.state_size
    assert part.conv_shape[0] * tp_size == channels


def test_replication_by_hand() -> None:
    assert layout(tp_size=2).kv_shape == (1, 128)
    assert layout(tp_size=4).kv_shape == (1, 128)
    assert layout(tp_size=8).conv_shape == (512 + 2 * 128, 3)
    # above 8 ranks each still holds one whole group
    assert layout(tp_size=16).conv_shape == (256 + 2 * 128, 3)
    one_group = resized(PUBLISHED, MambaSpec, num_groups=1)
    assert layout(one_group, tp_size=4).conv_shape == (1024 + 2 * 128, 3)


def test_shapes_are_those_of_sglang() -> None:
    """The host allocates by its own arithmetic; ours must agree for every split it accepts."""
    from sglang.srt.configs.mamba_utils import Mamba2StateShape

    for num_groups in (1, 2, 4, 8):
        for tp_size in (1, 2, 4, 8, 16):
            spec = resized(PUBLISHED, MambaSpec, num_groups=num_groups)
            theirs = Mamba2StateShape.create(
                tp_world_size=tp_size,
                intermediate_size=spec.mamba.inner,
                n_groups=num_groups,
                num_heads=spec.mamba.num_heads,
                head_dim=spec.mamba.head_dim,
                state_size=spec.mamba.state_size,
                conv_kernel=spec.mamba.conv_width,
            )
            ours = layout(spec, tp_size=tp_size)
            assert [tuple(shape) for shape in theirs.conv] == [ours.conv_shape]
            assert tuple(theirs.temporal) == ours.ssm_shape


def test_pipeline_stages_partition_layers_and_bytes() -> None:
    whole = layout(tp_size=2)
    stages = [layout(tp_size=2, layers=range(start, min(start + 11, 52))) for start in range(0, 52, 11)]
    assert sum((stage.mamba_layers for stage in stages), ()) == whole.mamba_layers
    assert sum((stage.attention_layers for stage in stages), ()) == whole.attention_layers
    assert sum(stage.bytes_per_slot for stage in stages) == whole.bytes_per_slot
    assert sum(stage.kv_bytes_per_token for stage in stages) == whole.kv_bytes_per_token
    assert stages[0].mamba_layers == (0, 2, 4, 7, 9)
    assert stages[0].attention_layers == (5,)


def test_stage_without_state() -> None:
    stage = layout(layers=range(1, 2))
    assert (stage.bytes_per_slot, stage.kv_bytes_per_token) == (0, 0)
    assert stage.total_bytes(num_slots=100, num_tokens=100) == 0
    assert layout(layers=range(0)).mamba_layers == ()


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float16", 2), ("torch.float16", 2)])
def test_state_dtypes(dtype: str, size: int) -> None:
    assert layout(ssm_dtype=dtype).ssm_bytes_per_slot == 23 * 64 * 64 * 128 * size
    assert layout(conv_dtype=dtype).conv_bytes_per_slot == 23 * 6144 * 3 * size


def test_each_dtype_moves_only_its_own_bytes() -> None:
    before = layout()
    ssm, conv, kv = layout(ssm_dtype="float16"), layout(conv_dtype="float32"), layout(kv_dtype="float8_e4m3fn")
    assert (ssm.conv_bytes_per_slot, ssm.kv_bytes_per_token) == (before.conv_bytes_per_slot, before.kv_bytes_per_token)
    assert (conv.ssm_bytes_per_slot, conv.kv_bytes_per_token) == (before.ssm_bytes_per_slot, before.kv_bytes_per_token)
    assert kv.bytes_per_slot == before.bytes_per_slot
    assert kv.kv_bytes_per_token == 3 * 2**10


def test_bytes_of_dtypes_are_those_of_torch() -> None:
    import torch

    assert {name: getattr(torch, name).itemsize for name in BYTES_OF_DTYPE} == BYTES_OF_DTYPE


def test_models_without_a_kind_of_state() -> None:
    no_attention = layout(relayered(PUBLISHED, "MMEM"), tp_size=8)
    assert (no_attention.kv_bytes_per_token, no_attention.kv_shape) == (0, (0, 0))
    no_mamba = layout(relayered(PUBLISHED, "*E*"), tp_size=8)
    assert (no_mamba.bytes_per_slot, no_mamba.conv_shape, no_mamba.ssm_shape) == (0, (0, 0), (0, 0, 0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ssm_dtype": "float8_e4m3fn"}, "ssm_dtype='float8_e4m3fn' is not supported; allowed: float32"),
        ({"conv_dtype": "int8"}, "conv_dtype='int8'"),
        ({"kv_dtype": "fp8"}, "kv_dtype='fp8' is not supported; allowed: float32, bfloat16, float16, float8_e4m3fn"),
        ({"layers": range(40, 53)}, "reaches outside the model's 52 layers"),
        ({"layers": range(-1, 4)}, "reaches outside the model's 52 layers"),
        ({"tp_size": 3}, "mamba_num_heads=64"),
    ],
)
def test_refusals_name_the_value(change: dict, named: str) -> None:
    with pytest.raises(ValueError) as caught:
        layout(**change)
    assert named in str(caught.value)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="num_slots=-1"):
        layout().total_bytes(num_slots=-1, num_tokens=0)


def test_describe_is_one_line_with_the_numbers() -> None:
    line = layout().describe()
    assert "\n" not in line
    for piece in ("TP 1", "46.81 MiB", "23 Mamba layers", "float32 46.00 MiB", "6.00 KiB", "6 attention layers"):
        assert piece in line
    assert "5.85 MiB" in layout(tp_size=8).describe()


def test_layout_is_frozen_and_hashable() -> None:
    assert hash(layout()) == hash(layout())
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout().tp_size = 2  # type: ignore[misc]
