"""A server that answers like SGLang's /generate about media, from transformers itself; a fault can be planted in what
it sees and hears. It reads files on its own, and what it takes of a video is what a request's options say."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from sglang_nemotron.media.video.sampling import sample_indices
from sglang_nemotron.parity import reference_media
from sglang_nemotron.parity.media_files import frames, pixels, samples
from sglang_nemotron.parity.reference_media import Item, Video
from sglang_nemotron.parity.reference_omni import OmniReference, in_text_order
from support.loopback import QuietHandler, listening

# (kind of medium, what was read of a file: pixels, frames or samples) -> what is taken for it
Seen = Callable[[str, torch.Tensor], torch.Tensor]

# of every film that the modes send
_FPS = 24
# what stands for an embedding, as the published tokenizer has it
IMAGE_ID, SOUND_ID = 18, 27


def as_it_is(kind: str, read: torch.Tensor) -> torch.Tensor:
    return read


@dataclass
class FakeOmni:
    """patches: of the checkpoint's config. more_pruned: added to every rate. bodies: what it was asked."""

    reference: OmniReference
    patches: int
    seen: Seen = as_it_is
    more_pruned: float = 0.0
    context: int = 32768
    dtype: str = "float32"
    model: Mapping[str, Any] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """Greedy decoding by the reference, one forward per token; SGLang's reply to the same request."""
        self.bodies.append(body)
        ids, ordered = self._prompt(body)
        said: list[int] = []
        for _ in range(body["sampling_params"]["max_new_tokens"]):
            # the token that is scored last does not matter for the one that is likeliest in its place
            scored = self.reference.scores([*ids, *said, 0], ordered)
            said.append(int(scored.scores.best[-1]))
        whole = self.reference.scores([*ids, *said], ordered)
        num_prompt = len(whole.ids) - len(said)
        logprobs = [None, *whole.scores.logprobs.tolist()]
        start = body["logprob_start_len"]
        first = num_prompt - 1 if start < 0 else start
        given = [[None if at == first else logprobs[at], whole.ids[at], None] for at in range(first, num_prompt)]
        media = [at for at in range(num_prompt) if whole.ids[at] in (IMAGE_ID, SOUND_ID)]
        if ordered and isinstance(ordered[-1], Video) and 0 < media[-1] + 1 - first < len(given):
            # the closing tag of a video is no token to SGLang, and what is given for it means nothing
            given[media[-1] + 1 - first][0] = -99.0
        return {
            "meta_info": {
                "prompt_tokens": num_prompt,
                "cached_tokens": 0,
                "input_token_logprobs": given,
                "output_token_logprobs": [
                    [logprob, token, None] for logprob, token in zip(logprobs[num_prompt:], said, strict=True)
                ],
            }
        }

    def _prompt(self, body: dict[str, Any]) -> tuple[list[int], list[Item]]:
        """(ids, items in the order of their runs)."""
        if "input_ids" in body:
            return body["input_ids"], []
        options = body["mm_processor_kwargs"]
        items: list[Item] = [self._image(data) for data in _files(body, "image")]
        for data in _files(body, "video"):
            items.append(self._video(data, options))
            if options.get("use_audio_in_video"):
                items.append(self._sound(data))
        heard = "<so_embedding>" if options.get("use_audio_in_video") else ""
        text = re.sub("<video>", f"<video>{heard}", body["text"])
        items += map(self._sound, _files(body, "audio"))
        return self.reference.prompt_ids(text, items), in_text_order(text, items)

    def _image(self, data: bytes) -> Item:
        return reference_media.image(self.seen("image", pixels(data)), max_tokens=32768, min_patches=self.patches)

    def _video(self, data: bytes, options: Mapping[str, Any]) -> Item:
        shown = frames(data)
        numbers = sample_indices(len(shown), _FPS, fps=options["fps"], max_frames=options["num_frames"])
        return reference_media.video(
            self.seen("video", shown[numbers]),
            numbers,
            source_fps=_FPS,
            pruning_rate=options["pruning_rate"] + self.more_pruned,
            target_patches=self.patches,
        )

    def _sound(self, data: bytes) -> Item:
        return reference_media.sound(self.seen("audio", torch.from_numpy(samples(data))))


def _files(body: Mapping[str, Any], kind: str) -> Sequence[bytes]:
    return [base64.b64decode(item) for item in body.get(f"{kind}_data", ())]


@contextmanager
def fake_omni(fake: FakeOmni) -> Iterator[str]:
    """The URL of a running fake."""
    lock = threading.Lock()
    told = {
        "/v1/models": {"data": [{"id": "fake", "max_model_len": fake.context}]},
        "/model_info": dict(fake.model),
        "/server_info": {"dtype": fake.dtype, "chunked_prefill_size": 8, "page_size": 1},
    }

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_json(told[self.path])

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/flush_cache"):
                return self.send_json({})
            with lock:
                self.send_json(fake.generate(json.loads(raw)))

    with listening(Handler) as url:
        yield url
