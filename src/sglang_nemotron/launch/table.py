"""The launch table: what both published pages about Nemotron 3 Nano offer and refuse, and what has changed since.

Data alone. The pages are SGLang's cookbooks: "Nano page" and "Omni page" below. Choices stand in the order in which
they are asked; a row may look at what stands before it.
"""

from __future__ import annotations

from sglang_nemotron.launch.kinds import Choice, Default, Flag, Note, Option, Refusal, Table, When

_NANO: When = {"model": ("nano",)}
_OMNI: When = {"model": ("omni",)}
_HOPPER = ("h100", "h200")
# among the GPUs that the Omni page lists, and not among those that it offers
_LISTED = ("rtx-pro-6000", "dgx-spark")

# published checkpoints: model, variant, id behind nvidia/, GiB of weights as counted by `sglang-nemotron doctor`
CHECKPOINTS = (
    ("nano", "bf16", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "58.8"),
    ("nano", "fp8", "NVIDIA-Nemotron-3-Nano-30B-A3B-FP8", "30.4"),
    ("omni", "reasoning", "Nemotron-3-Nano-Omni-30B-A3B-Reasoning", "61.5"),
    ("omni", "bf16", "Nemotron-3-Nano-Omni-30B-A3B-BF16", "61.5"),
    ("omni", "fp8", "Nemotron-3-Nano-Omni-30B-A3B-FP8", "32.8"),
    ("omni", "nvfp4", "Nemotron-3-Nano-Omni-30B-A3B-NVFP4", "20.9"),
)

_SWITCH = (Option("on", "Enabled"), Option("off", "Disabled"))

CHOICES = (
    Choice(
        "model",
        "Model",
        "--model",
        "which of the two models",
        (Default("nano"),),
        (Option("nano", "Nano", "text"), Option("omni", "Nano Omni", "text, images, video, audio")),
    ),
    Choice(
        "hardware",
        "Hardware",
        "--hardware",
        "the GPU that serves",
        (Default("h200", _NANO), Default("h100")),
        (
            Option("h100", "H100", "80 GB"),
            Option("h200", "H200", "141 GB"),
            Option("b200", "B200", "180 GB"),
            Option("a100", "A100", "80 GB"),
            Option("l40s", "L40S", "48 GB"),
            Option("rtx-pro-6000", "RTX PRO 6000", "96 GB"),
            Option("dgx-spark", "DGX Spark", "128 GB, the host's"),
        ),
    ),
    Choice(
        "variant",
        "Variant",
        "--variant",
        "how its weights are stored",
        (Default("fp8", _NANO), Default("reasoning")),
        (
            Option("reasoning", "Reasoning", "BF16", _OMNI),
            Option("bf16", "BF16"),
            Option("fp8", "FP8"),
            Option("nvfp4", "NVFP4", "experts in 4 bits", _OMNI),
        ),
    ),
    Choice(
        "tp",
        "Tensor parallel (TP)",
        "--tp",
        "GPUs that share the model",
        (Default("1", _NANO), Default("4")),
        tuple(Option(count, f"TP {count}") for count in ("1", "2", "4", "8")),
    ),
    Choice(
        "kv-cache-dtype",
        "KV cache dtype",
        "--kv-cache-dtype",
        "how keys and values are stored",
        (Default("auto"),),
        (
            Option("auto", "Auto", "as the checkpoint says"),
            Option("fp8_e4m3", "fp8_e4m3", "half of what BF16 takes"),
        ),
    ),
    Choice(
        "reasoning-parser",
        "Reasoning parser",
        "--reasoning-parser",
        "thoughts apart from the answer",
        (Default("off", _NANO), Default("on")),
        _SWITCH,
    ),
    Choice(
        "tool-call-parser",
        "Tool call parser",
        "--tool-call-parser",
        "tool calls apart from the answer",
        (Default("off", _NANO), Default("on")),
        _SWITCH,
    ),
    Choice(
        "host",
        "Host",
        "--host",
        "address that the server listens on",
        (Default("0.0.0.0"),),
        pattern=r"[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}",
        expects="a name or an address, such as 127.0.0.1",
    ),
    Choice(
        "port",
        "Port",
        "--port",
        "port that it listens on",
        (Default("30000"),),
        pattern=r"[1-9][0-9]{0,4}",
        expects="a number from 1 to 65535",
        least=1,
        most=65535,
    ),
    Choice(
        "max-running-requests",
        "Most requests at once",
        "--max-running-requests",
        "most requests that are computed at once; left empty, SGLang decides",
        (Default(""),),
        pattern=r"[1-9][0-9]{0,5}",
        expects="a number from 1 to 999999, or nothing",
        least=1,
        most=999999,
        may_be_empty=True,
    ),
    Choice(
        "format",
        "Written as",
        "--format",
        "how the command is written",
        (Default("lines"),),
        (Option("lines", "Several lines"), Option("line", "One line")),
    ),
)

