"""What one rank of tensor parallelism holds of a checkpoint: tensors as they lie in files in, bytes by part out.

Names are the published ones. The rules are those of SGLang's parallel linears and of `decoder/shards.py`; tests/plan
compares them with both. Nothing here may know torch or a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.layers import AttentionSpec, MambaSpec
from sglang_nemotron.config.omni import OmniSpec

# SGLang pads a vocabulary to a multiple of this before it is split (layers/vocab_parallel_embedding.py)
_VOCAB_STEP = 64
_VISION, _SOUND = "vision_model.", "sound_encoder."
_PROJECTORS = ("mlp1.", "sound_projection.")
# what a file holds for other engines, and no module of ours takes
_UNUSED = ("input_conditioner.", "featurizer.", ".num_batches_tracked", "summary_idxs", "layer_scale")
# per-head vectors are kept in float32 whatever the file says
_HEADS = ("A_log", "D", "dt_bias")
# of towers: linears split by their output, and by their input
_TOWER_COLUMNS = ("mlp1.1", "mlp.fc1", "linear1", "attn.qkv", "q_proj", "k_proj", "v_proj", "relative_k_proj")
_TOWER_ROWS = ("mlp1.3", "mlp.fc2", "linear2", "attn.proj", "o_proj")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it lies in a file."""

    name: str
    item_bytes: int
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return self.item_bytes * math.prod(self.shape)


def parts_of(tensors: Iterable[Tensor], decoder: DecoderSpec, omni: OmniSpec | None, tp_size: int) -> dict[str, int]:
    """Bytes of one rank: `weights` (the decoder's) and `towers` (vision, sound and projectors; 0 for text)."""
    parts = {"weights": 0, "towers": 0}
    for tensor in tensors:
        if any(word in tensor.name for word in _UNUSED):
            continue
        if tensor.name.startswith((_VISION, _SOUND, *_PROJECTORS)):
            parts["towers"] += _of_towers(tensor, omni, tp_size)
        else:
            parts["weights"] += _of_decoder(tensor, decoder, tp_size)
    return parts


def _of_decoder(tensor: Tensor, decoder: DecoderSpec, tp_size: int) -> int:
    """Bytes of one rank of a tensor of the language model."""
    name = tensor.name.removeprefix("language_model.")
    module, _, leaf = name.rpartition(".")
    owner = module.rpartition(".")[2]
    if leaf in _HEADS:
        return 4 * math.prod(tensor.shape) // tp_size
    if owner in ("embeddings", "lm_head"):
        rows = -(-tensor.shape[0] // _VOCAB_STEP) * _VOCAB_STEP // tp_size
        return tensor.item_bytes * rows * math.prod(tensor.shape[1:])
    # scales of one number, routers and norms of the residual stream are every rank's
    if not tensor.shape or owner in ("gate", "norm_f") or (owner == "norm" and ".mixer." not in module + "."):
        return tensor.num_bytes
    return tensor.item_bytes * _numbers(tensor, owner, decoder, tp_size)


def _numbers(tensor: Tensor, owner: str, decoder: DecoderSpec, tp_size: int) -> int:
    """Numbers that a rank keeps of a mixer's tensor."""
    whole = math.prod(tensor.shape)
    rows_of = _ROWS.get(owner)
    if rows_of is not None:
        return rows_of(decoder, tp_size) * (whole // tensor.shape[0])
    # every other linear, and the gated norm, is split evenly along one side
    return whole // tp_size


def _groups(mamba: MambaSpec, tp_size: int) -> int:
    """Rows of B, or of C: above their number groups are repeated."""
    return max(mamba.num_groups // tp_size, 1) * mamba.state_size


def _in_proj_rows(decoder: DecoderSpec, tp_size: int) -> int:
    mamba = decoder.record(MambaSpec)
    return (2 * mamba.inner + mamba.num_heads) // tp_size + 2 * _groups(mamba, tp_size)


def _conv_rows(decoder: DecoderSpec, tp_size: int) -> int:
    mamba = decoder.record(MambaSpec)
    return mamba.inner // tp_size + 2 * _groups(mamba, tp_size)


def _kv_rows(decoder: DecoderSpec, tp_size: int) -> int:
    attention = decoder.record(AttentionSpec)
    return max(attention.num_kv_heads // tp_size, 1) * attention.head_dim


_ROWS: dict[str, Callable[[DecoderSpec, int], int]] = {
    "in_proj": _in_proj_rows,
    "conv1d": _conv_rows,
    "k_proj": _kv_rows,
    "v_proj": _kv_rows,
}


def _of_towers(tensor: Tensor, omni: OmniSpec | None, tp_size: int) -> int:
    """Bytes of one rank: linears of a block are split where heads, or channels inside, divide; the rest is repeated."""
    module, _, leaf = tensor.name.rpartition(".")
    by_output = module.endswith(_TOWER_COLUMNS) or leaf in ("bias_u", "bias_v")
    by_input = module.endswith(_TOWER_ROWS)
    if omni is None or not (by_output or by_input) or _units(tensor.name, omni) % tp_size:
        return tensor.num_bytes
    # a bias behind a sum over ranks is whole on each
    return tensor.num_bytes if by_input and leaf == "bias" else tensor.num_bytes // tp_size


def _units(name: str, omni: OmniSpec) -> int:
    """What is shared out over the ranks: channels inside a projector or a feed-forward block, else heads."""
    if name.startswith("mlp1."):
        return omni.projector_hidden_size
    tower = omni.vision if name.startswith(_VISION) else omni.sound
    if tower is None:
        return 1
    if omni.sound is not None and name.startswith("sound_projection."):
        return omni.sound.projection_hidden_size
    return tower.intermediate_size if ".mlp." in name or ".linear" in name else tower.num_heads
