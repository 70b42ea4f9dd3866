"""The config classes SGLang reads an Omni checkpoint with: both spellings in, our `OmniSpec` and text config out.

They subclass SGLang's own, because SGLang finds the hybrid cache by isinstance; configs of other families (Super
Omni) pass through to the parent unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from sglang_nemotron.config.omni import OmniSpec, is_nano_omni, omni_spec
from sglang_nemotron.family import OMNI_MODEL_TYPES
from sglang_nemotron.host.hf_config import NanoConfig
from sglang_nemotron.sglang_api.args import (
    NemotronH_Nano_Omni_Reasoning_V3_Config,
    NemotronH_Omni_Reasoning_V3_Config,
)

# the spelling of transformers -> the published one, which SGLang's class reads
_PUBLISHED = {
    "text_config": "llm_config",
    "audio_config": "sound_config",
    "image_token_id": "img_context_token_id",
    "audio_token_id": "sound_context_token_id",
    "video_token_id": "video_context_token_id",
    "vision_hidden_size": "vit_hidden_size",
}
# what the parent keeps in place of a key that it was given
_KEPT_AS = {"raw_vision_config": "vision_config"}


def _fields(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """The config.json as one plain dict, also where SGLang or transformers rebuilds a config from its own output."""
    fields = {"model_type": cls.model_type, **copy.deepcopy(given)}
    for kept, name in _KEPT_AS.items():
        value = fields.pop(kept, None)
        if fields.get(name) is None and value:
            fields[name] = value
    return fields


def _published(fields: dict[str, Any]) -> dict[str, Any]:
    """Every key in its published spelling; what both spellings say, `omni_spec` has compared."""
    named: dict[str, Any] = {}
    for name, value in fields.items():
        published = _PUBLISHED.get(name, name)
        if named.get(published) is None:
            named[published] = value
    return named


def _text_config(fields: dict[str, Any]) -> NanoConfig:
    """The text part; what Omni's file says only once, outside it, is what SGLang looks for inside."""
    text = dict(fields["llm_config"])
    for name in ("dtype", "torch_dtype"):
        if text.get("dtype") is None and text.get("torch_dtype") is None and fields.get(name) is not None:
            text[name] = fields[name]
    return NanoConfig(**text)


def _read(config: Any, parent_init: Callable[..., None], given: dict[str, Any]) -> None:
    """What both classes' `__init__` does; a config that we do not claim is the parent's alone."""
    fields = _fields(type(config), given)
    if is_nano_omni(fields) is not None:
        parent_init(**given)
        return
    fields, spec = _published(fields), omni_spec(fields)
    text = _text_config(fields)
    parent_init(**_parents_view(fields, spec, text))
    _adopt(config, fields, spec, text)


def _adopt(config: Any, fields: dict[str, Any], spec: OmniSpec, text: NanoConfig) -> None:
    """Puts our reading on a config that SGLang's class has just built."""
    config.llm_config = text
    config.omni_spec = spec
    # where SGLang looks to learn that a model sees images, and to leave memory for the tower
    config.vision_config = copy.deepcopy(fields["vision_config"])
    # the parent's copy loses its model_type
    config.sound_config = copy.deepcopy(fields.get("sound_config"))
    # the spelling of transformers beside the published one: SGLang and its processors read this one
    config.image_token_id = spec.tokens.image_id
    # where SGLang looks for the steps in which it keeps states: finer ones than the scan's would file a state under
    # tokens that it has not seen
    config.mamba_chunk_size = text.mamba_chunk_size
    if getattr(config, "eos_token_id", None) is None and spec.decoder.eos_token_ids:
        config.eos_token_id = list(spec.decoder.eos_token_ids)


def _parents_view(fields: dict[str, Any], spec: OmniSpec, text: NanoConfig) -> dict[str, Any]:
    """What SGLang's class accepts: its own text fields, which are replaced by ours right after."""
    kept = {name: value for name, value in fields.items() if name != "model_type"}
    # its default is another normalisation, which a config rebuilt from this one would take for a statement
    normalisation = {"norm_mean": list(spec.image.mean), "norm_std": list(spec.image.std)}
    return {**kept, **normalisation, "llm_config": text.to_dict()}


class _Ours:
    """Shared by the two classes below: a claimed config is read by us, any other by SGLang alone."""

    omni_spec: OmniSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the parent, without the parsed spec (it is derived, and not JSON)."""
        fields = super().to_dict()  # type: ignore[misc]
        fields.pop("omni_spec", None)
        return fields


class NanoOmniConfig(_Ours, NemotronH_Nano_Omni_Reasoning_V3_Config):
    """A published checkpoint's config; `omni_spec` is None for configs we do not claim."""

    model_type = OMNI_MODEL_TYPES[0]

    # transformers builds configs, and their defaults, from keyword arguments alone; it also makes each subclass a
    # dataclass, whose generated __init__ would hide one inherited from `_Ours`
    def __init__(self, **kwargs: Any) -> None:
        _read(self, super().__init__, kwargs)


class TransformersOmniConfig(_Ours, NemotronH_Omni_Reasoning_V3_Config):
    """The same as transformers saves it; Super Omni shares this model type, and is left to SGLang."""

    model_type = OMNI_MODEL_TYPES[1]

    def __init__(self, **kwargs: Any) -> None:
        _read(self, super().__init__, kwargs)
