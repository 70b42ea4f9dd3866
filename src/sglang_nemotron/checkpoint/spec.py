"""What a checkpoint is to be: sizes, spelling, number format and seed in one frozen record, checked on creation.

Knows the names of config fields and which sizes fit together; never touches a tensor or a file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from sglang_nemotron.checkpoint.tower_spec import TOWERS, TowerSpec

SPELLINGS = ("published", "transformers", "alt")
DTYPES = ("bfloat16", "float32", "float16")
QUANTIZATIONS = ("none", "fp8", "nvfp4", "mixed")
QUANT_CONFIG_PLACES = ("both", "config", "file")

# ids below this one are reserved for special tokens; byte b is token NUM_RESERVED + b, so a newline is 1010
NUM_RESERVED = 1000
MIN_VOCAB = NUM_RESERVED + 256

# NVFP4 keeps one scale per 16 neighbours along the input dimension
NVFP4_GROUP = 16


@dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
    """One checkpoint. Field names are those of the published config.json where it has the field.

    `towers` makes it an Omni checkpoint, whose language model is what the other fields say.

    Raises:
        ValueError: on creation, if two sizes do not fit together; the message names the field and the remedy.
    """

    hybrid_override_pattern: str
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int

    mamba_num_heads: int
    mamba_head_dim: int
    n_groups: int
    ssm_state_size: int
    conv_kernel: int
    chunk_size: int
    use_conv_bias: bool = True

    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    moe_shared_expert_intermediate_size: int
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    n_group: int = 1
    topk_group: int = 1

    # the dense layers written "-" in the pattern; the published model has none
    intermediate_size: int = 96
    tie_word_embeddings: bool = False
    norm_eps: float = 1e-5
    mamba_ssm_cache_dtype: str = "float32"
    # (low, high) seconds, or None for a config without the field, as published for the text model
    time_step_limit: tuple[float, float] | None = None

    dtype: str = "bfloat16"
    quantization: str = "none"
    # where the quantisation is declared: config.json, hf_quant_config.json ("file"), or both
    quant_config_in: str = "both"
    spelling: str = "published"
    seed: int = 0
    # a shard never exceeds this, unless a single tensor does
    max_shard_bytes: int = 5_000_000_000
    towers: TowerSpec | None = None

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_sizes(self)
        if self.quantization in ("nvfp4", "mixed"):
            _check_nvfp4_blocks(self)

    @property
    def num_hidden_layers(self) -> int:
        return len(self.hybrid_override_pattern)

    @property
    def mamba_inner(self) -> int:
        """Width of a Mamba layer's inner stream: heads x head dim (`expand` of the config is not used)."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of the short convolution: x, B and C side by side."""
        return self.mamba_inner + 2 * self.n_groups * self.ssm_state_size


def _check_choices(spec: CheckpointSpec) -> None:
    for field, choices in (
        ("dtype", DTYPES),
        ("quantization", QUANTIZATIONS),
        ("spelling", SPELLINGS),
        ("quant_config_in", QUANT_CONFIG_PLACES),
        ("mamba_ssm_cache_dtype", DTYPES),
    ):
        value = getattr(spec, field)
        if value not in choices:
            raise ValueError(f"{field} is {value!r}; choose one of {', '.join(choices)}")
    if spec.spelling == "alt" and spec.towers is not None:
        raise ValueError("spelling is 'alt', which no Omni checkpoint was ever written in; choose another")
    wrong = sorted(set(spec.hybrid_override_pattern) - set("ME*-"))
    if wrong or not spec.hybrid_override_pattern:
        raise ValueError(
            f"hybrid_override_pattern is {spec.hybrid_override_pattern!r}; write one letter per layer: "
            "M (Mamba-2), E (mixture of experts), * (attention), - (dense MLP)"
        )


