"""The Omni class without a server: whose config it takes, what it pads, and which rows it makes of items."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest
import sglang.cli.serve  # noqa: F401 - SGLang's command imports first, or its platform meets ours half-imported
import torch
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.config.omni import omni_spec
from sglang_nemotron.encoders.project import num_retained
from sglang_nemotron.encoders.sound import num_sound_tokens
from sglang_nemotron.encoders.towers import Towers
from sglang_nemotron.models import nemotron_omni
from sglang_nemotron.models.nemotron_omni import NemotronH_Nano_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3

TOY = config_json(OMNI_PRESETS["toy"])
SPEC = omni_spec(TOY)
WIDTH = SPEC.decoder.hidden_size


@pytest.fixture(scope="module")
def model() -> Any:
    """The class with real towers and a look-up table in place of the decoder."""
    torch.manual_seed(0)
    made: Any = object.__new__(NemotronH_Nano_Omni_Reasoning_V3)
    torch.nn.Module.__init__(made)
    made.spec = SPEC
    made.towers = Towers(SPEC).eval().requires_grad_(False)
    made.language_model = torch.nn.Module()
    embed = torch.nn.Embedding(SPEC.decoder.vocab_size, WIDTH)
    made.language_model.get_input_embeddings = lambda: embed
    return made


def item(modality: Modality, feature: torch.Tensor, num_rows: int, start: int = 3, **data: Any) -> MultimodalDataItem:
    made = MultimodalDataItem(
        modality=modality, feature=feature, offsets=[(start, start + num_rows - 1)], model_specific_data=data
    )
    made.set_hash(hash((modality, num_rows, start)))
    return made


def image(rows: int, cols: int, seed: int = 0) -> MultimodalDataItem:
    pixels = torch.randn(3, 16 * rows, 16 * cols, generator=torch.Generator().manual_seed(seed))
    return item(Modality.IMAGE, pixels, rows * cols // 4)


SEPARATORS = [[7, 8, 9], [10, 11], [12]]


def video(rate: float, rows: int = 4, cols: int = 6) -> MultimodalDataItem:
    frames = torch.randn(4, 3, 16 * rows, 16 * cols, generator=torch.Generator().manual_seed(1))
    kept = num_retained(2, rows * cols // 4, rate)
    return item(Modality.VIDEO, frames, kept + 6, separators=SEPARATORS, num_kept=kept, pruning_rate=rate)


def sound(*frames: int) -> MultimodalDataItem:
    assert SPEC.sound is not None
    mel = torch.randn(len(frames), max(frames), SPEC.sound.num_mels, generator=torch.Generator().manual_seed(2))
    rows = sum(num_sound_tokens(SPEC.sound, count) for count in frames)
    return item(Modality.AUDIO, mel, rows, num_frames=list(frames))


# ---- rows of items


def test_images_of_different_sizes_together_and_alone(model: Any) -> None:
    items = [image(4, 6), image(2, 2, 1), image(8, 4, 2)]
    together = model.get_image_feature(items)
    assert [tuple(rows.shape) for rows in together] == [(6, WIDTH), (1, WIDTH), (8, WIDTH)]
    for rows, one in zip(together, items, strict=True):
        torch.testing.assert_close(rows, model.get_image_feature([one])[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
def test_a_video_run_holds_its_text_where_it_stands(model: Any, rate: float) -> None:
    clip = video(rate)
    (rows,) = model.get_video_feature([clip])
    assert rows.shape == (clip.num_kept + 6, WIDTH)
    texts = [model.get_input_embeddings()(torch.tensor(ids)) for ids in SEPARATORS]
    torch.testing.assert_close(rows[:3], texts[0], atol=0, rtol=0)
    torch.testing.assert_close(rows[-1:], texts[2], atol=0, rtol=0)
    # the first tubelet is always whole
    torch.testing.assert_close(rows[3 + 6 : 3 + 6 + 2], texts[1], atol=0, rtol=0)


def test_videos_of_different_sizes_and_rates_in_one_call(model: Any) -> None:
    items = [video(0.5), video(0.0, rows=2, cols=4)]
    for rows, one in zip(model.get_video_feature(items), items, strict=True):
        torch.testing.assert_close(rows, model.get_video_feature([one])[0], atol=2e-6, rtol=0)


def test_sounds_of_different_lengths_share_passes(model: Any) -> None:
    items = [sound(40, 17), sound(9), sound(33)]
    for rows, one in zip(model.get_audio_feature(items), items, strict=True):
        torch.testing.assert_close(rows, model.get_audio_feature([one])[0], atol=5e-6, rtol=0)


def test_a_count_that_differs_from_the_run_is_no_result(model: Any) -> None:
    wrong = image(4, 6)
    wrong.offsets = [(3, 9)]
    with pytest.raises(AssertionError):
        model.get_image_feature([wrong])


# ---- padding


def test_runs_become_their_content(model: Any) -> None:
    first, second = image(4, 6), video(0.0)
    first.offsets, second.offsets = [(2, 4)], [(6, 6)]
    prompt = array("q", range(100, 110))
    padded = model.pad_input_ids(prompt, SimpleNamespace(mm_items=[first, second]))
    assert list(prompt) == list(range(100, 110))
    assert list(padded[2:5]) == first.padding_sequence(3)
    assert padded[6] == second.padding_sequence(1)[0]
    assert [padded[i] for i in (0, 1, 5, 7, 8, 9)] == [100, 101, 105, 107, 108, 109]
    assert min(padded[2], padded[6]) >= SPEC.decoder.vocab_size


def test_a_prompt_cut_inside_a_run(model: Any) -> None:
    one = image(4, 6)
    one.offsets = [(2, 7)]
    padded = model.pad_input_ids(array("q", [1, 2, 3, 4]), SimpleNamespace(mm_items=[one]))
    assert list(padded) == [1, 2, *one.padding_sequence(2)]


# ---- other families


@pytest.mark.parametrize("cls", [NemotronH_Nano_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3])
def test_other_families_get_sglangs_class(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(nemotron_omni, "intree_model", lambda name: lambda **given: asked.append((name, given)) or "in")
    stranger = {**TOY, "llm_config": {**TOY["llm_config"], "moe_latent_size": 8}}
    assert cls(config=stranger, quant_config=None, prefix="x") == "in"
    ((name, given),) = asked
    assert name == cls.__name__
    assert given == {"config": stranger, "quant_config": None, "prefix": "x"}


def test_sglang_has_the_classes_for_other_families() -> None:
    from sglang_nemotron.sglang_api.intree import intree_model

    for cls in nemotron_omni.EntryClass:
        theirs = intree_model(cls.__name__)
        assert theirs.__name__ == cls.__name__ and theirs.__module__.startswith("sglang.srt.models.")


def test_quantised_names_follow_the_decoder() -> None:
    mapper = NemotronH_Nano_Omni_Reasoning_V3.hf_to_sglang_mapper
    assert mapper.apply_list(["language_model.backbone.layers.5.mixer.q_proj", "mlp1.1"]) == [
        "language_model.model.layers.5.mixer.q_proj",
        "mlp1.1",
    ]
