"""Which parsers a server uses: flags and the chat template come in, our private names go out, for our models alone.

Runs in the main process before SGLang publishes its arguments; other models keep what SGLang resolved.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sglang_nemotron.config.decoder import is_nano
from sglang_nemotron.family import ARCHITECTURES
from sglang_nemotron.host.door import Door
from sglang_nemotron.reply.markup import THINK_CLOSE, THINK_OPEN
from sglang_nemotron.reply.reasoning import ASSISTANT_HEADER
from sglang_nemotron.sglang_api.args import (
    declare_resolution,
    load_tokenizer,
    model_config_of,
    reasoning_parser_names,
    resolving_view,
    tool_parser_names,
)
from sglang_nemotron.sglang_api.wrapping import Wrap

logger = logging.getLogger(__name__)

# the name of both our parsers, and the names that published commands use for the reasoning parser
PARSER = "nemotron_nano"
ALIASES = ("nano_v3", "nemotron_v3")
# field -> what a server of ours may say to get our parser; "auto" looks for tags in the chat template
READ_AS_OURS = {
    "reasoning_parser": (PARSER, *ALIASES, "nemotron_3", "deepseek-r1", "auto"),
    "tool_call_parser": (PARSER, "qwen3_coder", "auto"),
}
# keys of a request's custom parameters, written by ours alone: [tokens, grace], and the declared tools
BUDGET = "__nemotron_thinking_budget"
TOOLS = "__nemotron_tools"
# of a chat with stop strings: the declared tools, or False where thoughts do not go apart
STOPS = "__nemotron_stops"
# beside SGLang's own fields of a finish reason: characters of the reply before the stop string
AT = "nemotron_matched_at"
# what a manager knows of its model after its first request
_SERVES_OURS = "nemotron_replies_are_ours"
# what tells how a reply begins
_TELLING = (ASSISTANT_HEADER, THINK_OPEN, THINK_CLOSE)
_FIRST_LOOK = 32
_TAGS = {"reasoning_parser": (THINK_OPEN, THINK_CLOSE), "tool_call_parser": ("<tool_call>", "<function=")}
_DETECTION = "sglang.srt.parser.template_detection"
_ENGINE = "sglang.srt.entrypoints.engine"


def is_ours(hf_config: Any) -> bool:
    """Whether a model of this config is one whose replies are ours to read."""
    architectures = getattr(hf_config, "architectures", None) or ()
    return any(name in ARCHITECTURES for name in architectures) and is_nano(hf_config) is None


def serves_ours(manager: Any) -> bool:
    """`is_ours` of a manager's one model, asked once: it copies the config, and this runs in the event loop."""
    if not hasattr(manager, _SERVES_OURS):
        setattr(manager, _SERVES_OURS, is_ours(manager.model_config.hf_config))
    return getattr(manager, _SERVES_OURS)


def open_flags() -> None:
    """Lets the command line take our names; may be repeated."""
    for listed, names in ((reasoning_parser_names, (PARSER, *ALIASES)), (tool_parser_names, (PARSER,))):
        listed.extend(name for name in names if name not in listed)


def names_are_accepted() -> str | None:
    missing = [name for name in (PARSER, *ALIASES) if name not in reasoning_parser_names]
    if missing or PARSER not in tool_parser_names:
        return f"SGLang's list of parser names lacks {missing or PARSER}"
    return None


