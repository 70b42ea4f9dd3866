"""Decoder specs that differ from a given one in the sizes of one layer kind, or in the order of their layers."""

from __future__ import annotations

import dataclasses
from typing import Any

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.layers import LayerSpec


def resized(spec: DecoderSpec, kind: type[LayerSpec], **sizes: Any) -> DecoderSpec:
    """The same decoder with other sizes in all layers of one kind; ValueError as for any record."""
    layers = [dataclasses.replace(layer, **sizes) if type(layer) is kind else layer for layer in spec.layers]
    return dataclasses.replace(spec, layers=tuple(layers))


def relayered(spec: DecoderSpec, pattern: str) -> DecoderSpec:
    """Layers of the same sizes in another order; KeyError for a letter that `spec` has no layer of."""
    records = {layer.letter: layer for layer in spec.layers}
    return dataclasses.replace(spec, layers=tuple(records[letter] for letter in pattern))
