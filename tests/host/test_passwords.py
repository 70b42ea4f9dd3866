"""Passwords of a server are in nothing that SGLang logs or answers of its arguments."""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_nemotron.host import passwords
from sglang_nemotron.host.passwords import HIDDEN, SECRETS, without_passwords


def test_passwords_are_hidden_and_nothing_else() -> None:
    arguments = {"api_key": "s3cret", "admin_api_key": None, "port": 30000, "ssl_keyfile_password": "s3cret"}
    assert without_passwords(arguments) == {
        **arguments,
        "api_key": HIDDEN,
        "ssl_keyfile_password": HIDDEN,
    }
    assert arguments["api_key"] == "s3cret"


@pytest.mark.parametrize(
    "given", ["--api-key s3cret", "--api-key=s3cret", "--admin-api-key 's3 cret'", '--api-key "s3"']
)
def test_the_command_is_told_without_them(given: str) -> None:
    told = without_passwords({"launch_command": f"sglang serve {given} --port 1"})
    flag = given.split("=")[0].split(" ")[0]
    assert told["launch_command"] in (
        f"sglang serve {flag} {HIDDEN} --port 1",
        f"sglang serve {flag}={HIDDEN} --port 1",
    )


def test_what_sglang_logs_and_answers_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, server, manager = (importlib.import_module(name) for name in passwords.PASSWORDS.needs)
    passwords.PASSWORDS.open()
    assert passwords.PASSWORDS.is_ours() is None

    class Arguments(SimpleNamespace):
        launch_command = "sglang serve --api-key s3cret"

        def resolved_dict(self) -> dict[str, Any]:
            return {**dict.fromkeys(SECRETS, "s3cret"), "port": 30000}

    logged = engine._server_args_for_logging(Arguments())
    assert "s3cret" not in str(logged) and logged["port"] == 30000
    monkeypatch.setitem(
        server.build_server_info.__wrapped__.__globals__, "describe_kv_events_publisher", lambda _: None
    )
    told = server.build_server_info(Arguments(), {"max_total_num_tokens": 7})
    assert "s3cret" not in str(told) and told["max_total_num_tokens"] == 7

    async def states(request: Any) -> Any:
        return [SimpleNamespace(internal_state={"admin_api_key": "s3cret", "world_size": 1})]

    asking = SimpleNamespace(auto_create_handle_loop=lambda: None, get_internal_state_communicator=states)
    (state,) = asyncio.run(manager.TokenizerManager.get_internal_state(asking))
    assert state == {"admin_api_key": HIDDEN, "world_size": 1}
