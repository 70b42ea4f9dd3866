"""What SGLang's own Nemotron 3 Nano Omni gets wrong, one by one; ours must get each right.

If one of these begins to pass in-tree, a release has mended it and the row can be told to the readers of the ledger.
Four more that no test in this process can show are in docs/evidence-omni.md.
"""

from __future__ import annotations

import io
import itertools
import random
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sglang.srt.managers.schedule_batch import Modality
from transformers.models.nemotron_h_omni.image_processing_nemotron_h_omni import (
    NemotronH_Omni_Reasoning_V3ImageProcessor,
)
from transformers.models.nemotron_h_omni.video_processing_nemotron_h_omni import (
    NemotronH_Omni_Reasoning_V3VideoProcessor,
)

from sglang_nemotron.media.image.picture import image_budget, image_grid
from sglang_nemotron.media.video.sampling import video_grid
from support.intree_sides import Side, text, url
from support.published import SPEC

pytestmark = pytest.mark.intree
IMAGE_RULE, VIDEO_RULE = SPEC.image, SPEC.video
MEAN, STD = IMAGE_RULE.mean, IMAGE_RULE.std


def photo(width: int, height: int, shade: int = 0) -> dict[str, Any]:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 80, 160)).save(out, "PNG")
    return url(out.getvalue(), "image")


def speech(seconds: float, pitch: float = 200.0) -> dict[str, Any]:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, 0.3 * np.sin(np.arange(int(16_000 * seconds)) * pitch / 16_000), 16_000, format="WAV")
    return url(out.getvalue(), "audio")


def clip(width: int, height: int, num_frames: int = 8, rate: int = 2) -> dict[str, Any]:
    out, noise = io.BytesIO(), np.random.default_rng(width)
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(rate), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(num_frames):
            pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return url(out.getvalue(), "video")


def spans(output: Any, modality: Modality) -> list[tuple[int, int]]:
    """First and last position of each run of a modality, items in order."""
    return [span for item in output.mm_items if item.modality == modality for span in item.offsets or ()]


def outline(side: Side, output: Any) -> str:
    """The prompt as text, runs of media tokens as their length."""
    shown = []
    for token, group in itertools.groupby(output.input_ids):
        number = len(list(group))
        name = side.tokenizer.convert_ids_to_tokens(token) if token in (18, 27) else None
        shown.append(f"{name}*{number}" if name else side.decode([token] * number))
    return "".join(shown)


# ---- 3: sounds of different length in one prefill batch


def test_sounds_of_different_length_in_one_batch(in_tree: Side, ours: Side) -> None:
    lengths = (1.0, 2.5)
    assert all(in_tree.prefill(in_tree.ask(speech(seconds)))[0].isfinite().all() for seconds in lengths)
    batch = [in_tree.ask(speech(seconds)) for seconds in lengths]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match") as failed:
        in_tree.prefill(*batch)
    assert failed.traceback[-1].name == "get_audio_feature"
    _same_together(ours, [ours.ask(speech(seconds)) for seconds in lengths])


def _same_together(side: Side, asked: list[Any]) -> None:
    alone = [side.prefill(one)[0] for one in asked]
    for rows, expected in zip(side.prefill(*asked), alone, strict=True):
        assert rows.isfinite().all()
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)


# ---- 4: two sounds in one request


def test_two_sounds_in_one_request(in_tree: Side, ours: Side) -> None:
    parts = speech(1.0), speech(2.0, 300.0), text("compare")
    right = "<so_start><so_embedding>*13<so_end>\n<so_start><so_embedding>*25<so_end>\n"
    assert right in outline(ours, ours.ask(*parts))
    wrong = outline(in_tree, in_tree.ask(*parts))
    # the second stands where the first token of the first was, and nothing stands where it belongs
    assert "<so_start><so_start><so_embedding>*25<so_end><so_embedding>*12<so_end>\n<so_embedding>*1\n" in wrong


# ---- 5: several images, and typed tags


def test_images_of_two_turns(in_tree: Side, ours: Side) -> None:
    turns = (
        [photo(512, 512), text("first")],
        [text("seen")],
        [photo(640, 640, 200), text("second")],
    )
    for side, first, second in ((ours, 1, 1), (in_tree, 2, 0)):
        shown = outline(side, side.ask(*turns))
        before, after = shown.split("first")
        assert (before.count("<img><image>*"), after.count("<img><image>*")) == (first, second), shown
    # and the second's own place remains a token without an image
    assert "<image>*1\n" in after


def test_a_typed_tag_moves_an_image(in_tree: Side, ours: Side) -> None:
    parts = photo(512, 512), text("what does <image> mean?")
    assert "<img><image>*256</img>\nwhat does <image> mean?" in outline(ours, ours.ask(*parts))
    wrong = outline(in_tree, in_tree.ask(*parts))
    assert "what does <img><image>*256</img> mean?" in wrong


# ---- 6: EVS beside any other request


def test_evs_beside_another_request(in_tree: Side, ours: Side) -> None:
    others = [5, 6, 7, 8]
    assert in_tree.prefill(in_tree.ask(clip(64, 64)))[0].isfinite().all()
    for batch in (
        [others, in_tree.ask(clip(64, 64))],
        [in_tree.ask(clip(64, 64)), in_tree.ask(photo(512, 512))],
        [in_tree.ask(clip(64, 64)), in_tree.ask(clip(96, 64))],
    ):
        with pytest.raises(AssertionError) as failed:
            in_tree.prefill(*batch)
        assert failed.traceback[-1].name == "redistribute_pruned_frames_placeholders"
    asked = [ours.ask(clip(64, 64)), ours.ask(photo(512, 512)), ours.ask(clip(96, 64))]
    _same_together(ours, asked)
    plain, *_ = ours.prefill(others, *asked)
    torch.testing.assert_close(plain, ours.model.language_model.embed(torch.tensor(others)), atol=0, rtol=0)


