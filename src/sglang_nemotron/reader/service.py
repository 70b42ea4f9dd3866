"""What a server knows of media, handed to the processor by what plugs it in. Nothing here may know files or SGLang."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sglang_nemotron.config.omni import OmniSpec
from sglang_nemotron.media.features import MediaFeatures, ReadRequest
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions
from sglang_nemotron.prompt.tags import TagEncoder

# the name among SGLang's options of a request under which ours, checked, travel to the processor
OPTIONS = "__nemotron_media"
# and that of a list, into which the processor puts the features that are to be dropped when the request ends
HELD = "__nemotron_held"


class Reader(Protocol):
    """Whatever makes features of what a client sent for one item."""

    async def measure(self, request: ReadRequest, item: Any) -> list[MediaFeatures]:
        """The item's features, and those of its sound if one is due. MediaError."""
        ...


@dataclass(frozen=True, slots=True)
class MediaService:
    """What a server is, as far as media are concerned.

    options: the defaults of a request. context_length: what an image's budget is counted from. max_prompt: tokens of a
    whole prompt, media included.
    """

    spec: OmniSpec
    encoder: TagEncoder
    reader: Reader
    options: MediaOptions
    limits: MediaLimits
    context_length: int
    max_prompt: int