REFUSALS = (
    Refusal(
        {"variant": ("nvfp4",), "hardware": ("a100", "l40s")},
        "NVFP4 requires Blackwell hardware, says the Omni page; Hopper has been shown to serve it through Marlin "
        "kernels, an A100 or L40S has not",
        "choose B200, H100 or H200, or another variant",
    ),
    Refusal(
        {"variant": ("fp8",), "hardware": ("a100",)},
        "SGLang 0.5.23 serves ModelOpt FP8 weights from compute capability 8.9 on, and an A100 has 8.0",
        "choose BF16 weights, or another GPU",
    ),
    Refusal(
        {"variant": ("nvfp4",), "tp": ("8",), **_OMNI},
        "TP 8 leaves 1856 / 8 = 232 columns of an expert to a GPU, which is no whole number of NVFP4's groups of 16",
        "choose TP 1, 2 or 4, or another variant",
    ),
    Refusal(
        {"model": ("omni",), "hardware": ("l40s",), "tp": ("1",)},
        "TP 1 is not supported on L40S for this model, says the Omni page",
        "choose TP 2 or more",
    ),
    Refusal(
        {"model": ("nano",), "variant": ("bf16",), "hardware": ("l40s",), "tp": ("1",)},
        "58.8 GiB of weights do not fit one L40S of 48 GB",
        "choose TP 2 or more, or FP8 weights",
    ),
    Refusal(
        {"hardware": ("dgx-spark",), "tp": ("2", "4", "8")},
        "a DGX Spark has one GPU, and this writes commands for one machine",
        "choose TP 1, or another GPU",
    ),
)

FLAGS = (
    *(
        Flag(
            "--model-path",
            f"nvidia/{name}",
            f"the published checkpoint, {gib} GiB of weights; a folder may stand here as well",
            {"model": (model,), "variant": (variant,)},
        )
        for model, variant, name, gib in CHECKPOINTS
    ),
    Flag(
        "--host",
        "{host}",
        "every network interface: whoever reaches this machine may ask it; 127.0.0.1 is for this machine alone",
        {"host": ("0.0.0.0", "::")},
    ),
    Flag("--host", "{host}", "the address to listen on"),
    Flag("--port", "{port}", "the port to listen on; 30000 is SGLang's own"),
    Flag("--tp", "{tp}", "the whole model on one GPU", {"tp": ("1",)}),
    Flag("--tp", "{tp}", "{tp} GPUs of one machine share the weights and the work of every layer"),
    Flag(
        "--attention-backend",
        "flashinfer",
        "what both pages measured on a B200; left out, SGLang 0.5.23 takes trtllm_mha there",
        {"hardware": ("b200",)},
    ),
    Flag(
        "--mem-fraction-static",
        "0.83",
        "SGLang's share for text; its share for models with towers is less than these weights take, by arithmetic",
        {"model": ("omni",), "variant": ("reasoning", "bf16"), "hardware": ("h100", "a100"), "tp": ("1",)},
    ),
    Flag(
        "--kv-cache-dtype",
        "{kv-cache-dtype}",
        "keys and values in FP8: half the memory of BF16 for a little accuracy; leave it out if yours suffers",
        {"kv-cache-dtype": ("fp8_e4m3",)},
    ),
    Flag(
        "--reasoning-parser",
        "nano_v3",
        "thoughts come as reasoning_content, apart from the answer; the Nano page's name for our parser",
        {"reasoning-parser": ("on",), **_NANO},
    ),
    Flag(
        "--reasoning-parser",
        "deepseek-r1",
        "thoughts come as reasoning_content, apart from the answer; the Omni page's name for our parser",
        {"reasoning-parser": ("on",)},
    ),
    Flag(
        "--tool-call-parser",
        "qwen3_coder",
        "tool calls come as tool_calls; both pages' name for our parser",
        {"tool-call-parser": ("on",)},
    ),
    Flag(
        "--max-running-requests",
        "{max-running-requests}",
        "no more requests than that are computed at once, as far as memory allows; both pages measured with 1024",
    ),
)

