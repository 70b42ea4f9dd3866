"""Write a Nemotron 3 Nano or Nano Omni checkpoint with random weights, in any size, number format or config spelling.

Command-line arguments come in, a folder goes out; what the folder holds is decided in the checkpoint room.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sglang_nemotron.checkpoint.spec import (
    DTYPES,
    OMNI_PRESETS,
    PRESETS,
    QUANT_CONFIG_PLACES,
    QUANTIZATIONS,
    SPELLINGS,
    CheckpointSpec,
)
from sglang_nemotron.checkpoint.tower_spec import TEMPLATES, TowerSpec
from sglang_nemotron.cli.console import Bar, fail, finite

_PROGRAM = "sglang-nemotron make-checkpoint"

_EPILOG = """\
sizes:
  toy    0.4M parameters in 6 layers, under 1 MB; frozen, since speed figures refer to it
  tiny   the same widths in 12 layers, with words in its vocabulary: what the demo serves
  small  79M parameters with head sizes that GPU kernels accept
  full   the published 30B-A3B sizes: 63 GB in bfloat16, minutes to write
with --omni each has a vision tower, a sound encoder and projectors of a size to match (4 MB more for toy and tiny,
3 GB for full), and a context of 32768 tokens or more

examples:
  sglang-nemotron make-checkpoint /tmp/toy
  sglang-nemotron make-checkpoint /tmp/toy-fp8 --quantization fp8
  sglang-nemotron make-checkpoint /tmp/dense --pattern 'M-*-ME' --n-groups 8 --ssm-state-size 128 --dtype float32
  sglang-nemotron make-checkpoint /tmp/omni --omni --size tiny
  sglang-nemotron make-checkpoint /tmp/sharded --size small --max-shard-bytes 20MB --seed 7

