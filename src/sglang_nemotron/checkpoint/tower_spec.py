"""What the media half of an Omni checkpoint is to be: tower and projector sizes in one frozen record, checked at birth.

Knows the names of config fields and which sizes fit together; never touches a tensor, a file or the language model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

# transformers' RADIO calls them 3 class tokens and 7 registers, the published config 4 teachers' tokens and 6 registers
NUM_PREFIX_TOKENS = 10
# of log-mel frames: every stage halves time and mel bins
SUBSAMPLING_FACTOR = 8
NUM_CHANNELS = 3
FRAMES_PER_TUBELET = 2
MERGE_SIZE = 2

TEMPLATES = ("media-first", "in-order")


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """Vision tower, sound encoder, projectors and media rules of one Omni checkpoint.

    Field names are those of the published config.json, with `vision_` or `sound_` in front where it nests them.
    `template`: whether the chat template puts a message's media before its text, as the published one does, or leaves
    every part where the message has it.

    Raises:
        ValueError: on creation, if two sizes do not fit together; the message names the field and the remedy.
    """

    vision_hidden_size: int
    vision_num_hidden_layers: int
    vision_num_attention_heads: int
    vision_intermediate_size: int
    projector_hidden_size: int

    sound_hidden_size: int
    sound_num_hidden_layers: int
    sound_num_attention_heads: int
    sound_intermediate_size: int
    sound_projection_hidden_size: int
    sound_subsampling_conv_channels: int
    sound_conv_kernel_size: int = 9

    patch_size: int = 16
    # pixels of a side; position embeddings are a square grid of max_resolution / patch_size
    max_resolution: int = 2048
    min_num_patches: int = 1024
    max_num_patches: int = 13312
    video_target_num_patches: int = 1024
    video_pruning_rate: float = 0.7
    num_mel_bins: int = 128
    template: str = "media-first"

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise ValueError(f"template is {self.template!r}; choose one of {', '.join(TEMPLATES)}")
        for field in fields(self):
            value = getattr(self, field.name)
            # with postponed annotations a field's type is its source text
            if field.type == "int" and value < 1:
                raise ValueError(f"{field.name} is {value}; it must be at least 1")
        if not 0 <= self.video_pruning_rate < 1:
            raise ValueError(f"video_pruning_rate is {self.video_pruning_rate}; give a number from 0 (off) to below 1")
        if self.min_num_patches > self.max_num_patches:
            raise ValueError(
                f"min_num_patches is {self.min_num_patches}; it must not exceed max_num_patches "
                f"({self.max_num_patches})"
            )
        if self.sound_conv_kernel_size % 2 == 0:
            raise ValueError(f"sound_conv_kernel_size is {self.sound_conv_kernel_size}; it must be odd")
        for name, divisor in (
            ("vision_hidden_size", self.vision_num_attention_heads),
            ("sound_hidden_size", self.sound_num_attention_heads),
            ("sound_hidden_size", 2),
            ("max_resolution", self.patch_size),
            ("num_mel_bins", SUBSAMPLING_FACTOR),
        ):
            if getattr(self, name) % divisor:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a multiple of {divisor}")

    @property
    def position_grid(self) -> int:
        """Side of the stored grid of position embeddings, in patches."""
        return self.max_resolution // self.patch_size

    @property
    def patch_dim(self) -> int:
        """Numbers in one patch of one frame."""
        return NUM_CHANNELS * self.patch_size**2

    @property
    def merged_size(self) -> int:
        """Channels after pixel shuffle: what the vision projector takes."""
        return self.vision_hidden_size * MERGE_SIZE**2


_TINY = TowerSpec(
    vision_hidden_size=64,
    vision_num_hidden_layers=2,
    vision_num_attention_heads=4,
    vision_intermediate_size=128,
    projector_hidden_size=128,
    sound_hidden_size=64,
    sound_num_hidden_layers=2,
    sound_num_attention_heads=4,
    sound_intermediate_size=128,
    sound_projection_hidden_size=96,
    sound_subsampling_conv_channels=16,
)

TOWERS: dict[str, TowerSpec] = {
    "toy": _TINY,
    "tiny": _TINY,
    # head dims that CUDA kernels accept
    "small": TowerSpec(
        vision_hidden_size=256,
        vision_num_hidden_layers=4,
        vision_num_attention_heads=4,
        vision_intermediate_size=1024,
        projector_hidden_size=1024,
        sound_hidden_size=256,
        sound_num_hidden_layers=4,
        sound_num_attention_heads=4,
        sound_intermediate_size=1024,
        sound_projection_hidden_size=512,
        sound_subsampling_conv_channels=64,
    ),
    # the published Nemotron 3 Nano Omni 30B-A3B (source: its config.json): C-RADIO v4-H and Parakeet
    "full": TowerSpec(
        vision_hidden_size=1280,
        vision_num_hidden_layers=32,
        vision_num_attention_heads=16,
        vision_intermediate_size=5120,
        projector_hidden_size=20480,
        sound_hidden_size=1024,
        sound_num_hidden_layers=24,
        sound_num_attention_heads=8,
        sound_intermediate_size=4096,
        sound_projection_hidden_size=4096,
        sound_subsampling_conv_channels=256,
    ),
}
