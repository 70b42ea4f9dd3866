"""The config class SGLang reads a `nemotron_h` checkpoint with: every published spelling in, SGLang's fields out.

It subclasses SGLang's own, because SGLang finds the hybrid cache by isinstance; configs of other families (Super,
Puzzle, MTP heads) pass through to the parent unchanged.
"""

from __future__ import annotations

from typing import Any

from sglang_nemotron.config.decoder import DecoderSpec, decoder_spec, is_nano
from sglang_nemotron.config.layers import MambaSpec
from sglang_nemotron.family import STATE_DTYPES, TEXT_MODEL_TYPES
from sglang_nemotron.host.context import CONTEXT
from sglang_nemotron.host.layouts import dtype_of
from sglang_nemotron.sglang_api.args import Mamba2CacheParams, NemotronHConfig, envs, get_model, get_parallel
from sglang_nemotron.state.layout import state_layout
from sglang_nemotron.state.pool import cache_params

# spellings that the parent does not know, or reads under another name
_TRANSLATED = ("hybrid_override_pattern", "layers_block_type", "layer_types", "chunk_size", "mamba_chunk_size")


class NanoConfig(NemotronHConfig):
    """SGLang's NemotronHConfig with our reading of the fields; `nano_spec` is None for configs we do not claim."""

    model_type = TEXT_MODEL_TYPES[0]

    # transformers builds configs, and their defaults, from keyword arguments alone
    def __init__(self, **kwargs: Any) -> None:
        fields = {"model_type": self.model_type, **kwargs}
        self.nano_spec: DecoderSpec | None = None
        if "hidden_size" not in kwargs or is_nano(fields) is not None:
            super().__init__(**kwargs)
            return
        spec = decoder_spec(fields)
        # SGLang reads a config on the way to its length, and what the row wraps is there by now
        CONTEXT.open()
        mamba = spec.find(MambaSpec)
        num_groups, chunk_size = (mamba.num_groups, mamba.chunk_size) if mamba else (0, 0)
        kept = {name: value for name, value in kwargs.items() if name not in _TRANSLATED}
        kept.update(
            layers_block_type=[layer.words[0] for layer in spec.layers],
            mamba_n_groups=num_groups,
            mamba_d_conv=mamba.conv_width if mamba else 0,
            mamba_chunk_size=chunk_size,
            layer_norm_epsilon=spec.norm_eps,
        )
        kept.pop("num_hidden_layers", None)
        super().__init__(**kept)
        # HF-style names that other readers of the config look for
        self.n_groups = num_groups
        self.chunk_size = chunk_size
        self.nano_spec = spec

    def to_dict(self) -> dict[str, Any]:
        """As the parent, without the parsed spec (it is derived, and not JSON)."""
        fields = super().to_dict()
        fields.pop("nano_spec", None)
        return fields

    @property
    def mamba2_cache_params(self) -> Mamba2CacheParams:
        """Shapes and dtypes of the state pool, from our layout; SGLang sizes its pools by this."""
        if self.nano_spec is None:
            return super().mamba2_cache_params
        layout = state_layout(
            self.nano_spec,
            tp_size=get_parallel().attn_tp_size,
            conv_dtype=_conv_dtype(self),
            ssm_dtype=_ssm_dtype(self.nano_spec),
            # pages are SGLang's business; this layout is asked for slots only
            kv_dtype="bfloat16",
        )
        return cache_params(self.nano_spec, layout)


def _conv_dtype(config: NanoConfig) -> str:
    """The window holds raw inputs of the convolution, so the served dtype keeps them exact; a variable overrides."""
    if envs.SGLANG_MAMBA_CONV_DTYPE.is_set():
        return _known_dtype("SGLANG_MAMBA_CONV_DTYPE", envs.SGLANG_MAMBA_CONV_DTYPE.get())
    return served_dtype(config)


def _ssm_dtype(spec: DecoderSpec) -> str:
    wanted = envs.SGLANG_MAMBA_SSM_DTYPE.get()
    if wanted is not None:
        return _known_dtype("--mamba-ssm-dtype", wanted)
    return spec.ssm_dtype


def _known_dtype(source: str, name: str) -> str:
    if name not in STATE_DTYPES:
        raise ValueError(f"{source}={name!r} is not supported; allowed: {', '.join(STATE_DTYPES)}")
    return name


def served_dtype(config: Any) -> str:
    """The parameter dtype this server runs, as a plain name; the rule of SGLang's `--dtype auto` included."""
    return dtype_of(get_model().dtype, getattr(config, "dtype", None))
