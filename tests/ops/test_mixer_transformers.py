"""The ops in the order of a Mamba-2 mixer against the whole mixer of transformers 5.19: two prefills, then decode."""

from __future__ import annotations

import pytest
import torch
from ops_cases import assert_near, form, ours, ragged
from transformers.cache_utils import DynamicCache
from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer

HEADS, HEAD_DIM, GROUPS, STATE = 8, 16, 2, 16
INNER, SIZE = HEADS * HEAD_DIM, GROUPS * STATE


def hf_mixer() -> tuple[NemotronHMamba2Mixer, NemotronHConfig]:
    config = NemotronHConfig(
        hidden_size=64,
        layers_block_type=["mamba"],
        mamba_num_heads=HEADS,
        mamba_head_dim=HEAD_DIM,
        n_groups=GROUPS,
        ssm_state_size=STATE,
        conv_kernel=4,
        chunk_size=32,
    )
    mixer = NemotronHMamba2Mixer(config, layer_idx=0).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    # its prefill clamps dt at time_step_min, which neither its decode nor any serving engine does
    mixer.time_step_limit = (0.0, float("inf"))
    return mixer, config


class Mixer:
    """Ours, on the same weights, with states in slot 1 of 3."""

    def __init__(self, hf: NemotronHMamba2Mixer, name: str) -> None:
        self.hf, self.name = hf, name
        self.conv_SCW = torch.full((3, INNER + 2 * SIZE, 3), float("nan"))
        self.ssm_SHPN = torch.full((3, HEADS, HEAD_DIM, STATE), float("nan"))
        self.seen = 0

    def __call__(self, x_TD: torch.Tensor) -> torch.Tensor:
        hf, tokens = self.hf, len(x_TD)
        gate_TI, conv_in_TC, dt_TH = hf.in_proj(x_TD).split([INNER, INNER + 2 * SIZE, HEADS], dim=-1)
        conv = (hf.conv1d.weight[:, 0], hf.conv1d.bias, self.conv_SCW)
        conv1d = form("conv1d", self.name)
        if self.seen and tokens == 1:
            slots_B = torch.tensor([1])
            mixed_TC = conv1d.conv1d_step(conv_in_TC, *conv, slots_B=slots_B)
            scan, places = form("ssm_step", self.name).ssm_step, {"slots_B": slots_B}
        else:
            places = {"batch": ragged([tokens], [1], [self.seen > 0]), "snapshots": None}
            mixed_TC = conv1d.conv1d_prefill(conv_in_TC, *conv, **places)
            scan = form("ssd", self.name).ssd_prefill
        x, B, C = mixed_TC.split([INNER, SIZE, SIZE], dim=-1)
        x, B, C = x.unflatten(1, (HEADS, -1)), B.unflatten(1, (GROUPS, -1)), C.unflatten(1, (GROUPS, -1))
        y = scan(x, dt_TH, -torch.exp(hf.A_log), B, C, hf.D, hf.dt_bias, self.ssm_SHPN, **places)
        y = form("gated_norm", self.name).gated_norm(
            y.reshape(tokens, -1), gate_TI, hf.norm.weight, num_groups=GROUPS, eps=hf.norm.variance_epsilon
        )
        self.seen += tokens
        return hf.out_proj(y)


@pytest.mark.parametrize("name", ours("conv1d", "ssd", "ssm_step", "gated_norm"))
@torch.no_grad()
def test_mixer_equals_transformers(name: str) -> None:
    hf, config = hf_mixer()
    ours, cache = Mixer(hf, name), DynamicCache(config=config)
    for tokens in (50, 21, 1, 1, 1):
        x_TD = torch.randn(tokens, 64)
        assert_near(ours(x_TD), hf(x_TD[None], cache_params=cache)[0], 5e-6)
