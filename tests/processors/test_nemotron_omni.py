"""The processor: what it packages for the model, and that every refusal is a ValueError that leaves nothing behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import sglang.cli.serve  # noqa: F401
from sglang.srt.managers.schedule_batch import Modality
from sglang.srt.utils.common import VideoData
from transformers import PreTrainedTokenizerFast

from sglang_nemotron.checkpoint.tokenizer import build_tokenizer
from sglang_nemotron.media.features import MediaFeatures, Picture, ReadRequest, Sound, VideoClip
from sglang_nemotron.processors import nemotron_omni
from sglang_nemotron.processors.nemotron_omni import NemotronOmniProcessor
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions
from sglang_nemotron.prompt.splice import VIDEO_SLOT
from sglang_nemotron.prompt.tags import TagEncoder
from sglang_nemotron.reader.service import OPTIONS, MediaService
from support.published import SPEC as PUBLISHED

TOKENS = PUBLISHED.tokens
SPEC: Any = SimpleNamespace(
    tokens=TOKENS,
    image=SimpleNamespace(min_patches=8, max_patches=64, merge_size=2),
    decoder=SimpleNamespace(vocab_size=1400),
)


class Feature:
    """Stands for a tensor that lies outside the process."""

    def __init__(self) -> None:
        self.released = False

    def release(self) -> None:
        self.released = True


class Desk:
    """A reader that measures whatever it is given: an item is its number of tokens, or the error to raise."""

    def __init__(self) -> None:
        self.requests: list[ReadRequest] = []
        self.made: list[Feature] = []

    def _feature(self) -> Any:
        self.made.append(Feature())
        return self.made[-1]

    async def measure(self, request: ReadRequest, item: Any) -> list[MediaFeatures]:
        self.requests.append(request)
        item = int(item.url) if isinstance(item, VideoData) else item
        await asyncio.sleep(0)
        if isinstance(item, str):
            raise MediaError(request.name, item)
        identity = bytes([item % 256]) * 32
        if request.kind == "image":
            return [Picture(self._feature(), (1, 1), item, identity=identity)]
        if request.kind == "sound":
            return [Sound(self._feature(), (item * 8,), (item,), identity=identity)]
        clip = VideoClip(self._feature(), (1, 1), ("one: ", "two: "), 4, 0.5, item, identity=identity)
        if not request.options.audio_in_video:
            return [clip]
        return [clip, Sound(self._feature(), (24,), (3,), identity=identity[::-1])]


@pytest.fixture(scope="module")
def encoder() -> TagEncoder:
    return TagEncoder(PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(1400)), TOKENS)


@pytest.fixture
def processor(encoder: TagEncoder) -> Any:
    made: Any = object.__new__(NemotronOmniProcessor)
    made.hf_config = SimpleNamespace(video_context_token_id=131081)
    made._tokenizer_auto_adds_specials = False
    made.nemotron_service = MediaService(SPEC, encoder, Desk(), MediaOptions(), MediaLimits(), 200, 199)
    return made


def _run(processor: Any, prompt: Any, *, limit: int | None = None, **given: Any) -> Any:
    request = SimpleNamespace(
        video_data=given.get("videos"), mm_processor_kwargs={OPTIONS: given["options"]} if "options" in given else None
    )
    return asyncio.run(
        processor.process_mm_data_async(
            image_data=given.get("images"),
            audio_data=given.get("sounds"),
            input_text=prompt,
            request_obj=request,
            max_req_input_len=limit,
        )
    )


def test_every_item_lies_where_its_slot_was(processor: Any) -> None:
    out = _run(processor, [5, 27, 18, 6, VIDEO_SLOT, 18, 7], images=[2, 3], sounds=[4], videos=[6])
    assert [item.modality for item in out.mm_items] == [
        *(Modality.AUDIO, Modality.IMAGE, Modality.VIDEO, Modality.IMAGE),
    ]
    sound, first, video, second = out.mm_items
    ids = out.input_ids
    for item, token, number in ((sound, 27, 4), (first, 18, 2), (second, 18, 3)):
        ((start, end),) = item.offsets
        assert ids[start : end + 1] == [token] * number
        assert (ids[start - 1], ids[end + 1]) == ((28, 29) if token == 27 else (19, 20))
    assert sound.model_specific_data == {"num_frames": [32]}
    # the whole video is one run: its texts and what is kept of it
    ((start, end),) = video.offsets
    parts = video.model_specific_data["separators"]
    assert len(parts) == 3 and end + 1 - start == sum(map(len, parts)) + 6
    assert video.model_specific_data["num_kept"] == 6 and video.model_specific_data["pruning_rate"] == 0.5
    assert ids[0] == 5 and ids[start - 1] == 6 and ids[-1] == 7
    assert (out.im_token_id, out.video_token_id, out.audio_token_id) == (18, 18, 27)


def test_identities_are_the_files(processor: Any) -> None:
    out = _run(processor, [18, 18], images=[2, 3])
    first, second = out.mm_items
    assert first.identity == b"\2" * 32 and first.pad_value != second.pad_value
    again = _run(processor, [5, 18], images=[2]).mm_items[0]
    assert again.pad_values == first.pad_values


def test_a_videos_sound_follows_it(processor: Any) -> None:
    options = {"audio_in_video": True}
    out = _run(processor, [VIDEO_SLOT, 27], videos=[6], sounds=[5], options=options)
    video, track, sound = out.mm_items
    assert [item.modality for item in (video, track, sound)] == [Modality.VIDEO, Modality.AUDIO, Modality.AUDIO]
    assert track.offsets[0][0] == video.offsets[0][1] + 2
    assert (track.model_specific_data["num_frames"], sound.model_specific_data["num_frames"]) == ([24], [40])


def test_a_raw_prompt_says_its_slots_in_text(processor: Any) -> None:
    out = _run(processor, "a <video> b <image>", images=[2], videos=[6])
    assert [item.modality for item in out.mm_items] == [Modality.VIDEO, Modality.IMAGE]
    assert out.input_ids.count(18) == 8
    # and a prompt of ids by the id that the config gives a video
    assert len(_run(processor, [5, 131081], videos=[6]).mm_items) == 1


def test_options_of_one_video(processor: Any) -> None:
    _run(processor, [VIDEO_SLOT], videos=[VideoData(url="6", preprocess_kwargs={"fps": 1.0})])
    (request,) = processor.nemotron_service.reader.requests
    assert request.options.fps == 1.0 and request.name == "video 1"


@pytest.mark.parametrize(
    ("prompt", "given", "told"),
    [
        ([5], {"images": [2]}, "images: the prompt has 0 places for them, but 1 came"),
        ([18, 18], {"images": [2]}, "images: the prompt has 2 places"),
        ([27], {"videos": [2]}, "videos: the prompt has 0 places"),
        ([18, 18], {"images": [2, "is broken"]}, "image 2: is broken"),
        ([18, 18], {"images": [3, 196]}, "image 2: the prompt needs 20[0-9] tokens or more .*at most 199"),
        ([18] * 99, {"images": [2] * 99}, "99 media items: the prompt needs 297 tokens or more"),
        ([5] * 190 + [VIDEO_SLOT], {"videos": [6]}, "the prompt needs .*at most 199"),
    ],
)
def test_refusals_leave_nothing_behind(processor: Any, prompt: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _run(processor, prompt, **given)
    assert all(feature.released for feature in processor.nemotron_service.reader.made)


def test_the_schedulers_own_limit_counts_too(processor: Any) -> None:
    assert _run(processor, [18], images=[7], limit=10)
    with pytest.raises(ValueError, match="at most 8"):
        _run(processor, [18], images=[7], limit=9)


def test_a_server_without_the_door_says_so(processor: Any) -> None:
    processor.nemotron_service = None
    with pytest.raises(RuntimeError, match="media door is not open"):
        _run(processor, [18], images=[2])


def test_another_family_gets_sglangs_processor(monkeypatch: Any) -> None:
    made = []
    monkeypatch.setattr(nemotron_omni, "intree_processor", lambda: lambda *args: made.append(args) or "theirs")
    config = SimpleNamespace(model_type="somebody_elses")
    assert NemotronOmniProcessor(config, 1, 2, 3) == "theirs" and made == [(config, 1, 2, 3)]  # type: ignore[comparison-overlap]