The weights are random, but scaled so that activations keep their size from layer to layer and tokens spread over the
experts. One seed gives one set of values in every dtype and spelling, and the same bytes on every run. The tokenizer
has the real special tokens at their real ids; the other tokens are bytes, a few merges and made-up words.
"""

# layer pattern and model widths: one flag each, in this order
_SIZE_FLAGS = {
    "hidden_size": "width of the residual stream",
    "vocab_size": "tokens; ids below 1000 are reserved, the next 256 are bytes",
    "max_position_embeddings": "longest context that the config promises, in tokens",
    "num_attention_heads": "query heads of an attention layer",
    "num_key_value_heads": "key/value heads of an attention layer",
    "head_dim": "width of an attention head",
    "mamba_num_heads": "heads of a Mamba-2 layer",
    "mamba_head_dim": "width of a Mamba-2 head",
    "n_groups": "groups of heads that share B and C (and a gated norm)",
    "ssm_state_size": "state per channel of a Mamba-2 head",
    "conv_kernel": "taps of the short convolution",
    "chunk_size": "tokens per chunk of the SSM scan, as the config advises",
    "n_routed_experts": "routed experts of an MoE layer",
    "num_experts_per_tok": "routed experts that a token visits",
    "moe_intermediate_size": "width inside a routed expert",
    "moe_shared_expert_intermediate_size": "width inside the shared expert",
    "intermediate_size": "width inside a dense MLP layer",
    "n_group": "groups of experts that the router ranks first",
    "topk_group": "groups of experts that a token may reach",
}

# the same for towers, projectors and media rules
_TOWER_FLAGS = {
    "vision_hidden_size": "width of the vision tower",
    "vision_num_hidden_layers": "blocks of the vision tower",
    "vision_num_attention_heads": "heads of a vision block",
    "vision_intermediate_size": "width inside a vision block's MLP",
    "projector_hidden_size": "width inside the vision projector",
    "sound_hidden_size": "width of the sound encoder",
    "sound_num_hidden_layers": "blocks of the sound encoder",
    "sound_num_attention_heads": "heads of a sound block",
    "sound_intermediate_size": "width inside a sound block's feed-forward layers",
    "sound_projection_hidden_size": "width inside the sound projector",
    "sound_subsampling_conv_channels": "channels of the convolutions that shorten the sound",
    "sound_conv_kernel_size": "taps of a sound block's depthwise convolution, odd",
    "patch_size": "pixels of a patch's side",
    "max_resolution": "pixels of a side that the stored position embeddings cover",
    "min_num_patches": "patches that an image has at least",
    "max_num_patches": "patches that an image has at most",
    "video_target_num_patches": "patches that a frame should have",
    "num_mel_bins": "mel bands of the sound",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; made if absent")
    parser.add_argument("--size", choices=PRESETS, default="toy", help="preset to start from (default: toy)")
    parser.add_argument("--omni", action="store_true", help="Nano Omni, with towers for images, videos and sound")
    parser.add_argument("--dtype", choices=DTYPES, help="of the unquantised tensors (default: bfloat16)")
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="ModelOpt layout: per-tensor FP8, NVFP4 in groups of 16, or both mixed (default: none)",
    )
    parser.add_argument(
        "--quant-config-in",
        choices=QUANT_CONFIG_PLACES,
        help="declare the quantisation in config.json, in hf_quant_config.json (file), or in both (default: both)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the random weights (default: 0)")
    parser.add_argument(
        "--spelling",
        choices=SPELLINGS,
        help="of config.json: as published, as transformers 5.19 saves it, or as older releases did "
        "(default: published)",
    )
    parser.add_argument(
        "--max-shard-bytes",
        type=_byte_count,
        metavar="BYTES",
        help="split the weights into files of at most this size, e.g. 500MB (default: 5GB)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the checkpoint that OUT already holds")
    parser.add_argument("--jobs", type=int, metavar="N", help="threads (default: one per CPU, at most 8)")
    sizes = parser.add_argument_group("sizes", "each replaces one number of the preset")
    sizes.add_argument(
        "--pattern",
        dest="hybrid_override_pattern",
        metavar="LETTERS",
        help="one letter per layer: M Mamba-2, E mixture of experts, * attention, - dense MLP",
    )
    for name, text in _SIZE_FLAGS.items():
        sizes.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=text)
    sizes.add_argument("--routed-scaling-factor", type=finite, metavar="X", help="factor on the routed experts' sum")
    sizes.add_argument("--norm-eps", type=finite, metavar="X", help="epsilon of every RMS norm")
    sizes.add_argument(
        "--time-step-limit",
        type=_time_step_limit,
        metavar="LOW,HIGH",
        help="write the field, e.g. 0,1e30 or 0,inf (default: absent, as published)",
    )
    sizes.add_argument(
        "--mamba-ssm-cache-dtype", choices=DTYPES, help="dtype that the config asks of the SSM state (default: float32)"
    )
    for name, text in {
        "tie_word_embeddings": "use the embedding table as the head",
        "use_conv_bias": "give the short convolution a bias",
        "norm_topk_prob": "normalise the weights of the chosen experts",
    }.items():
        flag = "--" + name.replace("_", "-")
        sizes.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    _add_tower_arguments(parser)


def _add_tower_arguments(parser: argparse.ArgumentParser) -> None:
    towers = parser.add_argument_group("towers", "each replaces one number of the preset; only with --omni")
    towers.add_argument(
        "--template",
        choices=TEMPLATES,
        help="chat template: a message's media before its text, as published, or every part in its order "
        "(default: media-first)",
    )
    towers.add_argument(
        "--video-pruning-rate", type=finite, metavar="Q", help="share of a video's tokens to drop (default: 0.7)"
    )
    for name, text in _TOWER_FLAGS.items():
        towers.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint. Returns 0, or 2 after two lines on stderr: what is wrong, and the remedy."""
    try:
        spec = _spec(args)
        if args.jobs is not None and args.jobs < 1:
            raise ValueError(f"--jobs is {args.jobs}; it must be at least 1")
        began = time.monotonic()
        num_bytes = _write(args, spec)
    except ValueError as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what each flag takes")
        return 2
    except OSError as error:
        fail(_PROGRAM, error, "choose another folder, or see to this one")
        return 2
    # rich is imported here for the same reason
    from rich.filesize import decimal

    took = time.monotonic() - began
    print(
        f"wrote {args.out}: {spec.num_hidden_layers} layers {spec.hybrid_override_pattern}, "
        f"{'with towers, ' if spec.towers else ''}{spec.dtype}, "
        f"quantization {spec.quantization}, seed {spec.seed}, {decimal(num_bytes)} of weights in {took:.1f} s"
    )
    return 0


def _write(args: argparse.Namespace, spec: CheckpointSpec) -> int:
    """Writes it; bytes of weights."""
    # torch is imported here, so that --help and mistakes stay quick
    from sglang_nemotron.checkpoint.writer import write_checkpoint

    written = 0
    with Bar(f"writing {args.out}", of_bytes=True) as bar:

        def progress(done: int, total: int) -> None:
            nonlocal written
            written = total
            bar(done, total)

        write_checkpoint(spec, args.out, overwrite=args.force, progress=progress, jobs=args.jobs)
    return written


def _spec(args: argparse.Namespace) -> CheckpointSpec:
    tower_changes = _given(args, TowerSpec)
    if not args.omni and tower_changes:
        flags = ", ".join("--" + name.replace("_", "-") for name in tower_changes)
        raise ValueError(f"{flags} needs --omni: a text checkpoint has no towers")
    preset = (OMNI_PRESETS if args.omni else PRESETS)[args.size]
    changes = _given(args, CheckpointSpec)
    if preset.towers is not None:
        changes["towers"] = replace(preset.towers, **tower_changes)
    return replace(preset, **changes)


def _given(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of a spec that the command line sets."""
    found = {field.name: getattr(args, field.name, None) for field in fields(kind)}
    return {name: value for name, value in found.items() if value is not None}


def _byte_count(text: str) -> int:
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9}
    number, factor = text.strip().lower(), 1
    if number[-2:] in units:
        number, factor = number[:-2], units[number[-2:]]
    try:
        return int(float(number) * factor)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write bytes, or a number with kB, MB or GB") from None


def _time_step_limit(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if math.isnan(low) or math.isnan(high):
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of numbers; write LOW,HIGH, e.g. 0,inf")
    return low, high
