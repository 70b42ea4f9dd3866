"""What a media worker is told and what it hands back: an order in, parcels out; and what a server knows of media.

Orders and parcels cross processes by pickle. Nothing here may know files, SGLang or how anything is measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from sglang_nemotron.config.omni import OmniSpec
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions
from sglang_nemotron.prompt.tags import TagEncoder

Kind = Literal["image", "video", "sound"]
# the name among SGLang's options of a request under which ours, checked, travel to the processor
OPTIONS = "__nemotron_media"
# and that of a list, into which the processor puts the parcels that are to be dropped when the request ends
HELD = "__nemotron_held"


@dataclass(frozen=True, slots=True)
class Order:
    """One media item to measure. name: in errors, "image 2". budget: most patches of an image; unused for others."""

    kind: Kind
    name: str
    options: MediaOptions
    budget: int = 0


@dataclass(frozen=True, slots=True)
class Parcel:
    """One measured item, its tensor apart.

    feature: a tensor, or whatever stands for one while it travels: (C, H, W) pixels, (T, C, H, W) frames or (N, T, F)
    mel. identity: 32 bytes; equal for equal files under equal options alone. num_tokens: embeddings the item becomes,
    after pruning. headings, tokens_per_tubelet, pruning_rate: of a video. num_frames: valid mel frames of each clip.
    """

    kind: Kind
    identity: bytes
    feature: Any
    num_tokens: int
    headings: tuple[str, ...] = ()
    tokens_per_tubelet: int = 0
    pruning_rate: float = 0.0
    num_frames: tuple[int, ...] = ()

    def carrying(self, feature: Any) -> Parcel:
        return replace(self, feature=feature)


def drop(parcels: Iterable[Parcel]) -> None:
    """Gives back at once what features hold beyond this process. An error keeps its frames, and them, for long."""
    for parcel in parcels:
        release = getattr(parcel.feature, "release", None)
        if release is not None:
            release()


class Workshop(Protocol):
    """Whatever makes parcels of what a client sent for one item."""

    async def measure(self, order: Order, item: Any) -> list[Parcel]:
        """The item's parcel, and that of its sound if one is due. MediaError."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """What a server is, as far as media are concerned.

    options: the defaults of a request. context_length: what an image's budget is counted from. max_prompt: tokens of a
    whole prompt, media included.
    """

    spec: OmniSpec
    encoder: TagEncoder
    workshop: Workshop
    options: MediaOptions
    limits: MediaLimits
    context_length: int
    max_prompt: int
