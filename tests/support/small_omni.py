"""The smallest Omni checkpoint that has every kind of layer and tower, with few patches, for what needs no server."""

from __future__ import annotations

from dataclasses import replace

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.tower_spec import TOWERS

PATCHES = 64
SMALL_OMNI = replace(
    OMNI_PRESETS["toy"],
    hybrid_override_pattern="M*E",
    towers=replace(TOWERS["toy"], min_num_patches=PATCHES, video_target_num_patches=PATCHES, max_resolution=512),
)
