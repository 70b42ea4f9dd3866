"""Two sides of one case: SGLang's own Omni code and ours, each behind SGLang's chat, processor and prefill routine.

A chat goes in; what the processor packages comes out, and of a batch of those, the rows that enter the decoder. The
decoder is a look-up table, and in-tree's vision tower one linear layer: neither is what fails.
"""

from __future__ import annotations

import asyncio
import base64
import io
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.managers import mm_schedule
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.schedule_batch import MultimodalInputs
from torch import nn

from sglang_nemotron.host.http import media
from sglang_nemotron.reader.service import OPTIONS
from support.chat_endpoint import endpoint


def url(data: bytes, kind: str) -> dict[str, Any]:
    """A part of a chat message: "image", "video" or "audio"."""
    return {
        "type": f"{kind}_url",
        f"{kind}_url": {"url": f"data:{kind}/any;base64," + base64.b64encode(data).decode()},
    }


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def serving(tokenizer: Any, processor: Any) -> Any:
    """SGLang's chat endpoint; our hooks pass SGLang's own processor through."""
    ours = hasattr(processor, "nemotron_service")
    return endpoint(SimpleNamespace(tokenizer=tokenizer, mm_processor=processor, nemotron_replies_are_ours=ours))


class Lookup(nn.Module):
    """A decoder that hands back the rows it is given."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(vocab_size, width).requires_grad_(False)
        # what in-tree's class reads of its decoder
        self.config = SimpleNamespace(torch_dtype=torch.float32)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, *_: Any, input_embeds: torch.Tensor, **__: Any) -> torch.Tensor:
        return input_embeds


@dataclass
class Side:
    """One implementation. model: has SGLang's forward of a multimodal model."""

    serving: Any
    processor: Any
    model: Any
    tokenizer: Any
    loop: asyncio.AbstractEventLoop

    def ask(self, *parts: Any, **body: Any) -> Any:
        """What the processor packages of a chat: the parts of one message, or of several in turn, in lists.

        body: more fields of the request's JSON.
        """
        turns = [list(part) for part in parts] if isinstance(parts[0], list) else [list(parts)]
        roles = ("user", "assistant")
        messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
        request = ChatCompletionRequest(model="m", messages=messages, **body)
        rendered = self.serving._apply_jinja_template(request, None, True)
        name, prompt = self.serving._engine_prompt(rendered, True)
        obj = GenerateReqInput(
            **{name: prompt},
            image_data=rendered.image_data,
            video_data=rendered.video_data,
            audio_data=rendered.audio_data,
            mm_processor_kwargs=request.mm_processor_kwargs,
            sampling_params={},
        )
        service = getattr(self.processor, "nemotron_service", None)
        if service is not None:
            media.take_options(obj, body, service)
        obj.normalize_batch_and_arguments()
        assert OPTIONS not in (obj.mm_processor_kwargs or {}) or service is not None
        return self.loop.run_until_complete(
            self.processor.process_mm_data_async(
                image_data=obj.image_data,
                audio_data=obj.audio_data,
                input_text=prompt,
                request_obj=obj,
                max_req_input_len=100_000,
            )
        )

    def prefill(self, *asked: Any) -> list[torch.Tensor]:
        """The rows of each request after one prefill batch. A list of ids is a request without media."""
        mm_schedule.init_mm_embedding_cache(2**30)
        ids: list[array] = []
        inputs: list[MultimodalInputs | None] = []
        for output in asked:
            if isinstance(output, list):
                ids.append(array("q", output))
                inputs.append(None)
                continue
            request = MultimodalInputs.from_processor_output(output)
            for item in request.mm_items:
                item.set_pad_value()
            ids.append(self.model.pad_input_ids(array("q", output.input_ids), request))
            inputs.append(request)
        batch = SimpleNamespace(
            forward_mode=SimpleNamespace(is_decode=lambda: False, is_target_verify=lambda: False),
            contains_mm_inputs=lambda: True,
            mm_inputs=inputs,
            extend_prefix_lens_cpu=[0] * len(ids),
            extend_seq_lens_cpu=[len(request) for request in ids],
            spec_algorithm=None,
            input_embeds=None,
        )
        joined = torch.tensor([token for request in ids for token in request])
        rows = self.model.forward(joined, torch.arange(len(joined)), batch)
        return list(rows.split([len(request) for request in ids]))

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)


class PlainDecoder:
    """Stands in for SGLang's decoder of videos where that does not load, with the part of it that in-tree calls."""

    def __init__(self, source: bytes | str, device: str = "cpu") -> None:
        self.source_bytes = source if isinstance(source, bytes) else None
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            self.avg_fps = float(file.streams.video[0].average_rate or 0)
            self._frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]

    def __len__(self) -> int:
        return len(self._frames)

    def get_frames_at(self, indices: list[int]) -> np.ndarray:
        return np.stack([self._frames[index] for index in indices])


class Patches(nn.Module):
    """A vision tower of one layer, called as in-tree calls RADIO."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3 * 16 * 16, width)

    def _of(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return self.linear(nn.functional.unfold(pixels_NCHW.float(), 16, stride=16).mT)

    @torch.no_grad()
    def forward(self, pixels: Any, num_frames: int | None = None) -> Any:
        if isinstance(pixels, list):
            made = [self._of(image).flatten(0, 1) for image in pixels]
            return torch.cat(made)[None], [len(rows) for rows in made]
        rows = self._of(pixels)
        return (rows[0::2] + rows[1::2]) / 2


def in_tree_model(config: Any, width: int) -> Any:
    """SGLang's class with its own sound encoder, sized by the config, and the stand-ins above."""
    from sglang.srt.models.nano_nemotron_vl import NemotronH_Nano_Omni_Reasoning_V3 as Theirs
    from sglang.srt.models.parakeet import ProjectedParakeet
    from sglang.srt.multimodal.evs import EVS

    made: Any = object.__new__(Theirs)
    EVS.__init__(made, config)
    made.config = config
    made.language_model = Lookup(config.llm_config.vocab_size, width)
    made.downsample_ratio, made.rmsnorm_hidden_size, made.llm_hidden_size = 0.5, 4 * 32, width
    made.model_dtype = torch.float32
    made.vision_model = Patches(32)
    made.mlp1 = nn.Linear(4 * 32, width)
    torch.manual_seed(2)
    made.sound_encoder = ProjectedParakeet(
        config.sound_config, dtype=torch.float32, llm_hidden_size=width, max_model_len=8192
    )
    return made.eval().requires_grad_(False)


def our_model(spec: Any) -> Any:
    """Our class with its own towers of the config's sizes, random."""
    from sglang_nemotron.encoders.towers import Towers
    from sglang_nemotron.models.nemotron_omni import NemotronH_Nano_Omni_Reasoning_V3 as Ours

    torch.manual_seed(0)
    made: Any = object.__new__(Ours)
    nn.Module.__init__(made)
    made.spec = spec
    made.towers = Towers(spec)
    made.language_model = Lookup(spec.decoder.vocab_size, spec.decoder.hidden_size)
    return made.eval().requires_grad_(False)
