"""The Omni reference is transformers as it should be: its own numbers, in prompts that its forward cannot take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.tower_spec import TOWERS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.parity import reference_media as media
from sglang_nemotron.parity.reference_omni import OmniReference, in_text_order, load_omni

# few patches, so that the whole room stays quick; every rule is still at work
TARGET = 64
SPEC = replace(
    OMNI_PRESETS["toy"],
    hybrid_override_pattern="M*E",
    towers=replace(
        TOWERS["toy"], min_num_patches=TARGET, video_target_num_patches=TARGET, max_resolution=512, template="in-order"
    ),
)


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("omni")
        write_checkpoint(replace(SPEC, **changes), folder)
        return folder

    return write


@pytest.fixture(scope="module")
def golden(omni: Callable[..., Path]) -> OmniReference:
    return OmniReference(omni())


def picture(height: int, width: int, seed: int) -> media.Image:
    noise = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))
    rgb = torch.nn.functional.interpolate(noise[None], (height, width), mode="bicubic")[0].clamp(0, 1) * 255
    return media.image(rgb.permute(1, 2, 0).to(torch.uint8), min_patches=TARGET)


def clip(num_frames: int, rate: float) -> media.Video:
    frames = torch.zeros(num_frames, 90, 160, 3, dtype=torch.uint8)
    for index in range(num_frames):
        frames[index, 20:60, 10 * index : 10 * index + 40] = torch.tensor([200, 80, 20], dtype=torch.uint8)
    numbers = [12 * index for index in range(num_frames)]
    return media.video(frames, numbers, source_fps=24.0, pruning_rate=rate, target_patches=TARGET)


def tone(num_samples: int, hertz: float = 440.0) -> media.Sound:
    seconds = torch.arange(num_samples) / 16000
    swell = 0.2 + 0.1 * torch.sin(2 * torch.pi * 3 * seconds)
    noise = 0.02 * torch.randn(num_samples, generator=torch.Generator().manual_seed(1))
    return media.sound(torch.sin(2 * torch.pi * hertz * seconds) * swell + noise)


PICTURE, OTHER = picture(120, 200, 0), picture(100, 60, 1)
CLIP, PRUNED = clip(5, 0.0), clip(5, 0.6)
TONE = tone(16000 * 5 + 250)


def parts(*kinds: str) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": kind} if " " in kind else {"type": kind} for kind in kinds]
    return [{"role": "user", "content": content}]


def own_forward(golden: OmniReference, ids: list[int], **inputs: Any) -> torch.Tensor:
    """Logprobs [T-1] from transformers' own forward."""
    with torch.no_grad():
        logits_TV = golden.model(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0, :-1]
    return logits_TV.double().log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def assert_equal(golden: OmniReference, items: list[media.Item], messages: list[Any], **inputs: Any) -> None:
    ids = golden.prompt_ids(golden.render(messages), items)
    found = golden.scores(ids, items)
    assert list(found.ids) == ids
    assert (found.scores.logprobs - own_forward(golden, ids, **inputs)).abs().max() <= 1e-5


def test_text_is_that_of_its_forward(golden: OmniReference):
    assert_equal(golden, [], [{"role": "user", "content": "hello there"}])


def test_pictures_are_those_of_its_forward(golden: OmniReference):
    patches = torch.cat([PICTURE.patches_PD, OTHER.patches_PD])
    grids = torch.tensor([PICTURE.grid_HW, OTHER.grid_HW])
    assert PICTURE.num_tokens != OTHER.num_tokens
    messages = parts("image", "see this ", "image", "what is it")
    assert_equal(golden, [PICTURE, OTHER], messages, pixel_values=patches, image_grid_hw=grids)


def test_a_video_is_that_of_its_forward_with_features_handed_in(golden: OmniReference):
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    # its forward prunes by the config's rate, and fails at it
    assert golden.model.video_pruning_rate > 0
    golden.model.video_pruning_rate = 0.0
    with torch.no_grad():
        features = golden.model.get_video_features(CLIP.frames_TCHW).pooler_output
    outputs: Any = {"video": BaseModelOutputWithPooling(pooler_output=list(features))}
    try:
        assert_equal(golden, [CLIP], parts("video", "what happens here"), mm_encoder_outputs=outputs)
    finally:
        golden.model.video_pruning_rate = 0.7


def test_a_sound_is_that_of_its_forward(golden: OmniReference):
    # where a frame more makes no token more, transformers counts as the engines do
    mask = torch.ones(1, TONE.num_frames_N[0], dtype=torch.bool)
    inputs = {"input_features": TONE.mel_NMF, "input_features_mask": mask}
    assert_equal(golden, [TONE], parts("audio", "what is said"), **inputs)


def test_sounds_are_cut_after_thirty_seconds(golden: OmniReference):
    sound = tone(16000 * 30 + 800)
    # the second clip is half of the shortest one allowed
    assert sound.num_frames_N == (3000, 10) and sound.tokens_N == (375, 2)
    first, second = golden.embed(sound)
    assert len(first) == 375 and len(second) == 2
    # padding to the longer clip changes nothing
    alone = media.Sound(sound.mel_NMF[1:, :10].contiguous(), (10,))
    assert (golden.embed(alone)[0] - second).abs().max() <= 1e-5


