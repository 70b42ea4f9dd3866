"""The chat template of a checkpoint: the kind of model comes in, Jinja text goes out.

One file holds the template of text models, another what Omni has in place of its marked sections; a text template must
not so much as mention a picture, because SGLang would take it for a multimodal one.
"""

from __future__ import annotations

import re
from pathlib import Path

_SECTION = re.compile(r"^ *\{#- section: (.*?) -#\}\n(.*?)^ *\{#- end -#\}\n", re.DOTALL | re.MULTILINE)


def chat_template(kind: str) -> str:
    """The content of chat_template.jinja.

    Args:
        kind: "text", or for Omni "media-first" (a message's media before its text, as published) or "in-order" (every
            part where the message has it).
    """
    folder = Path(__file__).parent
    base = (folder / "chat_template.jinja").read_text()
    if kind == "text":
        return _SECTION.sub(lambda match: match[2], base)
    omni = {name: body for name, body in _SECTION.findall((folder / "chat_template_omni.jinja").read_text())}
    omni["content"] += omni[f"content {kind}"] + omni["content switches"]
    # a replacement without its own section would be lost without a word
    assert set(omni) >= {match[1] for match in _SECTION.finditer(base)}, sorted(omni)
    return _SECTION.sub(lambda match: omni[match[1]], base).replace(
        "the prompt format of Nemotron 3 Nano,", "the prompt format of Nemotron 3 Nano Omni,"
    )