CHANGED = (
    Note("No --trust-remote-code: this package brings the code that it stands for."),
    Note("The Nano page starts python3 -m sglang.launch_server; sglang serve is the same server.", _NANO),
    Note(
        "The Nano page writes --tp 1 whatever is chosen; SGLang splits this model by now, and so do our classes.",
        {"tp": ("2", "4", "8"), **_NANO},
    ),
    Note("The Nano page offers H200 and B200 alone.", {"hardware": ("h100", "a100", "l40s", *_LISTED), **_NANO}),
    Note(
        "The Omni page lists RTX 6000 and DGX Spark among its GPUs, and its choices lack both; an RTX 6000 is taken "
        "for the RTX PRO 6000 Blackwell here.",
        {"hardware": _LISTED, **_OMNI},
    ),
    Note(
        "A DGX Spark is an Arm machine: it needs an SGLang for Arm, and the lock files of this package are for x86-64.",
        {"hardware": ("dgx-spark",)},
    ),
    Note("The Nano page offers no KV cache dtype.", {"kv-cache-dtype": ("fp8_e4m3",), **_NANO}),
    Note(
        "The Omni page asks for Blackwell; SGLang 0.5.23 serves NVFP4 on Hopper through Marlin kernels, which it "
        "compiles for minutes at the first start.",
        {"variant": ("nvfp4",), "hardware": _HOPPER},
    ),
    Note(
        "The Omni page starts this without --mem-fraction-static; it recommends four GPUs.",
        {"variant": ("reasoning", "bf16"), "hardware": ("h100", "a100"), "tp": ("1",), **_OMNI},
    ),
    Note(
        "The Omni page leaves flashinfer on a B200 to SGLang, which takes another since; so it is named.",
        {"hardware": ("b200",), **_OMNI},
    ),
    Note("Media need this package's extra: pip install '.[omni]' in a clone.", _OMNI),
)

_ONE_H200: When = {"hardware": ("h200",), "tp": ("1",)}
_SMALL = "A small random checkpoint was served on one H200, the full size was not."

# the first row that fits counts: the largest thing that was not there comes first
EVIDENCE = (
    Note("Never run by us on this GPU: we had an H200.", {"hardware": ("h100", "b200", "a100", "l40s", *_LISTED)}),
    Note(
        "Never run by us on several GPUs; the splits are tested without a server, and two ranks were served on a CPU.",
        {"tp": ("2", "4", "8")},
    ),
    Note(
        "A small text checkpoint with an FP8 cache was compared with transformers on one H200; the full size was not.",
        {"kv-cache-dtype": ("fp8_e4m3",), "variant": ("bf16",), **_NANO},
    ),
    Note("Never run by us: this checkpoint with an FP8 cache by flag.", {"kv-cache-dtype": ("fp8_e4m3",)}),
    Note(
        "Measured by us on one H200 at full size with random weights; small checkpoints were compared with "
        "transformers. The published weights were not at hand.",
        _NANO,
    ),
    Note(
        "Measured by us on one H200 at full size with random weights and every medium; small checkpoints were "
        "compared with transformers. The published weights were not at hand.",
        {"variant": ("reasoning", "bf16")},
    ),
    Note("Small random checkpoints were served by us on one H200; the full size was not."),
)

TABLE = Table("sglang serve", CHOICES, REFUSALS, FLAGS, CHANGED, EVIDENCE)
