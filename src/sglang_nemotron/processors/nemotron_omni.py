"""Nemotron 3 Nano Omni's media: a prompt and what came with it go in; ids, runs and measured items go out.

Load, measure, splice, package. The work is done by the reader that `host/http/media.py` hands in; nothing here blocks
the event loop, and every fault of a request is a ValueError. Imported by SGLang, which looks for classes by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sglang_nemotron.config.omni import is_nano_omni
from sglang_nemotron.media.features import Kind, MediaFeatures, ReadRequest, VideoClip, drop
from sglang_nemotron.media.image.picture import image_budget
from sglang_nemotron.models.nemotron_omni import NemotronH_Nano_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaOptions
from sglang_nemotron.prompt.splice import (
    VIDEO_SLOT,
    Piece,
    between,
    check_counts,
    num_text,
    separators,
    splice,
    video_run,
)
from sglang_nemotron.reader.service import HELD, OPTIONS, MediaService
from sglang_nemotron.sglang_api.intree import intree_processor
from sglang_nemotron.sglang_api.media import (
    BaseMultimodalProcessor,
    Modality,
    MultimodalDataItem,
    MultimodalProcessorOutput,
)

# how errors call the items
_NOUNS: dict[Kind, str] = {"image": "image", "video": "video", "sound": "audio"}


class NemotronOmniProcessor(BaseMultimodalProcessor):
    """SGLang's processor of our two classes; another family under either name gets SGLang's own."""

    models = [NemotronH_Nano_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3]
    # ids come from the chat template, and text is never decoded and read again
    prefer_tokenized_input = True
    generates_input_ids_from_raw_prompt = True
    preserve_processor_input_ids = True
    gpu_image_decode = False
    supports_mm_processor_concurrency = False
    auto_mm_processor_worker_num = 1
    auto_mm_io_worker_num = 1

    # handed in by `host/http/media.py`, which knows the class by this name
    nemotron_service: MediaService | None = None

    def __new__(cls, hf_config: Any, *args: Any, **kwargs: Any) -> Any:
        if is_nano_omni(hf_config) is None:
            return super().__new__(cls)
        return intree_processor()(hf_config, *args, **kwargs)

    async def process_mm_data_async(  # type: ignore[override]
        self,
        image_data: Sequence[Any] | None = None,
        audio_data: Sequence[Any] | None = None,
        input_text: str | Sequence[int] = "",
        request_obj: Any = None,
        max_req_input_len: int | None = None,
        **_: Any,
    ) -> MultimodalProcessorOutput:
        """SGLang's one entry point. input_text: a raw prompt, or ids. Raises ValueError (a 400) for bad media."""
        service = self.nemotron_service
        if service is None:
            raise RuntimeError("the media processor was not set up: sglang-nemotron's media door is not open")
        given: dict[Kind, list[Any]] = {
            "image": list(image_data or ()),
            "video": list(getattr(request_obj, "video_data", None) or ()),
            "sound": list(audio_data or ()),
        }
        ids = self._ids(input_text, service)
        check_counts(ids, service.encoder.slots, {kind: len(items) for kind, items in given.items()})
        limit = service.max_prompt if max_req_input_len is None else min(service.max_prompt, max_req_input_len - 1)
        requests = _requests(given, _asked(request_obj, service), service)
        room = _Room(limit, num_text(ids, service.encoder.slots), [request for request, _ in requests], service)
        measured = await _all([_one(service, request, item, room) for request, item in requests])
        _held(request_obj).extend(features for of_one in measured for features in of_one)
        try:
            return _package(ids, measured, service, limit)
        except BaseException:
            drop(features for of_one in measured for features in of_one)
            raise

    def _ids(self, prompt: str | Sequence[int], service: MediaService) -> list[int]:
        if isinstance(prompt, str):
            specials = list(self._tokenizer.encode("")) if self._tokenizer_auto_adds_specials else []
            return specials + service.encoder.encode(prompt)
        ids = [int(token) for token in prompt]
        # a prompt of ids may say <video> by the id that the config gives it, if that is no token
        named = getattr(self.hf_config, "video_context_token_id", None)
        if isinstance(named, int) and named >= service.spec.decoder.vocab_size:
            ids = [VIDEO_SLOT if token == named else token for token in ids]
        return ids


def _asked(request: Any, service: MediaService) -> MediaOptions:
    folded = (getattr(request, "mm_processor_kwargs", None) or {}).get(OPTIONS)
    # written by `host/http/media.py` alone, which replaces what a client may have put there
    return MediaOptions(**folded) if isinstance(folded, dict) else service.options


def _held(request: Any) -> list[MediaFeatures]:
    """Where features wait for the end of their request; a list that nobody reads for a caller that has none."""
    held = (getattr(request, "mm_processor_kwargs", None) or {}).get(HELD)
    return held if isinstance(held, list) else []