def _then_choose(resolve: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(resolve)
    def resolved(server_args: Any) -> None:
        resolve(server_args)
        choose_parsers(server_args)

    return resolved


FLAGS = Door(
    "parser flags",
    "args",
    "which reply parsers a server uses",
    opens=open_flags,
    proof=names_are_accepted,
    # our choice stands behind SGLang's; the one caller holds a reference of its own
    wraps=(Wrap(_DETECTION, "", "resolve_auto_parsers", _then_choose, takes=("server_args",), held_by=(_ENGINE,)),),
    without="does not ask for our choice of parsers",
)


def choose_parsers(server_args: Any) -> None:
    """Declares our parsers where a server of one of our models asks for them by any of their names.

    Raises ValueError, naming flag and value, for a private name with another model, and for a chat template without
    think tags.
    """
    view = resolving_view(server_args)
    # resolving replaces "auto" in the view; the record keeps what the user said
    said = {field: getattr(server_args, field, None) or getattr(view, field) for field in READ_AS_OURS}
    if not any(said.values()):
        return
    hf_config = model_config_of(server_args).hf_config
    if not is_ours(hf_config):
        _refuse_elsewhere(view, hf_config)
        return
    template = chat_template(view)
    declared = {}
    for field, name in said.items():
        if name is None or (name == "auto" and not _has_tags(template, field)):
            continue
        if name not in READ_AS_OURS[field]:
            logger.warning(
                "--%s %s was not made for replies of Nemotron 3 Nano; %s is",
                field.replace("_", "-"),
                name,
                ", ".join(READ_AS_OURS[field]),
            )
            continue
        declared[field] = PARSER
    if "reasoning_parser" in declared and template is not None and not _has_tags(template, "reasoning_parser"):
        raise ValueError(
            f"--reasoning-parser {said['reasoning_parser']}: the chat template of {view.model_path} holds no "
            f"{THINK_OPEN} and {THINK_CLOSE}, which this parser separates; allowed: a template with both "
            "(--chat-template FILE.jinja), or no --reasoning-parser"
        )
    if declared:
        logger.info("parsers of sglang-nemotron: %s", ", ".join(f"{field}={said[field]}" for field in declared))
        declare_resolution(server_args, "sglang-nemotron", **declared)


def _refuse_elsewhere(view: Any, hf_config: Any) -> None:
    for field in READ_AS_OURS:
        name = getattr(view, field)
        if name in (PARSER, *ALIASES):
            others = [n for n in (reasoning_parser_names if field == "reasoning_parser" else tool_parser_names)]
            allowed = ", ".join(n for n in ("auto", *others) if n not in (PARSER, *ALIASES))
            raise ValueError(
                f"--{field.replace('_', '-')} {name} reads replies of Nemotron 3 Nano ({', '.join(ARCHITECTURES)}); "
                f"this model is {getattr(hf_config, 'architectures', None)}. Allowed for it: {allowed}"
            )


def _has_tags(template: str | None, field: str) -> bool:
    return template is not None and all(tag in template for tag in _TAGS[field])


def chat_template(view: Any) -> str | None:
    """The text of the chat template that a server will use; None if there is none, or it is not a Jinja file."""
    named = getattr(view, "chat_template", None)
    if named:
        return Path(named).read_text() if str(named).endswith(".jinja") and Path(named).is_file() else None
    folder = Path(getattr(view, "tokenizer_path", None) or view.model_path)
    if not folder.is_dir():
        return _from_tokenizer(view)
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    config = folder / "tokenizer_config.json"
    stored = json.loads(config.read_text()).get("chat_template") if config.is_file() else None
    if isinstance(stored, list):
        # several templates, each with a name
        stored = next((entry["template"] for entry in stored if entry.get("name") == "default"), None)
    return stored


def _from_tokenizer(view: Any) -> str | None:
    """A tokenizer that is not a local folder is fetched, as SGLang does next anyway."""
    tokenizer = load_tokenizer(
        view.tokenizer_path or view.model_path,
        tokenizer_mode=view.tokenizer_mode,
        trust_remote_code=view.trust_remote_code,
        revision=view.revision,
    )
    template = getattr(tokenizer, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


# ---- the prompt


def prompt_tail(prompt: str | Sequence[int], tokenizer: Any) -> str:
    """The text of the last tokens of a prompt, reaching back to the last assistant header or think tag if it has one.

    Decoded from the end, since a prompt may be long; a tag that comes before the header is none of this reply's.
    """
    if isinstance(prompt, str):
        return prompt
    size = _FIRST_LOOK
    while True:
        ids = [int(token) for token in prompt[-size:]]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if size >= len(prompt) or any(mark in text for mark in _TELLING):
            return text
        size *= 4
