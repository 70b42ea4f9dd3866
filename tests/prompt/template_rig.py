"""Chat templates to render histories with, ours and others that servers meet, and transformers as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerFast

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.template import chat_template
from sglang_nemotron.checkpoint.tokenizer import tokenizer_files
from sglang_nemotron.prompt.history import Message, read_history
from sglang_nemotron.prompt.parts import roles_with_lists, with_slots, without_lists

SLOTS = {"image": "<image>", "video": "<video>", "audio": "<so_embedding>"}
# shows content as text, whatever it is: a list as Python writes it
NO_LISTS = """{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\n" ~ message.content ~ "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\n" -}}{%- endif -%}"""
# takes lists, and puts a line between their parts
LINES = """{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\n" -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for part in message.content -%}
{{- part.text ~ ("" if loop.last else "\n") -}}
{%- endfor -%}{%- endif -%}
{{- "<|im_end|>\n" -}}
{%- endfor -%}"""
# takes lists, and ends each part with a line's end: a list of one text is not what the text is
ENDS = """{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\n" -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for part in message.content -%}{{- part.text ~ "\n" -}}{%- endfor -%}{%- endif -%}
{%- endfor -%}"""
# shows a list as JSON
AS_JSON = """{%- for message in messages -%}
{{- message.content if message.content is string else message.content | tojson -}}
{%- endfor -%}{{- ' the "text" ' -}}"""
# refuses lists in results, takes them elsewhere, media too
MIXED = """{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\n" -}}
{%- if message.role == "tool" -%}{{- message.content.strip() -}}
{%- elif message.content is string -%}{{- message.content -}}
{%- else -%}{%- for part in message.content -%}
{{- part.text if part.type == "text" else "<image>" -}}
{%- endfor -%}{%- endif -%}
{{- "<|im_end|>\n" -}}
{%- endfor -%}"""
TEMPLATES = {
    **{kind: chat_template(kind) for kind in ("text", "media-first", "in-order")},
    **{"no lists": NO_LISTS, "lines": LINES, "ends": ENDS, "as JSON": AS_JSON, "mixed": MIXED},
}


class Rig:
    """One template: what transformers makes of messages, and what comes of them through our rules."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self.lists = roles_with_lists(self.render)

    def render(self, messages: list[Message]) -> str:
        """As `parts` wants it: ValueError where the template refuses."""
        try:
            return self.golden(messages, add_generation_prompt=False)
        except (jinja2.TemplateError, TypeError) as error:
            raise ValueError(str(error)) from error

    def golden(self, messages: list[Message], **options: Any) -> str:
        options = {"add_generation_prompt": True, **options}
        return self._tokenizer.apply_chat_template(
            messages, tokenize=False, chat_template=self._template, return_dict=False, **options
        )

    def ours(self, messages: list[Message], *, go_on: bool = False, **options: Any) -> str:
        history = read_history(messages, go_on=go_on)
        shown = with_slots(without_lists(history.messages, self.lists, media=True), SLOTS)
        return self.golden(
            shown,
            add_generation_prompt=not history.continued,
            **({"continue_final_message": True} if history.continued else {}),
            **options,
        )


def rigs(folder: Path) -> dict[str, Rig]:
    """All templates, with one tokenizer between them. folder: an empty one, for its files."""
    for name, text in tokenizer_files(OMNI_PRESETS["toy"].vocab_size, 4096).items():
        (folder / name).write_text(text)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return {name: Rig(tokenizer, template) for name, template in TEMPLATES.items()}
