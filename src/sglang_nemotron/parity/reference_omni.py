"""The golden Omni model: transformers' NemotronH_Omni_Reasoning_V3 on a checkpoint of any number format.

A rendered prompt and its media come in, logprobs in float32 go out. Its own `forward` fails for videos and for pictures
beside videos (5.19 to 5.23), so embeddings are laid into the prompt here; every number is made by transformers.
Must never know SGLang, nor our own preprocessing, splice or encoders.

Shape suffixes: T tokens, V vocabulary, D width of the language model, K the most likely tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.config.omni import is_nano_omni
from sglang_nemotron.parity.reference import Scores, check_whole, dequantised_tensors, read_config, settle
from sglang_nemotron.parity.reference_media import Image, Item, Sound, Video

# of each position, the most likely tokens whose logprobs are kept
NUM_TOP = 5

_SLOT = re.compile("<image>|<video>|<so_embedding>")
_KINDS: dict[str, type] = {"<image>": Image, "<video>": Video, "<so_embedding>": Sound}

# what a checkpoint as published has and transformers has no use for, and the other way round
_UNUSED = re.compile(r"(^|\.)(feature_extractor\.featurizer\.(fb|window)|input_conditioner\.norm_(mean|std))$")
_IMPLIED = re.compile(r"\.(layer_scale[12]\.lambda1|summary_idxs)$")


@dataclass(frozen=True, eq=False)
class OmniScores:
    """Scores of a prompt as the language model sees it: media expanded, pruned tokens of videos gone.

    ids: the tokens that remain, a media token per embedding. scores: entry i is about ids[i + 1].
    top_logprobs_TK: of the NUM_TOP most likely tokens there, the likeliest first.
    """

    ids: tuple[int, ...]
    scores: Scores
    top_logprobs_TK: torch.Tensor


class OmniReference:
    """A loaded reference model and its tokenizer. `dtype` is the one it computes in."""

    def __init__(self, model_dir: Path, dtype: torch.dtype = torch.float32) -> None:
        from transformers import PreTrainedTokenizerFast

        self.model = load_omni(model_dir, dtype)
        self.tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(model_dir)
        self.dtype = dtype
        self._embeddings: dict[Item, list[torch.Tensor]] = {}

    def render(self, messages: Sequence[Any], **options: Any) -> str:
        """The chat template's text, media as slots."""
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, **{"add_generation_prompt": True, **options}
        )

    def prompt_ids(self, text: str, items: Sequence[Item]) -> list[int]:
        """Token ids of a rendered prompt whose slots are replaced by runs, as transformers' processor does it.

        The k-th slot of a kind takes the k-th item of that kind. Videos are not yet pruned. ValueError if the counts
        of slots and items differ, as they do for a text that has a slot typed into it.
        """
        return self.tokenizer(self._expanded(text, items), add_special_tokens=False).input_ids

    @torch.no_grad()
    def scores(self, ids: Sequence[int], items: Sequence[Item]) -> OmniScores:
        """Scores of a whole sequence (from `prompt_ids`, and more tokens after it if wanted), in one forward.

        Args:
            ids: with one media token per embedding before pruning.
            items: in the order in which their runs stand in `ids`.
        """
        embeddings_TD, kept_T = self._embedded(torch.tensor(ids), items)
        left = torch.tensor(ids)[kept_T]
        logits_TV = self.model.language_model(inputs_embeds=embeddings_TD[kept_T][None, :-1], use_cache=False).logits[0]
        # the log-softmax must add no error of its own
        logits_TV = logits_TV.double()
        logprobs_TV = logits_TV.log_softmax(-1)
        top = logprobs_TV.topk(NUM_TOP, dim=-1)
        scores = Scores(
            logprobs=logprobs_TV.gather(-1, left[1:, None]).squeeze(-1),
            best=top.indices[:, 0],
            margins=top.values[:, 0] - top.values[:, 1],
        )
        return OmniScores(tuple(left.tolist()), scores, top.values)

    def score(self, messages: Sequence[Any], items: Sequence[Item], answer: Sequence[int] = ()) -> OmniScores:
        """Scores of a conversation with its media, and of `answer` after it.

        `items` in the order in which the messages have them; within a message, and after the template put images before
        videos before sounds, each kind keeps its own order.
        """
        return self.score_text(self.render(messages), items, answer)

    def score_text(self, text: str, items: Sequence[Item], answer: Sequence[int] = ()) -> OmniScores:
        """The same for a prompt that is rendered already."""
        return self.scores([*self.prompt_ids(text, items), *answer], in_text_order(text, items))

    @torch.no_grad()
    def embed(self, item: Item) -> list[torch.Tensor]:
        """Embeddings [T, D] of an item: one tensor for a picture, one per tubelet of a video or clip of a sound."""
        if item not in self._embeddings:
            self._embeddings[item] = self._encode(item)
        return self._embeddings[item]

    @torch.no_grad()
    def retention(self, item: Video) -> torch.Tensor:
        """Which of a video's tokens stay, in order: [tubelets x tokens] bool, from transformers' own rule."""
        from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import compute_retention_mask

        tubelets = self.embed(item)
        if item.pruning_rate == 0:
            return torch.ones(sum(len(tubelet) for tubelet in tubelets), dtype=torch.bool)
        # every position of a tubelet is compared with itself in time only, so a row of them stands for a grid
        # plain numbers: of a tensor it would take the share in float32, sometimes a token more than the published code
        shape: Any = (len(tubelets), 1, len(tubelets[0]))
        embeddings: Any = torch.cat(tubelets)
        return compute_retention_mask(video_embeds=embeddings, thw=shape, spatial_merge_size=1, q=item.pruning_rate)

    def _encode(self, item: Item) -> list[torch.Tensor]:
        if isinstance(item, Image):
            grid = torch.tensor([item.grid_HW])
            return list(self.model.get_image_features(item.patches_PD.to(self.dtype), grid).pooler_output)
        if isinstance(item, Video):
            return list(self.model.get_video_features(item.frames_TCHW.to(self.dtype)).pooler_output)
        num_frames_N = torch.tensor(item.num_frames_N)
        mask_NM = torch.arange(item.mel_NMF.shape[1])[None] < num_frames_N[:, None]
        # get_audio_features counts a frame more than is valid (376 tokens for 30 s); the tower itself does not
        hidden = self.model.audio_tower(item.mel_NMF.to(self.dtype), attention_mask=mask_NM).last_hidden_state
        embedded = self.model.embed_audio(hidden)
        return [clip_TD[:count] for clip_TD, count in zip(embedded, item.tokens_N, strict=True)]

    def _embedded(self, ids_T: torch.Tensor, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
        """(embeddings [T, D] with media in place, mask [T] of what pruning leaves)."""
        embeddings_TD = self.model.get_input_embeddings()(ids_T)
        kept_T = torch.ones_like(ids_T, dtype=torch.bool)
        for token, kinds in (
            (self.model.config.image_token_id, (Image, Video)),
            (self.model.config.audio_token_id, (Sound,)),
        ):
            wanted = [item for item in items if isinstance(item, kinds)]
            places = (ids_T == token).nonzero().squeeze(-1)
            made = [part for item in wanted for part in self.embed(item)]
            if len(places) != sum(len(part) for part in made):
                raise ValueError(f"{len(places)} tokens {token} stand for {sum(map(len, made))} embeddings")
            if not made:
                continue
            embeddings_TD[places] = torch.cat(made).to(embeddings_TD.dtype)
            keep = [self.retention(item) if isinstance(item, Video) else _all(self.embed(item)) for item in wanted]
            kept_T[places] = torch.cat(keep)
        return embeddings_TD, kept_T

    def _expanded(self, text: str, items: Sequence[Item]) -> str:
        waiting = {slot: [item for item in items if isinstance(item, kind)] for slot, kind in _KINDS.items()}

        def run(match: re.Match[str]) -> str:
            if not waiting[match[0]]:
                raise ValueError(f"the prompt has more {match[0]} slots than items for them")
            return _run(waiting[match[0]].pop(0))

        expanded = _SLOT.sub(run, text)
        left = {slot: len(rest) for slot, rest in waiting.items() if rest}
        if left:
            raise ValueError(f"the prompt has no slot for some items: {left}")
        return expanded


def in_text_order(text: str, items: Sequence[Item]) -> list[Item]:
    """The items in the order in which their slots stand in a rendered prompt."""
    waiting = {slot: iter([item for item in items if isinstance(item, kind)]) for slot, kind in _KINDS.items()}
    return [next(waiting[slot]) for slot in _SLOT.findall(text)]


def load_omni(model_dir: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' NemotronH_Omni_Reasoning_V3 with the checkpoint's weights, dequantised, in eval mode.

    ValueError if it is no Omni checkpoint of ours, or if transformers lacks or leaves over a tensor that matters.
    """
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config
    from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import NemotronH_Omni_Reasoning_V3

    raw = read_config(model_dir, is_nano_omni)
    config: Any = NemotronH_Omni_Reasoning_V3_Config(**_for_transformers(raw))
    tensors = {name: tensor for name, tensor in dequantised_tensors(model_dir) if not _UNUSED.search(name)}
    # what has another shape is told by `check_whole`, in its sentence
    told: Any = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded: Any = NemotronH_Omni_Reasoning_V3.from_pretrained(
        None, config=config, state_dict=tensors, dtype=dtype, **told
    )
    model, info = loaded
    check_whole(model_dir, info, missing=[name for name in info["missing_keys"] if not _IMPLIED.search(name)])
    settle(model.language_model, decoder_spec(raw))
    return model.eval()


def _for_transformers(raw: dict[str, Any]) -> dict[str, Any]:
    """The config, nested configs as objects of transformers' own classes, whatever else is registered as theirs."""
    from transformers.models.nemotron_h import NemotronHConfig
    from transformers.models.parakeet import ParakeetEncoderConfig
    from transformers.models.radio import RadioConfig

    # weights come dequantised; "parakeet" is no type that transformers knows
    outer = {name: value for name, value in raw.items() if name not in ("quantization_config", "architectures")}
    nested: dict[str, tuple[tuple[str, str], type]] = {
        "text_config": (("text_config", "llm_config"), NemotronHConfig),
        "vision_config": (("vision_config", "vision_config"), RadioConfig),
        "audio_config": (("audio_config", "sound_config"), ParakeetEncoderConfig),
    }
    for name, (spellings, kind) in nested.items():
        found = [outer.pop(spelling) for spelling in dict.fromkeys(spellings) if spelling in outer]
        if not found:
            continue
        fields = {key: value for key, value in found[0].items() if key not in ("model_type", "architectures")}
        if kind is RadioConfig:
            fields = _radio_fields(fields)
        elif kind is ParakeetEncoderConfig:
            # the published file leaves out what its code sets
            fields = {"attention_bias": False, "scale_input": False, **fields}
        outer[name] = kind(**fields)
    return outer


def _radio_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Sizes that the published file spells in a way that RadioConfig does not read."""
    read = dict(fields)
    pixels = fields.get("args", {}).get("cpe_max_size", fields.get("max_resolution"))
    if pixels is not None:
        read.setdefault("max_img_size", pixels)
    if "intermediate_size" in fields:
        read.setdefault("mlp_ratio", fields["intermediate_size"] / fields["hidden_size"])
    return read


def _run(item: Item) -> str:
    """The text that stands for an item, before tokenisation."""
    if isinstance(item, Image):
        return "<img>" + "<image>" * item.num_tokens + "</img>"
    if isinstance(item, Sound):
        return "<so_start>" + "<so_embedding>" * sum(item.tokens_N) + "<so_end>"
    tubelet = "<img>" + "<image>" * item.tokens_per_tubelet + "</img>"
    return "\n".join(heading + tubelet for heading in item.headings)


def _all(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.ones(sum(len(part) for part in parts), dtype=torch.bool)
