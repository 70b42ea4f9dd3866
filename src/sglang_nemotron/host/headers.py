"""Whether the tensors of a checkpoint are those that its config asks for: headers come in, a list of faults goes out.

Light enough for a command that only wants to know: nothing here imports SGLang.
"""

from __future__ import annotations

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.omni import OmniSpec
from sglang_nemotron.decoder.headers import Headers


def check_headers(headers: Headers, spec: DecoderSpec, omni: OmniSpec | None) -> None:
    """ValueError that lists what is missing, unknown or of another shape.

    omni: the whole model's spec, where `spec` is a decoder inside an Omni checkpoint.
    """
    # torch, which a server's main process needs for nothing else
    from sglang_nemotron.decoder.weights import DecoderWeights

    if omni is None:
        DecoderWeights(spec, 1, dequantise=False).check(headers)
        return
    from sglang_nemotron.encoders.weights import TEXT_PREFIX, TowerWeights

    text = {name: header for name, header in headers.items() if name.startswith(TEXT_PREFIX)}
    TowerWeights(omni).check(headers)
    DecoderWeights(spec, 1, dequantise=False, prefix=TEXT_PREFIX).check(text)