def test_pruning_keeps_the_first_tubelet_and_what_changes(golden: OmniReference):
    assert PRUNED.headings[:2] == (
        "Frame 1 sampled at 0.00 seconds and frame 2 sampled at 0.49 seconds: ",
        "Frame 3 sampled at 0.98 seconds and frame 4 sampled at 1.48 seconds: ",
    )
    assert PRUNED.headings[2] == "Frame 5 sampled at 1.97 seconds: "
    per_tubelet = PRUNED.tokens_per_tubelet
    kept = golden.retention(PRUNED)
    assert kept.shape == (3 * per_tubelet,) and kept.sum() == max(per_tubelet, int(3 * per_tubelet * 0.4))
    assert kept[:per_tubelet].all() and kept[per_tubelet:].any()
    messages = parts("video", "what happens here")
    ids = golden.prompt_ids(golden.render(messages), [PRUNED])
    found = golden.scores(ids, [PRUNED])
    assert len(found.ids) == len(ids) - int((~kept).sum()) == len(found.scores.logprobs) + 1
    assert [i for i in found.ids if i != 18] == [i for i in ids if i != 18]
    # the same embeddings as without pruning, fewer of them
    embeddings = golden.model.get_input_embeddings()(torch.tensor(ids))
    whole = golden.embed(CLIP)
    with torch.no_grad():
        embeddings[torch.tensor(ids) == 18] = torch.cat(whole)
        left = torch.ones(len(ids), dtype=torch.bool)
        left[torch.tensor(ids) == 18] = kept
        logits = golden.model.language_model(inputs_embeds=embeddings[left][None], use_cache=False).logits[0, :-1]
    expected = logits.double().log_softmax(-1).gather(-1, torch.tensor(found.ids)[1:, None])[:, 0]
    assert (found.scores.logprobs - expected).abs().max() <= 1e-5


def test_all_kinds_in_one_prompt_go_where_their_slots_are(golden: OmniReference):
    messages = parts("audio", "first ", "image", "then ", "video", "at last ", "image", "the end")
    items: list[media.Item] = [PICTURE, CLIP, TONE, OTHER]
    text = golden.render(messages)
    assert in_text_order(text, items) == [TONE, PICTURE, CLIP, OTHER]
    found = golden.score(messages, items, answer=[1100, 1101])
    assert found.ids[-2:] == (1100, 1101)
    counts = {token: found.ids.count(token) for token in (18, 27)}
    assert counts == {
        18: PICTURE.num_tokens + OTHER.num_tokens + 3 * CLIP.tokens_per_tubelet,
        27: sum(TONE.tokens_N),
    }
    # the planted fault: another picture in the first place must show at the end
    other = golden.score(messages, [picture(120, 200, 7), CLIP, TONE, OTHER], answer=[1100, 1101])
    assert len(other.ids) == len(found.ids)
    assert (other.scores.logprobs[-8:] - found.scores.logprobs[-8:]).abs().max() > 1e-2


def test_counts_must_agree(golden: OmniReference):
    text = golden.render(parts("image", "what is it"))
    with pytest.raises(ValueError, match="no slot for some items"):
        golden.prompt_ids(text, [PICTURE, OTHER])
    with pytest.raises(ValueError, match="more <image> slots"):
        golden.prompt_ids(text, [])
    ids = golden.prompt_ids(text, [PICTURE])
    with pytest.raises(ValueError, match="stand for"):
        golden.scores(ids, [OTHER])


def test_the_loader_is_transformers_own_where_that_works(omni: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import NemotronH_Omni_Reasoning_V3

    # a test before this one may have imported SGLang, with which our config class takes this name
    monkeypatch.delitem(CONFIG_MAPPING._extra_content, "nemotron_h", raising=False)
    folder = omni(spelling="transformers")
    theirs, info = NemotronH_Omni_Reasoning_V3.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    published = load_omni(omni()).state_dict()
    for model in (theirs, load_omni(folder)):
        state = model.state_dict()
        assert state.keys() == published.keys()
        assert all(torch.equal(state[name], published[name]) for name in published)


@pytest.mark.parametrize("quantization", ["fp8", "mixed"])
def test_quantised_checkpoints_have_the_same_towers(
    omni: Callable[..., Path], golden: OmniReference, quantization: str
):
    found = OmniReference(omni(quantization=quantization))
    assert torch.equal(torch.cat(found.embed(PICTURE)), torch.cat(golden.embed(PICTURE)))
    messages = parts("image", "what is it")
    ours, plain = (reference.score(messages, [PICTURE]).scores.logprobs for reference in (found, golden))
    assert torch.isfinite(ours).all() and (ours - plain).abs().max() > 1e-2


def test_a_missing_tensor_is_an_error(omni: Callable[..., Path]):
    folder = omni()
    tensors = load_file(folder / "model.safetensors")
    del tensors["mlp1.1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="cannot use .* whole"):
        load_omni(folder)


def test_another_model_is_refused(omni: Callable[..., Path]):
    folder = omni()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="model_type is 'llama'"):
        load_omni(folder)