def _check_sizes(spec: CheckpointSpec) -> None:
    for field in fields(spec):
        value = getattr(spec, field.name)
        # with postponed annotations a field's type is its source text
        if field.type == "int" and field.name != "seed" and value < 1:
            raise ValueError(f"{field.name} is {value}; it must be at least 1")
    if spec.vocab_size < MIN_VOCAB:
        raise ValueError(
            f"vocab_size is {spec.vocab_size}; {NUM_RESERVED} reserved tokens and 256 bytes need at least {MIN_VOCAB}"
        )
    if spec.seed < 0:
        raise ValueError(f"seed is {spec.seed}; it must not be negative")
    for field, divisor in (
        ("num_attention_heads", "num_key_value_heads"),
        ("mamba_num_heads", "n_groups"),
        ("n_routed_experts", "n_group"),
    ):
        if getattr(spec, field) % getattr(spec, divisor):
            raise ValueError(
                f"{field} is {getattr(spec, field)}; it must be a multiple of {divisor} ({getattr(spec, divisor)})"
            )
    if spec.topk_group > spec.n_group:
        raise ValueError(f"topk_group is {spec.topk_group}; it must not exceed n_group ({spec.n_group})")
    reachable = spec.n_routed_experts // spec.n_group * spec.topk_group
    if spec.num_experts_per_tok > reachable:
        raise ValueError(
            f"num_experts_per_tok is {spec.num_experts_per_tok}; a token can reach only {reachable} experts"
        )
    if spec.n_group > 1 and spec.n_routed_experts // spec.n_group < 2:
        raise ValueError(f"n_group is {spec.n_group}; a group is ranked by its best two experts, so it needs two")
    if spec.time_step_limit is not None and not 0 <= spec.time_step_limit[0] < spec.time_step_limit[1]:
        raise ValueError(f"time_step_limit is {spec.time_step_limit}; give low < high, both not negative")


def _check_nvfp4_blocks(spec: CheckpointSpec) -> None:
    """Every input dimension that NVFP4 packs must be a whole number of 16-groups."""
    inputs = [("hidden_size", spec.hidden_size)]
    if "E" in spec.hybrid_override_pattern:
        inputs.append(("moe_intermediate_size", spec.moe_intermediate_size))
    if spec.quantization == "nvfp4":
        if "E" in spec.hybrid_override_pattern:
            inputs.append(("moe_shared_expert_intermediate_size", spec.moe_shared_expert_intermediate_size))
        if "-" in spec.hybrid_override_pattern:
            inputs.append(("intermediate_size", spec.intermediate_size))
        if "M" in spec.hybrid_override_pattern:
            inputs.append(("mamba_num_heads x mamba_head_dim", spec.mamba_inner))
    for field, value in inputs:
        if value % NVFP4_GROUP:
            raise ValueError(
                f"{field} is {value}; quantization {spec.quantization!r} packs weights in groups of {NVFP4_GROUP} "
                f"along that dimension, so make it a multiple of {NVFP4_GROUP}"
            )


# the frozen preset that speed figures refer to: do not change a size here
_TOY = CheckpointSpec(
    hybrid_override_pattern="MEM*EM",
    hidden_size=64,
    vocab_size=1280,
    max_position_embeddings=4096,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    mamba_num_heads=8,
    mamba_head_dim=16,
    n_groups=2,
    ssm_state_size=16,
    conv_kernel=4,
    chunk_size=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=48,
    moe_shared_expert_intermediate_size=96,
)

PRESETS: dict[str, CheckpointSpec] = {
    "toy": _TOY,
    # the demo's: as quick as toy, deeper, and with words in its vocabulary, so that the text it makes up is readable
    "tiny": replace(_TOY, hybrid_override_pattern="MEMEM*EMEM*E", vocab_size=2048),
    # sizes that CUDA kernels accept: head dims 64 and up, state 128, 8 groups
    "small": CheckpointSpec(
        hybrid_override_pattern="MEMEM*EMEM*EME",
        hidden_size=512,
        vocab_size=8192,
        max_position_embeddings=32768,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        mamba_num_heads=16,
        mamba_head_dim=64,
        n_groups=8,
        ssm_state_size=128,
        conv_kernel=4,
        chunk_size=128,
        n_routed_experts=32,
        num_experts_per_tok=6,
        moe_intermediate_size=256,
        moe_shared_expert_intermediate_size=512,
        intermediate_size=256,
    ),
    # the published Nemotron 3 Nano 30B-A3B (source: its config.json)
    "full": CheckpointSpec(
        hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        hidden_size=2688,
        vocab_size=131072,
        max_position_embeddings=262144,
        num_attention_heads=32,
        num_key_value_heads=2,
        head_dim=128,
        mamba_num_heads=64,
        mamba_head_dim=64,
        n_groups=8,
        ssm_state_size=128,
        conv_kernel=4,
        chunk_size=128,
        n_routed_experts=128,
        num_experts_per_tok=6,
        moe_intermediate_size=1856,
        moe_shared_expert_intermediate_size=3712,
        intermediate_size=1856,
    ),
}

# the same language models with eyes and ears. a picture takes up to 3328 tokens, so the small ones promise more context
# than before; the published Omni config has the time step limit that the text config lacks
OMNI_PRESETS: dict[str, CheckpointSpec] = {
    size: replace(
        spec,
        towers=TOWERS[size],
        max_position_embeddings=max(32768, spec.max_position_embeddings),
        time_step_limit=(0.0, 1e30),
    )
    for size, spec in PRESETS.items()
}
