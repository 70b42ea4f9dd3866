"""The golden model: transformers' NemotronHForCausalLM on a checkpoint of any number format; ids in, logprobs out.

Quantised weights are dequantised while loading, so the reference computes with exactly the numbers they stand for.
Shape suffixes: T tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sglang_nemotron.config.decoder import DecoderSpec, decoder_spec, is_nano
from sglang_nemotron.decoder.dequantise import Dequantiser

_SCALES = ("weight_scale", "weight_scale_2")
# scales of what a server may quantise while it runs; weights do not depend on them
_NO_WEIGHT = ("input_scale", "k_scale", "v_scale")


@dataclass(frozen=True)
class Scores:
    """What the reference thinks of a sequence of T tokens; entry i is about token i + 1, given tokens 0..i.

    logprobs [T-1]: of the token that is there. best [T-1]: the most likely one. margins [T-1]: its logit's distance to
    the second best.
    """

    logprobs: torch.Tensor
    best: torch.Tensor
    margins: torch.Tensor


class Reference:
    """A loaded reference model. `dtype` is the one it computes in (its norms and scans stay in float32 below that)."""

    def __init__(self, model_dir: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = _load(model_dir, dtype)
        self.model_dir = model_dir
        self.dtype = dtype
        self._known: dict[tuple[int, ...], Scores] = {}

    @torch.no_grad()
    def scores(self, ids: Sequence[int]) -> Scores:
        """Scores of a whole sequence, one forward without any cache; kept, since modes repeat sequences."""
        key = tuple(ids)
        if key not in self._known:
            logits_TV = self.model(torch.tensor([key[:-1]]), use_cache=False).logits[0]
            # the log-softmax must add no error of its own
            logits_TV = logits_TV.double()
            logprobs_TV = logits_TV.log_softmax(-1)
            top = logits_TV.topk(2, dim=-1)
            self._known[key] = Scores(
                logprobs=logprobs_TV.gather(-1, torch.tensor(key[1:]).unsqueeze(-1)).squeeze(-1),
                best=top.indices[:, 0],
                margins=top.values[:, 0] - top.values[:, 1],
            )
        return self._known[key]


def _load(model_dir: Path, dtype: torch.dtype) -> Any:
    from transformers.models.nemotron_h import NemotronHConfig, NemotronHForCausalLM

    spec = decoder_spec(read_config(model_dir, is_nano))
    config: Any = NemotronHConfig.from_pretrained(model_dir)
    # weights come dequantised; transformers would look for a quantiser of its own
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    tensors = dict(dequantised_tensors(model_dir))
    # what has another shape is told by `check_whole`, in its sentence
    told: Any = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded: Any = NemotronHForCausalLM.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype, **told)
    model, info = loaded
    absent = {"lm_head.weight"} if spec.tie_embeddings else set()
    check_whole(model_dir, info, missing=set(info["missing_keys"]) - absent)
    settle(model, spec)
    return model.eval()


def read_config(model_dir: Path, left_to_others: Callable[[dict[str, Any]], str | None]) -> dict[str, Any]:
    """The config.json of a checkpoint's folder; ValueError if there is none or `left_to_others` has a reason."""
    path = model_dir / "config.json"
    if not path.is_file():
        raise ValueError(f"{model_dir} has no config.json; give the folder of a checkpoint")
    raw = json.loads(path.read_text())
    reason = left_to_others(raw)
    if reason is not None:
        raise ValueError(f"{path}: {reason}")
    return raw


def check_whole(model_dir: Path, info: dict[str, Any], missing: Collection[str]) -> None:
    """ValueError unless transformers used every tensor and lacks none: `info` is its own account of a loading.

    missing: what is left of its missing keys without those that a checkpoint may lack.
    """
    if missing or info["unexpected_keys"] or info["mismatched_keys"]:
        lacking, unused = sorted(missing), sorted(info["unexpected_keys"])
        misshapen = sorted(str(key[0]) for key in info["mismatched_keys"])
        counts = {"lacks": lacking, "has, unused,": unused, "has in other shapes": misshapen}
        said = "; ".join(f"it {verb} {len(names)} tensors ({names[0]} ...)" for verb, names in counts.items() if names)
        raise ValueError(f"transformers cannot use {model_dir} whole: {said}; is the download complete?")


def settle(decoder: Any, spec: DecoderSpec) -> None:
    """Makes up for what transformers' NemotronHForCausalLM leaves out of a checkpoint when it loads one."""
    if spec.tie_embeddings:
        # transformers 5.19 ties nothing for this class
        decoder.lm_head.weight = decoder.model.embeddings.weight
    for layer in decoder.model.layers:
        # 5.19 takes time_step_min for the lower bound, in prefill only, and never reads the config's field
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = spec.mamba.time_step_limit


def dequantised_tensors(model_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of a checkpoint, quantised weights in float32, without the scales of activations and caches."""
    from safetensors import safe_open

    dequantiser = Dequantiser()
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{model_dir} has no *.safetensors files")
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - the handle is no mapping
                base, _, leaf = name.rpartition(".")
                if leaf in _NO_WEIGHT:
                    continue
                if leaf not in ("weight", *_SCALES):
                    yield name, tensors.get_tensor(name)
                    continue
                whole = dequantiser.add(base, leaf, tensors.get_tensor(name))
                if whole is not None:
                    yield base + ".weight", whole
    if dequantiser.incomplete():
        raise ValueError(f"{model_dir}: quantised weights without all their scales: {dequantiser.incomplete()}")
