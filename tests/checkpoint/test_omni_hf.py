"""transformers computes something worth comparing with Omni checkpoints: media as large as words, none drowned out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.parity import reference_media as media
from sglang_nemotron.parity.reference_omni import OmniReference


@pytest.fixture(scope="module", params=["tiny", "small"])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OmniReference:
    out = tmp_path_factory.mktemp("omni") / "checkpoint"
    # the language model is another file's business: a short one
    write_checkpoint(replace(OMNI_PRESETS[request.param], hybrid_override_pattern="M*E", vocab_size=2048), out)
    return OmniReference(out)


def picture(seed: int) -> media.Image:
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 255
    rgb = torch.nn.functional.interpolate(coarse, (240, 320), mode="bicubic").clamp(0, 255)
    return media.image(rgb[0].permute(1, 2, 0).to(torch.uint8), min_patches=256)


def voice(seed: int) -> media.Sound:
    generator = torch.Generator().manual_seed(seed)
    seconds = torch.arange(16000 * 3) / 16000
    notes = [220 * 2 ** (int(step) / 12) for step in torch.randint(0, 24, (6,), generator=generator)]
    tune = torch.cat(
        [torch.sin(2 * torch.pi * hertz * part) for hertz, part in zip(notes, seconds.chunk(6), strict=True)]
    )
    return media.sound(0.2 * tune + 0.01 * torch.randn(len(tune), generator=generator))


def clip(seed: int) -> media.Video:
    still = torch.randint(0, 256, (180, 320, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    frames = torch.stack([still] * 4)
    frames[2:, 60:120, 100:200] = 255 - frames[2:, 60:120, 100:200]
    return media.video(frames, [0, 1, 2, 3], source_fps=2.0, target_patches=256, pruning_rate=0.3)


@pytest.mark.parametrize("make", [picture, voice, clip])
def test_media_are_as_large_as_words_and_differ(reference: OmniReference, make: Any):
    words = reference.model.get_input_embeddings().weight
    first, second = (torch.cat(reference.embed(make(seed))) for seed in (0, 1))
    assert torch.isfinite(first).all()
    assert 0.4 < first.std() / words.std() < 2.5
    # tokens of one item differ from each other, and so do two items
    assert first.std(dim=0).mean() > 0.2 * words.std()
    assert (first - second).pow(2).mean().sqrt() > 0.2 * words.std()


def test_what_moves_is_what_pruning_keeps(reference: OmniReference):
    video = clip(0)
    kept = reference.retention(video).view(2, -1)
    assert kept[0].all() and 0 < kept[1].sum() < kept.shape[1]
    first, second = reference.embed(video)
    change = 1 - torch.nn.functional.cosine_similarity(first, second, dim=-1)
    assert change[kept[1]].min() >= change[~kept[1]].max()
    # far from the last bit: the choice does not hang on rounding
    assert change[kept[1]].max() > 1e-2


def test_layers_neither_vanish_nor_explode(reference: OmniReference):
    outputs: dict[str, float] = {}

    def keep(name: str):
        def hook(module: Any, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            outputs[name] = hidden.std().item()

        return hook

    model = reference.model
    hooks = [
        layer.register_forward_hook(keep(f"vision {i}")) for i, layer in enumerate(model.vision_model.encoder.layer)
    ]
    hooks += [layer.register_forward_hook(keep(f"sound {i}")) for i, layer in enumerate(model.audio_tower.layers)]
    reference.embed(picture(5))
    reference.embed(voice(5))
    for hook in hooks:
        hook.remove()
    assert len(outputs) == len(hooks) and all(0.5 < value < 5 for value in outputs.values()), outputs


def test_every_medium_moves_the_answer(reference: OmniReference):
    def last(*items: Any) -> torch.Tensor:
        kinds = {media.Image: "image", media.Video: "video", media.Sound: "audio"}
        content = [{"type": kinds[type(item)]} for item in items] + [{"type": "text", "text": "what is it"}]
        return reference.score([{"role": "user", "content": content}], items).scores.logprobs[-6:]

    for make in (picture, voice, clip):
        assert (last(make(0)) - last(make(1))).abs().max() > 1e-2, make.__name__
