"""A tiny random Omni model of transformers, our towers with the same weights, and ways to look inside a run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sglang_nemotron.config_omni import OmniSpec
from sglang_nemotron.encoders.linears import PLAIN, Linears
from sglang_nemotron.encoders.project import Projector
from sglang_nemotron.encoders.sound import SoundEncoder
from sglang_nemotron.encoders.vision import VisionTower
from support.waiting import NET_S

TINY: dict[str, Any] = {
    "model_type": "nemotron_h_omni",
    "image_token_id": 18,
    "audio_token_id": 27,
    "projector_hidden_size": 96,
    "vision_hidden_size": 64,
    "downsample_ratio": 0.5,
    "video_temporal_patch_size": 2,
    "vision_config": {
        "model_type": "radio",
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mlp_ratio": 2.0,
        "patch_size": 4,
        # 12 x 12 stored positions: some of the tests' grids are smaller, some larger
        "max_img_size": 48,
        "num_cls_tokens": 4,
        "num_registers": 6,
        "video_temporal_patch_size": 2,
    },
    "sound_config": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "conv_kernel_size": 9,
        "convolution_bias": False,
        "subsampling_conv_channels": 16,
        "subsampling_factor": 8,
        "num_mel_bins": 32,
        "projection_hidden_size": 80,
        "projection_bias": False,
        "sampling_rate": 16000,
    },
    "llm_config": {
        "model_type": "nemotron_h",
        "hidden_size": 48,
        "vocab_size": 64,
        "hybrid_override_pattern": "M*",
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "ssm_state_size": 8,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
    },
}

# below the prefix of each part, what the published checkpoint does not hold and transformers writes all the same
SUPERFLUOUS = ("layer_scale", "ls1", "ls2", "summary_idxs", "input_conditioner", "feature_extractor")


@dataclass(frozen=True)
class Tiny:
    """reference: transformers' model, eval, fp32. tensors: as `save_pretrained` names them."""

    reference: Any
    spec: OmniSpec
    tensors: dict[str, torch.Tensor]

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        found = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        return {name: t for name, t in found.items() if not any(word in name for word in SUPERFLUOUS)}

    def tower(self, linears: Linears = PLAIN, **options: Any) -> VisionTower:
        tower = VisionTower(self.spec.vision, linears=linears, **options)
        return loaded(tower, self.below("vision_model.radio_model.model."))

    def encoder(self, linears: Linears = PLAIN, **options: Any) -> SoundEncoder:
        assert self.spec.sound is not None
        encoder = SoundEncoder(self.spec.sound, linears=linears, **options)
        return loaded(encoder, self.below("sound_encoder.encoder."))

    def vision_projector(self, linears: Linears = PLAIN, **options: Any) -> Projector:
        spec = self.spec
        projector = Projector(
            spec.merged_size, spec.projector_hidden_size, spec.decoder.hidden_size, eps=1e-5, linears=linears, **options
        )
        layers = {"0": "norm", "1": "linear1", "3": "linear2"}
        return loaded(projector, {f"{layers[name[0]]}{name[1:]}": t for name, t in self.below("mlp1.").items()})

    def sound_projector(self) -> Projector:
        sound = self.spec.sound
        assert sound is not None
        projector = Projector(sound.hidden_size, sound.projection_hidden_size, self.spec.decoder.hidden_size, eps=1e-5)
        return loaded(projector, self.below("sound_projection."))


def loaded(module: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`module` with exactly these tensors, through `weight_loader` where a parameter has one."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert own.keys() == tensors.keys(), own.keys() ^ tensors.keys()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if (loader := getattr(own[name], "weight_loader", None)) is not None:
                loader(own[name], tensor)
            else:
                assert own[name].shape == tensor.shape, name
                own[name].copy_(tensor)
    return module.eval()


def scatter(model: nn.Module) -> None:
    """Random weights under which every parameter tells: no bias is zero, no norm is one, positions are large."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lambda1" in name:
                continue
            if "position_embedding" in name or "cls_register" in name:
                parameter.normal_(0, 0.5)
            elif parameter.dim() > 1 and "bias" not in name:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.normal_(1, 0.2)
            else:
                parameter.normal_(0, 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def difference(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest deviation over the largest value; NaN anywhere is NaN."""
    assert ours.shape == wanted.shape, (ours.shape, wanted.shape)
    deviation = (ours.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    return float(deviation)


@contextlib.contextmanager
def born_nan() -> Iterator[None]:
    """Memory that an operation asks for uninitialised is NaN until written."""

    class Poison(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket.__name__.startswith(("empty", "new_empty")) and out.is_floating_point():
                out.fill_(torch.nan)
            return out

    with Poison():
        yield


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            # views of an expanded tensor own nothing
            if isinstance(tensor, torch.Tensor) and 0 not in tensor.stride():
                self.numel = max(self.numel, tensor.numel())
        return out


class RankLinears:
    """Two ranks as two threads: each holds its share of the weights, and row layers meet to add up."""

    def __init__(self, rank: int, size: int, meet: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
        self.tp_rank, self.tp_size, self._meet = rank, size, meet

    def qkv(self, hidden_size: int, head_dim: int, num_heads: int, *, bias: bool, prefix: str) -> nn.Module:
        layer = nn.Linear(hidden_size, 3 * num_heads // self.tp_size * head_dim, bias=bias)
        return self._sharded(layer, lambda t: torch.cat([self._mine(part, 0) for part in t.chunk(3)]))

    def column(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        layer = nn.Linear(in_size, out_size // self.tp_size, bias=bias)
        return self._sharded(layer, lambda t: self._mine(t, 0))

    def row(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        layer = nn.Linear(in_size // self.tp_size, out_size, bias=bias)
        self._sharded(layer, lambda t: self._mine(t, 1) if t.dim() == 2 else t / self.tp_size)
        # as SGLang's: a tuple
        layer.register_forward_hook(lambda _module, _inputs, out: (self._meet(self.tp_rank, out), None))
        return layer

    def _mine(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return tensor.chunk(self.tp_size, dim)[self.tp_rank]

    def _sharded(self, layer: nn.Module, cut: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
        for parameter in layer.parameters():
            parameter.weight_loader = lambda p, t: p.data.copy_(cut(t))  # type: ignore[attr-defined]
        return layer


def on_two_ranks(run: Callable[[Linears], Any]) -> list[Any]:
    """`run(linears)` on two threads that stand for ranks; the results by rank."""
    barrier, parts, results = threading.Barrier(2, timeout=NET_S), [None, None], [None, None]

    def meet(rank: int, tensor: torch.Tensor) -> torch.Tensor:
        parts[rank] = tensor  # type: ignore[call-overload]
        barrier.wait()
        total = parts[0] + parts[1]  # type: ignore[operator]
        barrier.wait()
        return total

    def work(rank: int) -> None:
        try:
            with torch.inference_mode():
                results[rank] = run(RankLinears(rank, 2, meet))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(result is None for result in results)
    return results
