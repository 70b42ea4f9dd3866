"""SGLang's pool parameters come from the layout, and a pool that differs from it is caught when it is bound."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.state.layout import state_layout
from sglang_nemotron.state.pool import PoolView, cache_params

PUBLISHED = json.loads((Path(__file__).parent.parent / "data" / "nano-30b-a3b.config.json").read_text())


@pytest.fixture
def spec():
    small = PUBLISHED | {"hybrid_override_pattern": "MEM*", "num_hidden_layers": 4, "ssm_state_size": 8}
    return decoder_spec(small | {"mamba_num_heads": 8, "mamba_head_dim": 4})


def layout_of(spec, **options):
    fields = {"tp_size": 1, "conv_dtype": "bfloat16", "ssm_dtype": "float32", "kv_dtype": "bfloat16"}
    return state_layout(spec, **(fields | options))


def pool_of(layout, slots=5, **changes):
    L = len(layout.mamba_layers)
    conv = torch.zeros(L, slots, *layout.conv_shape, dtype=changes.get("conv_dtype", torch.bfloat16))
    ssm = torch.zeros(L, slots, *layout.ssm_shape, dtype=torch.float32)
    index = {layer_id: i for i, layer_id in enumerate(layout.mamba_layers)}
    return SimpleNamespace(
        mamba_pool=SimpleNamespace(mamba_cache=SimpleNamespace(conv=[conv], temporal=ssm)),
        mamba2_layer_index=index.__getitem__,
    )


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_parameters_are_the_layouts(spec, tp_size):
    layout = layout_of(spec, tp_size=tp_size)
    params = cache_params(spec, layout)
    assert params.shape.conv == [layout.conv_shape] and params.shape.temporal == layout.ssm_shape
    assert params.dtype.conv is torch.bfloat16 and params.dtype.temporal is torch.float32
    assert params.layers == list(layout.mamba_layers) == [0, 2]
    # SGLang sizes its pool by this number
    assert params.mamba_cache_per_req == layout.bytes_per_slot


def test_the_view_gives_each_layer_its_own_states(spec):
    layout = layout_of(spec)
    view = PoolView(pool_of(layout), layout, None)
    conv, ssm = view.slots_of(2)
    ssm.fill_(3)
    assert view.ssm_LSHPN[1].eq(3).all() and view.ssm_LSHPN[0].eq(0).all()
    assert conv.shape == (5, *layout.conv_shape)


def kv_pool_of(layout, tokens=100, page=4, **changes):
    heads, head_dim = layout.kv_shape
    rows = torch.zeros(tokens + changes.pop("padding", page), heads, head_dim, dtype=torch.bfloat16)
    full = {"kv_cache_layout": "nhd", "k_buffer": [rows], "v_buffer": [rows.clone()], "post_capture_active": False}
    full_kv_pool = SimpleNamespace(**full | changes)
    return SimpleNamespace(size=tokens, page_size=page, dtype=torch.bfloat16, full_kv_pool=full_kv_pool)


def test_a_pool_of_another_size_is_caught(spec):
    layout = layout_of(spec)
    for wrong, of in (
        (pool_of(layout, conv_dtype=torch.float32), layout),
        (pool_of(layout), layout_of(spec, tp_size=2)),
        (pool_of(layout), layout_of(spec, layers=range(0, 2))),
    ):
        with pytest.raises(AssertionError):
            PoolView(wrong, of, None)


def test_kv_entries_are_compared_to_the_byte(spec, caplog):
    caplog.set_level("INFO")
    layout = layout_of(spec)
    PoolView(pool_of(layout), layout, kv_pool_of(layout))
    assert "100 KV tokens and 4 of padding" in caplog.text and "by arithmetic" not in caplog.text
    for wrong in (kv_pool_of(layout, padding=3), kv_pool_of(layout, k_buffer=[])):
        with pytest.raises(AssertionError):
            PoolView(pool_of(layout), layout, wrong)
    with pytest.raises(AssertionError):
        PoolView(pool_of(layout), layout_of(spec, kv_dtype="float32"), kv_pool_of(layout))


@pytest.mark.parametrize("changes", [{"kv_cache_layout": "hnd"}, {"post_capture_active": True}])
def test_kv_entries_in_another_form_are_told_by_arithmetic(spec, caplog, changes):
    """What SGLang reserves on CUDA before graphs are captured is not what it has in the end."""
    caplog.set_level("INFO")
    layout = layout_of(spec)
    PoolView(pool_of(layout), layout, kv_pool_of(layout, padding=3, **changes))
    assert "(by arithmetic)" in caplog.text
