"""What SGLang loads as the "processor" of an Omni checkpoint: its tokenizer alone, never remote code.

Media are measured by `processors/`; SGLang asks for a processor object in every process and takes a tokenizer for
one. Checkpoints of another family under the same model type get what SGLang would have loaded.
"""

from __future__ import annotations

from typing import Any

from sglang_nemotron.config_omni import is_nano_omni
from sglang_nemotron.host.names.args import AutoConfig, AutoProcessor, AutoTokenizer


class OmniTokenizer:
    """Stands in SGLang's table of processor classes; `from_pretrained` is all that SGLang calls."""

    # SGLang hands over the keyword arguments of transformers' own loaders
    @staticmethod
    def from_pretrained(name: str, *args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, revision=kwargs.get("revision"))
        loader = AutoTokenizer if is_nano_omni(config) is None else AutoProcessor
        return loader.from_pretrained(name, *args, trust_remote_code=trust_remote_code, **kwargs)
