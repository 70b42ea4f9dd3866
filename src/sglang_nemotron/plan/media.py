"""How many tokens the media of one request become: counts, sizes and seconds in, tokens out, by the media room's rules.

No file is read. What stands around media in a prompt is counted as far as it needs no tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_nemotron.config.omni import OmniSpec

# what cameras film at; sampling takes so many frames of it that the rate matters little
_FILMED_FPS = 30.0
# a start and an end around each run
_AROUND = 2


@dataclass(frozen=True, slots=True)
class Media:
    """Of one request. image_size, video_size: (width, height) in pixels. video_s, audio_s: seconds, 0 for none."""

    images: int = 0
    image_size: tuple[int, int] = (1920, 1080)
    video_s: float = 0
    video_size: tuple[int, int] = (1920, 1080)
    audio_s: float = 0

    def __bool__(self) -> bool:
        return bool(self.images or self.video_s or self.audio_s)


def tokens_of(media: Media, spec: OmniSpec | None, context: int) -> dict[str, int]:
    """Tokens by kind, of all items of the request together; ValueError of two lines for what this model cannot see.

    A video's text between its frames is not counted: it needs the tokenizer.
    """
    if not media:
        return {}
    if spec is None:
        raise ValueError(
            "media were given, and this is a text model\n  remedy: plan for an Omni checkpoint, or leave out --images, "
            "--video and --audio"
        )
    found = {}
    if media.images:
        found["images"] = media.images * _image(media.image_size, spec, context)
    if media.video_s:
        found["video"] = _video(media, spec)
    if media.audio_s:
        found["audio"] = _audio(media.audio_s, spec)
    return found


def _image(size: tuple[int, int], spec: OmniSpec, context: int) -> int:
    from sglang_nemotron.media.image.picture import image_budget, image_grid, image_tokens

    grid = image_grid(*size, image_budget(context, spec.image), spec.image)
    return image_tokens(grid, spec.image) + _AROUND


def _video(media: Media, spec: OmniSpec) -> int:
    from sglang_nemotron.media.video.sampling import num_kept, sample_indices, video_grid
    from sglang_nemotron.prompt.options import MediaOptions

    rule, options = spec.video, MediaOptions()
    filmed = max(int(media.video_s * _FILMED_FPS), 1)
    frames = len(sample_indices(filmed, _FILMED_FPS, fps=options.fps, max_frames=options.max_frames))
    tubelets = -(-frames // rule.temporal_patch_size)
    rows, columns = video_grid(*media.video_size, rule)
    return num_kept(tubelets, rows * columns // rule.merge_size**2, rule.pruning_rate) + _AROUND * tubelets


def _audio(seconds: float, spec: OmniSpec) -> int:
    from sglang_nemotron.media.audio.mel import sound_tokens

    if spec.audio is None:
        raise ValueError("audio was given, and this checkpoint has no sound encoder\n  remedy: leave out --audio")
    return sound_tokens(round(seconds * spec.audio.sample_rate), spec.audio) + _AROUND
