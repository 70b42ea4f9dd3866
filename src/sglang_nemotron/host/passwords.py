"""Keeps the passwords of a server out of its log and out of its answers; the server's arguments come in, and go out
without them.

SGLang 0.5.23 logs all arguments at start, keys included, and `/server_info` tells a client the key of the
administrator. It does so for every model that it serves, and so does this.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable
from typing import Any

from sglang_nemotron.host.door import Door
from sglang_nemotron.sglang_api.wrapping import Wrap

SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")
HIDDEN = "<redacted>"
_FLAGS = "|".join(name.replace("_", "-") for name in SECRETS)
# as a shell has it: a word, or a word in quotes
_GIVEN = re.compile(rf"""(--(?:{_FLAGS})(?:=|\s+))('[^']*'|"[^"]*"|\S+)""")


def without_passwords(arguments: dict[str, Any]) -> dict[str, Any]:
    """A copy with HIDDEN for each password that is set, in `launch_command` too."""
    hidden = {name: HIDDEN for name in SECRETS if arguments.get(name)}
    command = arguments.get("launch_command")
    if isinstance(command, str):
        hidden["launch_command"] = _GIVEN.sub(rf"\g<1>{HIDDEN}", command)
    return {**arguments, **hidden}


def _hiding(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(original)
    def hidden(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return without_passwords(original(*args, **kwargs))

    return hidden


def _hiding_states(original: Callable[..., Awaitable[list[Any]]]) -> Callable[..., Awaitable[list[Any]]]:
    # each scheduler has the arguments, too
    @functools.wraps(original)
    async def hidden(*args: Any, **kwargs: Any) -> list[Any]:
        states = await original(*args, **kwargs)
        return [without_passwords(state) if isinstance(state, dict) else state for state in states]

    return hidden


_ENGINE = "sglang.srt.entrypoints.engine"
_MANAGER = "sglang.srt.managers.tokenizer_manager"
_SERVER = "sglang.srt.entrypoints.http_server"

PASSWORDS = Door(
    "passwords",
    "http",
    "passwords stay out of logs and answers",
    needs=(_ENGINE, _SERVER, _MANAGER),
    wraps=(
        Wrap(_ENGINE, "", "_server_args_for_logging", _hiding),
        Wrap(_SERVER, "", "build_server_info", _hiding),
        Wrap(_MANAGER, "TokenizerManager", "get_internal_state", _hiding_states, inherited=True),
    ),
    without="goes without our look at what it tells of its arguments",
)
