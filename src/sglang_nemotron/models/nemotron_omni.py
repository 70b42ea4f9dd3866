"""Nemotron 3 Nano Omni for SGLang: towers in front of the text model. SGLang finds it by the checkpoint's own name.

One request's media come as items; SGLang's `general_mm_embed_routine` calls back for their embeddings, keeps them in
its cache, and puts the rows of this step in the places of their runs.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sglang_nemotron.config.omni import is_nano_omni, omni_spec_of
from sglang_nemotron.encoders.parallel import ParallelLinears
from sglang_nemotron.encoders.project import (
    image_embeddings,
    interleave,
    retention_mask,
    sound_embeddings,
    tubelet_embeddings,
)
from sglang_nemotron.encoders.towers import Towers
from sglang_nemotron.encoders.weights import TEXT_PREFIX, TowerWeights
from sglang_nemotron.models.nemotron_h import NemotronHForCausalLM
from sglang_nemotron.sglang_api.engine import (
    ForwardBatch,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
    PPProxyTensors,
    QuantizationConfig,
    WeightsMapper,
    add_prefix,
    general_mm_embed_routine,
)
from sglang_nemotron.sglang_api.intree import intree_model

logger = logging.getLogger(__name__)


class NemotronH_Nano_Omni_Reasoning_V3(nn.Module):
    """Towers, projectors and the decoder. Configs of other families that share a name go to SGLang's own class."""

    # what SGLang's loaders, LoRA and quantisation read from the class; text names stand behind `language_model.`
    packed_modules_mapping = NemotronHForCausalLM.packed_modules_mapping
    hf_to_sglang_mapper = WeightsMapper(orig_to_new_prefix={"language_model.backbone.": "language_model.model."})
    supported_lora_modules = NemotronHForCausalLM.supported_lora_modules

    def __new__(cls, *, config: Any, quant_config: QuantizationConfig | None = None, prefix: str = "") -> Any:
        reason = is_nano_omni(config)
        if reason is None:
            return super().__new__(cls)
        logger.warning("not a Nemotron 3 Nano Omni config (%s): SGLang's own class serves it", reason)
        return intree_model(cls.__name__)(config=config, quant_config=quant_config, prefix=prefix)

    def __init__(self, *, config: Any, quant_config: QuantizationConfig | None = None, prefix: str = "") -> None:
        super().__init__()
        self.config = config
        self.quant_config = quant_config
        self.spec = omni_spec_of(config)
        self.language_model = NemotronHForCausalLM(
            config=config.llm_config, quant_config=quant_config, prefix=add_prefix("language_model", prefix)
        )
        # embeddings are made where the sequence enters the decoder
        first = self.language_model.pp_group.is_first_rank
        self.towers = Towers(self.spec, linears=ParallelLinears()) if first else None
        self.tower_weights = TowerWeights(self.spec)

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        pp_proxy_tensors: PPProxyTensors | None = None,
    ) -> Any:
        """As the text model; where a batch brings media, their rows replace the embeddings of their runs first."""
        brings_media = not forward_batch.forward_mode.is_decode() and forward_batch.contains_mm_inputs()
        if not brings_media or self.towers is None or input_embeds is not None:
            return self.language_model(input_ids, positions, forward_batch, input_embeds, pp_proxy_tensors)
        embedders: dict[Modality, Any] = {
            Modality.IMAGE: self.get_image_feature,
            Modality.VIDEO: self.get_video_feature,
            Modality.AUDIO: self.get_audio_feature,
        }
        return general_mm_embed_routine(
            input_ids=input_ids,
            forward_batch=forward_batch,
            language_model=self.language_model,
            multimodal_model=self,
            data_embedding_funcs=embedders,
            positions=positions,
            pp_proxy_tensors=pp_proxy_tensors,
        )

    # ---- media: one tensor [rows of the item's run, hidden size] per item, in the items' order

    def get_image_feature(self, items: list[MultimodalDataItem]) -> list[torch.Tensor]:
        """Items whose feature is pixels [3, height, width], normalised."""
        towers = self._towers()
        pixels: list[Any] = [item.feature for item in items]
        rows = image_embeddings(
            towers.vision_model, towers.vision_projection, pixels, merge_size=self.spec.image.merge_size
        )
        return _checked(items, rows)

    def get_video_feature(self, items: list[MultimodalDataItem]) -> list[torch.Tensor]:
        """Items whose feature is frames [T, 3, height, width]; the run's text between tubelets is embedded here too."""
        return _checked(items, [self._clip(item) for item in items])

    def _clip(self, item: MultimodalDataItem) -> torch.Tensor:
        towers = self._towers()
        frames: Any = item.feature
        data: dict[str, Any] = item.model_specific_data
        x_GNC = tubelet_embeddings(
            towers.vision_model, towers.vision_projection, frames, merge_size=self.spec.video.merge_size
        )
        return interleave(self._texts(data["separators"]), x_GNC, retention_mask(x_GNC, data["pruning_rate"]))

    def _texts(self, separators: list[list[int]]) -> list[torch.Tensor]:
        """Embeddings of several texts, from one look-up: it is a sum over ranks."""
        embed: Any = self.get_input_embeddings()
        ids = torch.tensor([token for ids in separators for token in ids], device=embed.weight.device)
        return list(embed(ids).split([len(ids) for ids in separators]))

    def get_audio_feature(self, items: list[MultimodalDataItem]) -> list[torch.Tensor]:
        """Items whose feature is mel frames [clips, frames, mel bins]; clips of all items share passes."""
        towers = self._towers()
        assert towers.sound_encoder is not None and towers.sound_projection is not None
        mels: list[Any] = [item.feature for item in items]
        frames: list[Any] = [item.model_specific_data["num_frames"] for item in items]
        clips = [mel for mel_NTF in mels for mel in mel_NTF]
        counts_of_clips = [count for counts in frames for count in counts]
        rows = sound_embeddings(towers.sound_encoder, towers.sound_projection, clips, counts_of_clips)
        per_item, start = [], 0
        for counts in frames:
            end = start + len(counts)
            per_item.append(torch.cat(rows[start:end]))
            start = end
        return _checked(items, per_item)

    def _towers(self) -> Towers:
        assert self.towers is not None, "this pipeline stage has no towers"
        return self.towers

    def pad_input_ids(self, input_ids: array, mm_inputs: MultimodalInputs) -> array:
        """The prompt with every item's run replaced by values made of its content, so that a prefix is its media."""
        padded = input_ids[:]
        for item in mm_inputs.mm_items:
            for start, end in item.offsets or ():
                # a prompt may have been cut short
                end = min(end + 1, len(padded))
                if start < end:
                    padded[start:end] = array(padded.typecode, item.padding_sequence(end - start))
        return padded

    # ---- weights, and what SGLang asks of any model

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Fills towers, projectors and decoder from one stream; the first call must fill all of them exactly once."""
        filled: set[str] = set()
        text = self.language_model.load_weights(self.tower_weights.divert(self.towers, weights, filled))
        return {f"towers.{name}" for name in filled} | {TEXT_PREFIX + name for name in text}

    @property
    def start_layer(self) -> int:
        return self.language_model.start_layer

    @property
    def end_layer(self) -> int:
        return self.language_model.end_layer

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    @property
    def lm_head(self) -> nn.Module:
        return self.language_model.lm_head

    @property
    def pp_group(self) -> Any:
        return self.language_model.pp_group

    @property
    def routed_experts_weights_of_layer(self) -> Any:
        return self.language_model.routed_experts_weights_of_layer

    @classmethod
    def get_model_config_for_expert_location(cls, config: Any) -> Any:
        return NemotronHForCausalLM.get_model_config_for_expert_location(config.llm_config)


class NemotronH_Omni_Reasoning_V3(NemotronH_Nano_Omni_Reasoning_V3):
    """The same under the name that transformers saves; Super Omni shares it, and is left to SGLang's own class."""


def _checked(items: list[MultimodalDataItem], rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """The processor and the towers count a run's rows separately, and must agree."""
    for item, embeddings in zip(items, rows, strict=True):
        expected = sum(end - start + 1 for start, end in item.offsets or ())
        assert embeddings.shape[0] == expected, (item.modality, embeddings.shape, item.offsets)
    return rows


EntryClass = [NemotronH_Nano_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3]
