"""What SGLang's own benchmarks ask for a prompt with images: a processor that counts their tokens as the server does.

A benchmark is a client: it loads no plugins, and finds this by the one entry point that SGLang asks in every process.
It takes a prompt's length from the processor, and reports the difference to the text alone as vision tokens.
"""

from __future__ import annotations

import sys
from typing import Any

from sglang_nemotron.family import OMNI_MODEL_TYPES
from sglang_nemotron.host import alarms

# `python -m sglang.bench_serving`, `sglang.benchmark.serving`, `sglang.bench_one_batch_server`, ...
_PROGRAMS = "sglang.bench"


def announce() -> None:
    """In a benchmark's process, puts the processor where SGLang looks for one; elsewhere does nothing."""
    if not any(word.startswith(_PROGRAMS) or "/sglang/bench" in word for word in sys.orig_argv):
        return
    alarms.quieten()
    # imports transformers and nothing of SGLang's, which is in the middle of its own first imports
    from sglang.srt.multimodal.customized_mm_processor_utils import _CUSTOMIZED_MM_PROCESSOR

    processor: Any = CountingProcessor
    for model_type in OMNI_MODEL_TYPES:
        _CUSTOMIZED_MM_PROCESSOR.setdefault(model_type, processor)


class CountingProcessor:
    """As many ids for a prompt as the server prefills; for counting alone, it reads no pixels.

    max_image_tokens and the context length are the checkpoint's: a server with less room may give an image less.
    """

    def __init__(self, tokenizer: Any, config: Any) -> None:
        from sglang_nemotron.config.omni import omni_spec_of
        from sglang_nemotron.media.image.picture import image_budget
        from sglang_nemotron.prompt.tags import TagEncoder

        self.tokenizer = tokenizer
        self._spec = omni_spec_of(config)
        self._encoder = TagEncoder(tokenizer, self._spec.tokens)
        self._budget = image_budget(config.get_text_config().max_position_embeddings, self._spec.image)
        self.image_token_id = self._spec.tokens.image_id

    # SGLang hands over the keyword arguments of transformers' own loaders
    @staticmethod
    def from_pretrained(name: str, *rest: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        """For one of our checkpoints; another family under the same model type gets what it got before."""
        from sglang_nemotron.config.omni import is_nano_omni
        from sglang_nemotron.host import config_tables

        config_tables.open_configs()
        args = config_tables.args
        revision = kwargs.get("revision")
        config = args.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, revision=revision)
        if is_nano_omni(config) is not None:
            return args.AutoProcessor.from_pretrained(name, *rest, trust_remote_code=trust_remote_code, **kwargs)
        tokenizer = args.AutoTokenizer.from_pretrained(name, *rest, trust_remote_code=trust_remote_code, **kwargs)
        return CountingProcessor(tokenizer, config)

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The tokenizer's: a picture becomes the tag that stands for it."""
        return self.tokenizer.apply_chat_template(conversation, **options)

    # called as processors of transformers are
    def __call__(self, text: list[str], images: list[Any] | None = None, **_: Any) -> dict[str, Any]:
        """input_ids of one prompt [1, num_ids], with the run of each image (PIL, upright) in the place of its tag."""
        import torch

        from sglang_nemotron.media.image.picture import image_grid, image_tokens
        from sglang_nemotron.prompt.splice import between, splice

        (prompt,) = text
        tokens, rule = self._spec.tokens, self._spec.image
        bounds = self._encoder.id_of(tokens.image_start), self._encoder.id_of(tokens.image_end)
        grids = [image_grid(image.width, image.height, self._budget, rule) for image in images or ()]
        pieces = [between(image_tokens(grid, rule), tokens.image_id, *bounds) for grid in grids]
        spliced = splice(self._encoder.encode(prompt), self._encoder.slots, {"image": pieces})
        return {"input_ids": torch.tensor([spliced.ids])}