# ---- 7: two videos of different aspect


def test_two_videos_of_different_aspect(in_tree: Side, ours: Side) -> None:
    same = in_tree.ask(clip(64, 64), clip(64, 64), text("watch"))
    assert len(spans(same, Modality.VIDEO)) == 8
    parts = clip(64, 64), clip(160, 64), text("watch")
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        in_tree.ask(*parts)
    output = ours.ask(*parts)
    assert len(spans(output, Modality.VIDEO)) == 2
    assert ours.prefill(output)[0].isfinite().all()


# ---- 8: grids


def test_image_grids() -> None:
    from sglang.srt.multimodal.internvl_utils import compute_budgeted_image_sizes

    context, pick = 262144, random.Random(0)
    reference = NemotronH_Omni_Reasoning_V3ImageProcessor(
        norm_mean=list(MEAN), norm_std=list(STD), max_model_len=context
    )
    budget = image_budget(context, IMAGE_RULE)
    sizes = [(1280, 720)] + [(pick.randint(1, 4096), pick.randint(1, 4096)) for _ in range(500)]
    different = []
    for width, height in sizes:
        empty = torch.empty(3, height, width, dtype=torch.uint8, device="meta")
        made = reference.preprocess([empty], input_data_format="channels_first", return_tensors=None)
        rows, columns = made["image_grid_hw"][0].tolist()
        assert image_grid(width, height, budget, IMAGE_RULE) == (rows, columns)
        ((their_width, their_height, tokens),) = compute_budgeted_image_sizes(
            [(width, height)], context, 16, 0.5, IMAGE_RULE.min_patches, IMAGE_RULE.max_patches
        )
        if (width, height) == (1280, 720):
            assert (tokens, rows * columns // 4) == (880, 920)
        different.append((their_height // 16, their_width // 16) != (rows, columns))
    # what docs/faults.md says
    assert round(100 * np.mean(different)) == 64, np.mean(different)


def test_video_grids() -> None:
    from sglang.srt.multimodal.internvl_utils import get_video_target_size_and_feature_size

    pick = random.Random(0)
    reference = NemotronH_Omni_Reasoning_V3VideoProcessor(norm_mean=list(MEAN), norm_std=list(STD))
    different = []
    for _ in range(2000):
        width, height = pick.randint(1, 4096), pick.randint(1, 4096)
        columns, rows = reference._compute_target_patches(height, width)
        assert video_grid(width, height, VIDEO_RULE) == (rows, columns)
        their_width, their_height, _ = get_video_target_size_and_feature_size(width, height, 1024, True, 16, 0.5)
        different.append((their_height // 16, their_width // 16) != (rows, columns))
    # what docs/faults.md says
    assert round(100 * np.mean(different)) == 43, np.mean(different)


# ---- 9: an image's budget where --context-length is unset


def test_images_that_fit_the_context_are_not_shrunk(in_tree: Side, ours: Side) -> None:
    parts = [photo(1600, 1600, shade) for shade in range(4)]
    assert in_tree.processor.max_model_len == 8192
    for side, full in ((in_tree, False), (ours, True)):
        alone = spans(side.ask(parts[0], text("see")), Modality.IMAGE)
        together = spans(side.ask(*parts, text("see")), Modality.IMAGE)
        lengths = {end - start + 1 for start, end in together}
        (whole,) = {end - start + 1 for start, end in alone}
        assert 4 * whole > 8192
        assert (lengths == {whole}) is full, (lengths, whole)


# ---- 10: what a request or a server may say about a video


def test_a_request_sets_frames_and_pruning(in_tree: Side, ours: Side) -> None:
    parts = clip(64, 64, num_frames=24, rate=4), text("watch")
    asked = {"mm_processor_kwargs": {"fps": 1, "max_frames": 4, "video_pruning_rate": 0.0}}

    def frames(side: Side, **body: Any) -> tuple[int, int]:
        output = side.ask(*parts, **body)
        (video,) = (item for item in output.mm_items if item.modality == Modality.VIDEO)
        return video.feature.shape[0], output.input_ids.count(18)

    # 6 s at 2 frames a second are 12 frames of 256 tokens each two, of which 0.3 are kept
    assert frames(in_tree) == frames(ours) == (12, int(6 * 256 * (1 - 0.7)))
    assert frames(ours, **asked) == (4, 2 * 256)
    assert frames(in_tree, **asked) == frames(in_tree)


def test_a_server_sets_frames(in_tree_of: Any, published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang's --mm-process-config changes nothing in-tree; ours has variables, see docs/media.md."""
    from sglang.srt.runtime_context import get_context

    from sglang_nemotron.reader.settings import worker_config

    part = clip(64, 64, num_frames=24, rate=4)
    wanted = {"video": {"fps": 1, "max_frames": 4}}
    with get_context().config_bag("mm").override(mm_process_config=wanted):
        side = in_tree_of()
    assert side.processor.video_config == wanted["video"]
    (video,) = side.ask(part, text("watch")).mm_items
    assert video.feature.shape[0] == 12
    told = {"SGLANG_NEMOTRON_VIDEO_FPS": "1", "SGLANG_NEMOTRON_VIDEO_MAX_FRAMES": "4"}
    options = worker_config(told, SPEC, pixels=torch.float32, stamp="s_").options
    assert (options.fps, options.max_frames) == (1.0, 4)
