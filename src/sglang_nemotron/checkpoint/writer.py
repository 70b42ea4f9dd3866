"""Writes a whole checkpoint folder: a spec comes in, files lie on disk when it returns.

Joins the other modules of this room; holds at most a few tensors at a time, so the full-size model needs little memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from sglang_nemotron.checkpoint.config_files import config_json, generation_config_json, remote_code_files
from sglang_nemotron.checkpoint.quant_layout import INPUT_AMAX, KV_AMAX, Algo, hf_quant_config, layer_algorithms
from sglang_nemotron.checkpoint.quantise import E4M3_MAX, quantise_fp8, quantise_nvfp4
from sglang_nemotron.checkpoint.shards import ShardWriter, Stored
from sglang_nemotron.checkpoint.spec import NVFP4_GROUP, CheckpointSpec
from sglang_nemotron.checkpoint.template import chat_template
from sglang_nemotron.checkpoint.tensors import SourceTensor, inventory
from sglang_nemotron.checkpoint.tokenizer import tokenizer_files
from sglang_nemotron.checkpoint.tower_config import preprocessor_config
from sglang_nemotron.checkpoint.tower_tensors import tower_inventory
from sglang_nemotron.checkpoint.values import OWN_DTYPES, make_values

# files of an earlier checkpoint that would contradict the new one
_STALE = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "hf_quant_config.json",
    "preprocessor_config.json",
    "*_nemotron_h.py",
)

Progress = Callable[[int, int], None]


def write_checkpoint(
    spec: CheckpointSpec,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> None:
    """Write the checkpoint that `spec` describes into the folder `out`; the same spec gives the same bytes.

    Args:
        spec: what to write.
        out: the folder; made if absent.
        overwrite: replace a checkpoint that is there. Files that no checkpoint of ours has are left alone.
        progress: called with (bytes written, bytes in all) after each tensor.
        jobs: threads that make tensors; each holds one. None takes the number of CPUs, at most 8.

    Raises:
        ValueError: if `out` is not empty and `overwrite` is off, is no folder, or its disk is too small.
    """
    algorithms = layer_algorithms(spec)
    sources = list(all_tensors(spec))
    stored = [tensor for source in sources for tensor in stored_tensors(spec, source, algorithms)]
    _prepare_folder(out, sum(tensor.num_bytes for tensor in stored), overwrite)
    writer = ShardWriter(out, stored, spec.max_shard_bytes)
    done = 0

    def produce(source: SourceTensor) -> int:
        return sum(writer.put(name, tensor) for name, tensor in _produce(spec, source, algorithms))

    pool = ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1))
    try:
        for future in as_completed([pool.submit(produce, source) for source in sources]):
            done += future.result()
            if progress:
                progress(done, writer.total_bytes)
    finally:
        # after a fault or Ctrl-C, tensors not yet begun are not worth waiting for
        pool.shutdown(cancel_futures=True)
        writer.close()
    assert done == writer.total_bytes, (done, writer.total_bytes)
    _write_small_files(spec, out)


def all_tensors(spec: CheckpointSpec) -> Iterator[SourceTensor]:
    """Every tensor before quantisation: the language model's, then those of towers and projectors."""
    yield from inventory(spec)
    if spec.towers is not None:
        as_transformers = spec.spelling == "transformers"
        yield from tower_inventory(spec.towers, spec.hidden_size, as_transformers=as_transformers)


def stored_tensors(spec: CheckpointSpec, source: SourceTensor, algorithms: dict[str, Algo]) -> Iterator[Stored]:
    """What a source tensor becomes in the file: itself, or codes and scales. Shapes and dtypes only."""
    algo, module = algorithms.get(source.module), source.module
    if algo is None:
        dtype = OWN_DTYPES.get(source.role) or getattr(torch, spec.dtype)
        yield Stored(source.name, source.shape, dtype)
    elif algo == "FP8":
        yield Stored(f"{module}.weight", source.shape, torch.float8_e4m3fn)
        yield Stored(f"{module}.weight_scale", (), torch.float32)
        yield Stored(f"{module}.input_scale", (), torch.float32)
    else:
        num_out, num_in = source.shape
        yield Stored(f"{module}.weight", (num_out, num_in // 2), torch.uint8)
        yield Stored(f"{module}.weight_scale", (num_out, num_in // NVFP4_GROUP), torch.float8_e4m3fn)
        yield Stored(f"{module}.weight_scale_2", (), torch.float32)
        yield Stored(f"{module}.input_scale", (), torch.float32)
    if (scale := _kv_scale_name(spec, source)) is not None:
        yield Stored(scale, (), torch.float32)


def _produce(
    spec: CheckpointSpec, source: SourceTensor, algorithms: dict[str, Algo]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of `stored_tensors`, with their values."""
    algo, module = algorithms.get(source.module), source.module
    if algo is None:
        yield source.name, make_values(spec.seed, source, getattr(torch, spec.dtype))
    else:
        weight_OI = make_values(spec.seed, source, torch.float32)
        quantise = quantise_fp8 if algo == "FP8" else quantise_nvfp4
        for suffix, tensor in quantise(weight_OI, INPUT_AMAX[module.rpartition(".")[2]]).items():
            yield f"{module}.{suffix}", tensor
    if (scale := _kv_scale_name(spec, source)) is not None:
        yield scale, torch.tensor(KV_AMAX / E4M3_MAX)


def _kv_scale_name(spec: CheckpointSpec, source: SourceTensor) -> str | None:
    """The FP8 cache scale that rides on a quantised checkpoint's k_proj and v_proj."""
    leaf = source.module.rpartition(".")[2]
    # the sound encoder's have no cache
    if spec.quantization == "none" or source.role != "linear" or leaf not in ("k_proj", "v_proj"):
        return None
    return f"{source.module}.{leaf[0]}_scale"


def _prepare_folder(out: Path, num_bytes: int, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} is not empty; give another folder, or allow overwriting it (--force)")
        # the old config goes first: a folder without one is nobody's checkpoint
        for pattern in ("config.json", *_STALE):
            for path in out.glob(pattern):
                path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if free < num_bytes:
        raise ValueError(f"{out} has {free / 1e9:.1f} GB free; the weights need {num_bytes / 1e9:.1f} GB")


def _write_small_files(spec: CheckpointSpec, out: Path) -> None:
    files = {
        **tokenizer_files(spec.vocab_size, spec.max_position_embeddings),
        **remote_code_files(spec),
        "chat_template.jinja": chat_template("text" if spec.towers is None else spec.towers.template),
        "generation_config.json": json.dumps(generation_config_json(spec), indent=2) + "\n",
    }
    if spec.towers is not None:
        files["preprocessor_config.json"] = json.dumps(preprocessor_config(spec.towers), indent=2) + "\n"
    if spec.quantization != "none" and spec.quant_config_in != "config":
        files["hf_quant_config.json"] = json.dumps(hf_quant_config(spec), indent=4) + "\n"
    # last, so that an interrupted run leaves a folder that no engine takes for a checkpoint
    files["config.json"] = json.dumps(config_json(spec), indent=4) + "\n"
    for name, text in files.items():
        (out / name).write_text(text)
