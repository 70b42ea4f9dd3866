"""What a checkpoint is, for a plan: a published name, a folder or a cached id in, its spec and its tensors out.

A published name needs no network and no file: the checkpoint room knows the published shapes. No weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sglang_nemotron.config import hub
from sglang_nemotron.config.decoder import DecoderSpec, decoder_spec, is_nano
from sglang_nemotron.config.omni import OmniSpec, is_nano_omni, omni_spec
from sglang_nemotron.family import OMNI, TEXT
from sglang_nemotron.launch.table import CHECKPOINTS
from sglang_nemotron.plan.weights import Tensor
from sglang_nemotron.state.dtypes import dtype_of, stored_kv_dtype

# a variant of the launch table -> number format as the checkpoint room calls it
_STORED = {"bf16": "none", "reasoning": "none", "fp8": "fp8", "nvfp4": "mixed"}
# id on the hub, without its owner -> variant of the launch table; the same weights are there under a second name
VARIANTS = {name: variant for _, variant, name, _ in CHECKPOINTS}
VARIANTS["Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16"] = "reasoning"
# id -> (Omni?, number format)
PUBLISHED = {name: ("Omni" in name, _STORED[variant]) for name, variant in VARIANTS.items()}
_OWNER = "nvidia/"
# ModelOpt's word in a config -> ours
_FORMATS = {"FP8": "fp8", "NVFP4": "nvfp4", "MIXED_PRECISION": "mixed"}
# bytes of an element in a safetensors header
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True, eq=False)
class Model:
    """One checkpoint. source: where its shapes come from. file_bytes: of its weights, as a start will find them.

    quantization: none, fp8, nvfp4 or mixed. stored_kv: the dtype it wants for KV entries ("FP8"), or None. variant: of
    the launch table, None for what is not published. revision: of an id, None for its newest.
    """

    name: str
    source: str
    decoder: DecoderSpec
    omni: OmniSpec | None
    tensors: tuple[Tensor, ...]
    file_bytes: int
    quantization: str
    stored_kv: str | None
    variant: str | None = None
    revision: str | None = None

    @property
    def dtype(self) -> str:
        """Of the parameters on a GPU."""
        return dtype_of("auto", self.decoder.dtype)


def find(name: str, revision: str | None = None) -> Model:
    """The checkpoint that a user names; ValueError of two lines for one that is not ours or not here.

    A folder, or an id that is in the cache with its weights, is taken as it is; a published name else by its shape.
    revision: of an id in the cache.
    """
    if not name.strip():
        raise ValueError(f"MODEL is {name!r}\n  remedy: give a folder or an id, e.g. {_OWNER}{next(iter(PUBLISHED))}")
    plain = _plain(name)
    if Path(name).is_dir():
        if revision is not None:
            raise ValueError(
                f"--revision is {revision!r}, and {name} is a folder\n  remedy: leave it out, or name an id"
            )
        return of_folder(name, Path(name))
    if plain not in PUBLISHED:
        return replace(of_folder(name, hub.config_folder(name, revision)), revision=revision)
    cached = hub.local_folder(_OWNER + plain, revision)
    if cached is not None and (cached / "config.json").is_file() and hub.unfetched(cached) is None:
        return replace(of_folder(_OWNER + plain, cached), variant=VARIANTS[plain], revision=revision)
    if revision is not None:
        raise ValueError(
            f"--revision is {revision!r}, of which the cache of this machine has no weights of {plain}"
            "\n  remedy: leave it out, to plan for the published shape, or fetch it with `hf download`"
        )
    return of_published(name)


@lru_cache(maxsize=16)
def of_published(name: str) -> Model:
    """A published checkpoint by the shapes that the checkpoint room writes."""
    from sglang_nemotron.checkpoint.config_files import config_json
    from sglang_nemotron.checkpoint.quant_layout import hf_quant_config
    from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS

    plain = _plain(name)
    has_towers, quantization = PUBLISHED[plain]
    spec = replace((OMNI_PRESETS if has_towers else PRESETS)["full"], quantization=quantization)
    config = config_json(spec)
    said = hf_quant_config(spec)["quantization"] if quantization != "none" else {}
    tensors = _tensors_of_spec(spec)
    return Model(
        name=_OWNER + plain,
        source="the published shape; its files were not looked at",
        decoder=decoder_spec(config),
        omni=omni_spec(config) if has_towers else None,
        tensors=tensors,
        file_bytes=sum(tensor.num_bytes for tensor in tensors),
        quantization=quantization,
        stored_kv=stored_kv_dtype(None, said),
        variant=VARIANTS[plain],
    )


def of_folder(name: str, folder: Path) -> Model:
    """A checkpoint in a folder: its tensors from file headers, or by its config where it holds no weights."""
    config = hub.fields_of(folder / "config.json")
    decoder, omni = _specs(config, name)
    said = config.get("quantization_config") or {}
    quantization = _quantization(folder, said)
    files = list(folder.glob("*.safetensors"))
    if files:
        from sglang_nemotron.decoder.headers import read_headers

        headers = read_headers(folder)
        tensors = tuple(Tensor(name, _BYTES.get(kind, 1), shape) for name, (kind, shape) in headers.items())
        source = f"file headers of {folder}"
    else:
        tensors = _tensors_of_spec(_checkpoint_spec(decoder, omni, quantization, config))
        source = f"config.json of {folder}, which holds no weights"
    return Model(
        name=name,
        source=source,
        decoder=decoder,
        omni=omni,
        tensors=tensors,
        file_bytes=sum(file.stat().st_size for file in files),
        quantization=quantization,
        stored_kv=stored_kv_dtype(folder, said),
    )


def _plain(name: str) -> str:
    """The id without its owner, as it is published, however it is capitalised."""
    wanted = name.lower().removeprefix(_OWNER)
    return next((known for known in PUBLISHED if known.lower() == wanted), name)


def _specs(config: dict[str, Any], name: str) -> tuple[DecoderSpec, OmniSpec | None]:
    """Decoder and whole model, or ValueError for another family."""
    names = config.get("architectures") or []
    if any(known in names for known in OMNI):
        reason, read = is_nano_omni(config), omni_spec
    elif TEXT in names:
        reason, read = is_nano(config), None
    else:
        reason, read = f"its architecture is {', '.join(map(str, names)) or 'not named'}", None
    if reason:
        raise ValueError(
            f"{name} is another family: {reason}\n  remedy: give a Nemotron 3 Nano or Nano Omni, e.g. "
            f"{_OWNER}{next(iter(PUBLISHED))}"
        )
    whole = read(config) if read else None
    return (whole.decoder, whole) if whole else (decoder_spec(config), None)


def _quantization(folder: Path, said: dict[str, Any]) -> str:
    algorithm = said.get("quant_algo")
    beside = folder / "hf_quant_config.json"
    if algorithm is None and beside.is_file():
        algorithm = hub.fields_of(beside).get("quantization", {}).get("quant_algo")
    if algorithm is None:
        return "none"
    if algorithm not in _FORMATS:
        raise ValueError(
            f"{folder} is quantised in {algorithm}, which is not served here\n  remedy: give a checkpoint in one of "
            f"{', '.join(_FORMATS)}, or without quantisation"
        )
    return _FORMATS[algorithm]


def _tensors_of_spec(spec: Any) -> tuple[Tensor, ...]:
    from sglang_nemotron.checkpoint.quant_layout import layer_algorithms
    from sglang_nemotron.checkpoint.writer import all_tensors, stored_tensors

    algorithms = layer_algorithms(spec)
    stored = (tensor for source in all_tensors(spec) for tensor in stored_tensors(spec, source, algorithms))
    return tuple(Tensor(tensor.name, tensor.dtype.itemsize, tensor.shape) for tensor in stored)


def _checkpoint_spec(decoder: DecoderSpec, omni: OmniSpec | None, quantization: str, config: dict[str, Any]) -> Any:
    """What the checkpoint room would write for this config: the published shape with the config's own sizes."""
    from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
    from sglang_nemotron.config.layers import AttentionSpec, DenseSpec, MambaSpec, MoESpec

    preset = (OMNI_PRESETS if omni else PRESETS)["full"]
    mamba, attention = decoder.find(MambaSpec), decoder.find(AttentionSpec)
    moe, dense = decoder.find(MoESpec), decoder.find(DenseSpec)
    sizes: dict[str, Any] = {
        "hybrid_override_pattern": decoder.pattern,
        "hidden_size": decoder.hidden_size,
        "vocab_size": decoder.vocab_size,
        "tie_word_embeddings": decoder.tie_embeddings,
        "dtype": decoder.dtype or "float32",
        "quantization": quantization,
    }
    if mamba:
        sizes |= {"mamba_num_heads": mamba.num_heads, "mamba_head_dim": mamba.head_dim, "n_groups": mamba.num_groups}
        sizes |= {"ssm_state_size": mamba.state_size, "conv_kernel": mamba.conv_width, "use_conv_bias": mamba.conv_bias}
    if attention:
        sizes |= {"num_attention_heads": attention.num_heads, "num_key_value_heads": attention.num_kv_heads}
        sizes["head_dim"] = attention.head_dim
    if moe:
        sizes |= {"n_routed_experts": moe.num_experts, "num_experts_per_tok": moe.experts_per_token}
        sizes |= {"n_group": moe.router_num_groups, "topk_group": moe.router_top_groups}
        sizes["moe_intermediate_size"] = moe.expert_intermediate_size
        sizes["moe_shared_expert_intermediate_size"] = moe.shared_intermediate_size
    if dense:
        sizes["intermediate_size"] = dense.intermediate_size
    if omni:
        sizes["towers"] = _towers(omni, preset.towers)
    return replace(preset, **sizes)


def _towers(omni: OmniSpec, preset: Any) -> Any:
    vision, sound = omni.vision, omni.sound
    sizes: dict[str, Any] = {
        "vision_hidden_size": vision.hidden_size,
        "vision_num_hidden_layers": vision.num_layers,
        "vision_num_attention_heads": vision.num_heads,
        "vision_intermediate_size": vision.intermediate_size,
        "projector_hidden_size": omni.projector_hidden_size,
        "patch_size": vision.patch_size,
        "max_resolution": vision.position_grid * vision.patch_size,
    }
    if sound:
        sizes |= {
            "sound_hidden_size": sound.hidden_size,
            "sound_num_hidden_layers": sound.num_layers,
            "sound_num_attention_heads": sound.num_heads,
            "sound_intermediate_size": sound.intermediate_size,
            "sound_conv_kernel_size": sound.conv_kernel,
            "sound_projection_hidden_size": sound.projection_hidden_size,
            "sound_subsampling_conv_channels": sound.subsampling_channels,
            "num_mel_bins": sound.num_mels,
        }
    return replace(preset, **sizes)
