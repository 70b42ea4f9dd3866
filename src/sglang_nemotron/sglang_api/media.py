"""SGLang names for media in the processes that answer HTTP; importing them costs what SGLang's own processors cost."""

from __future__ import annotations

from sglang.srt.managers.mm_utils import ShmPointerMMData
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalProcessorOutput
from sglang.srt.multimodal.processors.base_processor import BaseMultimodalProcessor
from sglang.srt.runtime_context import get_mm
from sglang.srt.utils.common import ImageData, VideoData

__all__ = [
    "BaseMultimodalProcessor",
    "ImageData",
    "Modality",
    "MultimodalDataItem",
    "MultimodalProcessorOutput",
    "ShmPointerMMData",
    "VideoData",
    "get_mm",
]
