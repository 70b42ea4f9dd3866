"""Settings of a request and of a server: every name lands, every bad value is refused with its place and its range."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_nemotron.prompt.options import EVERY_FRAME_FPS, SETTINGS, MediaLimits, MediaOptions

DEFAULTS = MediaOptions()
LIMITS = MediaLimits(max_video_frames=256)


def asked(**request: Any) -> MediaOptions:
    return MediaOptions.from_request(request, DEFAULTS, LIMITS)


def test_defaults_are_in_trees() -> None:
    assert (DEFAULTS.fps, DEFAULTS.max_frames, DEFAULTS.pruning_rate) == (2.0, 128, None)
    assert (DEFAULTS.max_image_tokens, DEFAULTS.audio_in_video) == (None, False)
    assert asked() == DEFAULTS
    assert asked(model="m", messages=[], temperature=0.6, chat_template_kwargs={"enable_thinking": False}) == DEFAULTS


@pytest.mark.parametrize(
    ("request_body", "field", "value"),
    [
        # vLLM's forms, as NVIDIA's commands send them
        ({"media_io_kwargs": {"video": {"fps": 1, "num_frames": 200}}}, "fps", 1.0),
        ({"media_io_kwargs": {"video": {"fps": 1, "num_frames": 200}}}, "max_frames", 200),
        ({"media_io_kwargs": {"video": {"num_frames": -1}}}, "max_frames", 256),
        ({"media_io_kwargs": {"video": {"fps": -1}}}, "fps", EVERY_FRAME_FPS),
        ({"media_io_kwargs": {"video": None, "image": {}}}, "fps", 2.0),
        ({"mm_processor_kwargs": {"use_audio_in_video": True}}, "audio_in_video", True),
        ({"mm_processor_kwargs": {"video_pruning_rate": 0.5}}, "pruning_rate", 0.5),
        ({"mm_processor_kwargs": {"fps": 4.5, "videos_kwargs": {"fps": 4.5}}}, "fps", 4.5),
        ({"mm_processor_kwargs": {"videos_kwargs": {"max_frames": 7}}}, "max_frames", 7),
        ({"mm_processor_kwargs": {"images_kwargs": {"max_image_tokens": 512}}}, "max_image_tokens", 512),
        ({"video_pruning_rate": 0}, "pruning_rate", 0.0),
        # SGLang's
        ({"use_audio_in_video": True}, "audio_in_video", True),
        ({"video_config": {"max_frames": 12, "_question": "what?"}}, "max_frames", 12),
        ({"images_config": {"max_image_tokens": 300}}, "max_image_tokens", 300),
        # plain ones
        ({"video_fps": 0.5}, "fps", 0.5),
        ({"video_max_frames": 1}, "max_frames", 1),
        ({"max_image_tokens": 3328}, "max_image_tokens", 3328),
        ({"video_fps": None, "mm_processor_kwargs": None, "media_io_kwargs": None}, "fps", 2.0),
    ],
)
def test_every_form_lands(request_body: dict[str, Any], field: str, value: Any) -> None:
    made = getattr(MediaOptions.from_request(request_body, DEFAULTS, LIMITS), field)
    assert made == value and type(made) is type(value)


def test_what_is_not_asked_for_stays_the_servers() -> None:
    server = MediaOptions(fps=1.0, max_frames=64, pruning_rate=0.3, max_image_tokens=400, audio_in_video=True)
    made = MediaOptions.from_request({"video_fps": 3, "use_audio_in_video": False}, server, LIMITS)
    assert made == MediaOptions(fps=3.0, max_frames=64, pruning_rate=0.3, max_image_tokens=400, audio_in_video=False)


@pytest.mark.parametrize(
    ("request_body", "says"),
    [
        ({"video_fps": 0}, r"video_fps is 0; give a number above 0 and up to 1000"),
        ({"video_fps": float("nan")}, "video_fps is nan"),
        ({"video_fps": float("inf")}, "video_fps is inf"),
        ({"video_fps": True}, "video_fps is True"),
        ({"video_fps": "2"}, "video_fps is '2'"),
        ({"video_fps": 1001}, "1001.*up to 1000"),
        ({"video_max_frames": 257}, "video_max_frames is 257; give a whole number from 1 to 256"),
        ({"video_max_frames": 0}, "is 0; give a whole number from 1 to 256"),
        ({"video_max_frames": 1.5}, "is 1.5; give a whole number"),
        ({"video_max_frames": -2}, "is -2"),
        ({"video_pruning_rate": 1}, "is 1; give a number of at least 0 .off. and below 1"),
        ({"video_pruning_rate": -0.1}, "-0.1"),
        ({"max_image_tokens": 255}, "is 255; give a whole number from 256 to 3328"),
        ({"max_image_tokens": 3329}, "3329.*3328"),
        ({"use_audio_in_video": 1}, "use_audio_in_video is 1; give true or false"),
        ({"use_audio_in_video": "yes"}, "'yes'; give true or false"),
        ({"media_io_kwargs": {"video": {"num_frames": 9999}}}, r"media_io_kwargs\.video\.num_frames is 9999; .* 256"),
        (
            {"media_io_kwargs": {"video": {"frames": 9}}},
            r"media_io_kwargs\.video\.frames is not known; known here: fps",
        ),
        ({"media_io_kwargs": {"vidio": {}}}, r"media_io_kwargs\.vidio is not known; known here: audio, image, video"),
        ({"media_io_kwargs": {"image": {"fps": 2}}}, r"media_io_kwargs\.image\.fps is not known"),
        ({"media_io_kwargs": [1]}, r"media_io_kwargs is \[1\]; give an object"),
        ({"media_io_kwargs": {"video": 2}}, r"media_io_kwargs\.video is 2; give an object"),
        ({"mm_processor_kwargs": {"videos_kwargs": {"size": 2}}}, r"videos_kwargs\.size is not known"),
        ({"mm_processor_kwargs": {"max_num_tiles": 12}}, r"mm_processor_kwargs\.max_num_tiles is not known"),
        ({"images_config": {"fps": 2}}, r"images_config\.fps is not known; known here: max_image_tokens"),
        ({"video_config": {"fps": "x" * 5000}}, r"video_config\.fps is 'x{60,80}\.\.\.; give"),
    ],
)
def test_bad_requests_are_refused_by_place_value_and_range(request_body: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MediaOptions.from_request(request_body, DEFAULTS, LIMITS)


def test_two_places_may_agree_and_may_not_disagree() -> None:
    assert asked(video_fps=4, media_io_kwargs={"video": {"fps": 4.0}}).fps == 4.0
    with pytest.raises(ValueError, match=r"media_io_kwargs.video.fps is 3.0, but video_fps is 4.0"):
        asked(video_fps=4, media_io_kwargs={"video": {"fps": 3}})


def test_one_videos_own_settings_go_first() -> None:
    request = MediaOptions(fps=1.0, max_frames=64, pruning_rate=0.5)
    part = {"url": "data:video/mp4;base64,", "fps": 4.0, "max_frames": 8, "max_long_side_pixel": None}
    assert request.for_video(part, LIMITS) == MediaOptions(fps=4.0, max_frames=8, pruning_rate=0.5)
    assert request.for_video({"url": "x"}, LIMITS) == request
    with pytest.raises(ValueError, match=r"video_url.max_frames is 257; .* 256"):
        request.for_video({"max_frames": 257}, LIMITS)
    with pytest.raises(ValueError, match=r"video_url.max_tokens_per_frame is 64.*video_pruning_rate"):
        request.for_video({"max_tokens_per_frame": 64}, LIMITS)


def test_a_servers_defaults() -> None:
    made = MediaOptions.from_environment(
        {
            "SGLANG_NEMOTRON_VIDEO_FPS": "1",
            "SGLANG_NEMOTRON_VIDEO_MAX_FRAMES": " 256 ",
            "SGLANG_NEMOTRON_VIDEO_PRUNING_RATE": "0.5",
            "SGLANG_NEMOTRON_IMAGE_MAX_TOKENS": "1024",
            "SGLANG_NEMOTRON_AUDIO_IN_VIDEO": "1",
            "SGLANG_NEMOTRON_SOMETHING_ELSE": "x",
        },
        LIMITS,
    )
    assert made == MediaOptions(1.0, 256, 0.5, 1024, True)
    assert MediaOptions.from_environment({"SGLANG_NEMOTRON_VIDEO_FPS": " "}, LIMITS) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VIDEO_FPS", "fast", "'fast'; give a number"),
        ("VIDEO_FPS", "0", "up to 1000"),
        ("VIDEO_MAX_FRAMES", "1e3", "'1e3'; give a whole number"),
        ("VIDEO_MAX_FRAMES", "300", "from 1 to 256"),
        ("VIDEO_PRUNING_RATE", "nan", "below 1"),
        ("IMAGE_MAX_TOKENS", "1", "from 256 to 3328"),
        ("AUDIO_IN_VIDEO", "true", "give 0 or 1"),
    ],
)
def test_bad_servers_defaults_name_the_variable(name: str, value: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"SGLANG_NEMOTRON_{name} is .*{says}"):
        MediaOptions.from_environment({f"SGLANG_NEMOTRON_{name}": value}, LIMITS)


def test_limits_from_the_environment() -> None:
    made = MediaLimits.from_environment(
        {"SGLANG_NEMOTRON_MAX_VIDEO_FRAMES": "1024", "SGLANG_NEMOTRON_MAX_VIDEO_SECONDS": "120.5"}
    )
    assert made == MediaLimits(max_video_frames=1024, max_video_seconds=120.5)
    assert MediaLimits.from_environment({}) == MediaLimits()
    for name, value, says in [
        ("MAX_VIDEO_FRAMES", "0", "above 0"),
        ("MAX_VIDEO_SECONDS", "inf", "above 0"),
        ("MAX_VIDEO_BYTES", "1GB", "whole number"),
        ("MIN_IMAGE_TOKENS", "4000", "above SGLANG_NEMOTRON_MAX_IMAGE_TOKENS"),
    ]:
        with pytest.raises(ValueError, match=f"SGLANG_NEMOTRON_{name} is .*{says}"):
            MediaLimits.from_environment({f"SGLANG_NEMOTRON_{name}": value})


def test_every_setting_has_a_name_for_requests_and_one_for_servers() -> None:
    assert set(SETTINGS) == set(MediaOptions.__slots__)
    assert all(SETTINGS.values())