def _requests(
    given: dict[Kind, list[Any]], options: MediaOptions, service: MediaService
) -> list[tuple[ReadRequest, Any]]:
    requests = []
    budget = image_budget(service.context_length, service.spec.image, options.max_image_tokens)
    for kind, items in given.items():
        for number, item in enumerate(items, 1):
            own = options
            if kind == "video":
                own = options.for_video(getattr(item, "preprocess_kwargs", None) or {}, service.limits)
            requests.append((ReadRequest(kind, f"{_NOUNS[kind]} {number}", own, budget), item))
    return requests


class _Room:
    """The tokens that are left of the context while items are measured, at the least that those to come will take."""

    def __init__(self, limit: int, num_text: int, requests: Sequence[ReadRequest], service: MediaService) -> None:
        self._limit = limit
        self._used = num_text
        # an image never has fewer tokens; two tags around each item
        least = -(-service.spec.image.min_patches // service.spec.image.merge_size**2) // 2
        self._least = {one.name: 2 + (least if one.kind == "image" else 1) for one in requests}
        self._check(f"{len(requests)} media items")

    def take(self, name: str, num_tokens: int) -> None:
        """Raises MediaError once the prompt cannot fit any more; the rest then need not be measured."""
        self._least.pop(name, None)
        self._used += num_tokens + 2
        self._check(name)

    def _check(self, name: str) -> None:
        needed = self._used + sum(self._least.values())
        if needed > self._limit:
            raise _too_long(name, needed, self._limit)


def _too_long(name: str, needed: int, limit: int) -> MediaError:
    return MediaError(
        name, f"the prompt needs {needed} tokens or more with its media", f"at most {limit} fit the context"
    )


async def _one(service: MediaService, request: ReadRequest, item: Any, room: _Room) -> list[MediaFeatures]:
    measured = await service.reader.measure(request, item)
    try:
        for features in measured:
            room.take(request.name, features.num_embeddings)
    except MediaError:
        drop(measured)
        raise
    return measured


async def _all(jobs: Sequence[Any]) -> list[list[MediaFeatures]]:
    """The results in order; the first failure ends the others, which then have nobody to wait for them."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, BaseException):
                drop(result)
        raise


def _package(
    ids: list[int], measured: list[list[MediaFeatures]], service: MediaService, limit: int
) -> MultimodalProcessorOutput:
    tokens, encoder = service.spec.tokens, service.encoder
    by_kind: dict[Kind, list[Any]] = {"image": [], "video": [], "sound": []}
    tracks: dict[int, Any] = {}
    for first, *others in measured:
        for track in others:
            tracks[len(by_kind["video"])] = track
        by_kind[first.kind].append(first)
    image_bounds = encoder.id_of(tokens.image_start), encoder.id_of(tokens.image_end)

    def sound_piece(features: MediaFeatures) -> Piece:
        assert tokens.sound_id is not None
        bounds = encoder.id_of(tokens.sound_start), encoder.id_of(tokens.sound_end)
        return between(features.num_embeddings, tokens.sound_id, *bounds)

    parts = [_separators(features, service, image_bounds) for features in by_kind["video"]]
    spliced = splice(
        ids,
        encoder.slots,
        {
            "image": [
                between(features.num_embeddings, tokens.image_id, *image_bounds) for features in by_kind["image"]
            ],
            "video": [
                video_run(part, features.tokens_per_tubelet, features.num_embeddings, tokens.image_id)
                for part, features in zip(parts, by_kind["video"], strict=True)
            ],
            "sound": [sound_piece(features) for features in by_kind["sound"]],
        },
        {video: sound_piece(features) for video, features in tracks.items()},
    )
    if len(spliced.ids) > limit:
        raise _too_long("the media", len(spliced.ids), limit)
    items = []
    for run in spliced.runs:
        offset = (run.start, run.end - 1)
        if run.modality == "image":
            items.append(_item(Modality.IMAGE, by_kind["image"][run.item], offset, {}))
        elif run.modality == "video":
            features = by_kind["video"][run.item]
            data = {
                "separators": parts[run.item],
                "num_kept": features.num_embeddings,
                "pruning_rate": features.pruning_rate,
            }
            items.append(_item(Modality.VIDEO, features, offset, data))
        else:
            features = tracks[run.item] if run.modality == "video sound" else by_kind["sound"][run.item]
            items.append(_item(Modality.AUDIO, features, offset, {"num_frames": list(features.num_frames_N)}))
    return MultimodalProcessorOutput(
        input_ids=spliced.ids,
        mm_items=items,
        im_token_id=tokens.image_id,
        im_start_id=image_bounds[0],
        im_end_id=image_bounds[1],
        video_token_id=tokens.image_id,
        audio_token_id=tokens.sound_id,
    )


def _separators(clip: VideoClip, service: MediaService, bounds: tuple[int, int]) -> list[list[int]]:
    headings = [
        service.encoder.plain(heading if number == 0 else "\n" + heading)
        for number, heading in enumerate(clip.headings)
    ]
    return separators(headings, *bounds)


def _item(modality: Any, features: MediaFeatures, offset: tuple[int, int], data: dict[str, Any]) -> Any:
    item = MultimodalDataItem(modality=modality, feature=features.feature, offsets=[offset], model_specific_data=data)
    item.set_identity(features.identity)
    return item
