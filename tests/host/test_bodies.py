"""A chat whose body is no object is a 400 in servers of ours, through SGLang's own app; other models are left alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import sglang.cli.serve  # noqa: F401
from fastapi.testclient import TestClient
from sglang.srt.entrypoints import http_server

from sglang_nemotron.host import bodies

CHAT = "/v1/chat/completions"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Of a process that does not know its model yet."""
    bodies.CHAT_BODIES.open()
    monkeypatch.setattr(bodies, "_serves_ours", False)
    return TestClient(http_server.app, raise_server_exceptions=False)


def _started(architecture: str) -> None:
    """As SGLang does once it knows its model."""
    config = SimpleNamespace(hf_config=SimpleNamespace(architectures=[architecture]), vocab_size=10)
    bodies._then_look(lambda self: None)(SimpleNamespace(model_config=config))


def _post(client: TestClient, path: str, body: str) -> Any:
    return client.post(path, content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize("path", bodies._CHATS)
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("[]", "a list"),
        ('[{"model": "m"}]', "a list"),
        ('"x"', "a string"),
        ("1", "a number"),
        ("-1.5", "a number"),
        ("true", "a boolean"),
        ("null", "null"),
    ],
)
@pytest.mark.parametrize("architecture", ["NemotronHForCausalLM", "NemotronH_Nano_Omni_Reasoning_V3"])
def test_what_is_no_object_is_named(client: TestClient, architecture: str, path: str, body: str, kind: str) -> None:
    # once SGLang says so itself, ours can go
    assert _post(client, path, body).status_code == 500
    _started(architecture)
    answer = _post(client, path, body)
    assert answer.status_code == 400
    said = answer.json()
    assert (said["object"], said["code"], said["message"]) == (
        "error",
        400,
        f"the body is {kind}; a chat is a JSON object",
    )


def test_no_answer_at_all_is_refused_by_name(client: TestClient) -> None:
    _started("NemotronHForCausalLM")
    answer = _post(client, CHAT, '{"messages": [{"role": "user", "content": "hi"}], "n": 0}')
    assert answer.status_code == 400 and "n is 0; allowed: 1 to 1024" in answer.text


@pytest.mark.parametrize("body", ["{}", "", "{", "nonsense", '{"messages": 1}'])
def test_what_sglang_says_itself_stays(client: TestClient, body: str) -> None:
    before = _post(client, CHAT, body)
    _started("NemotronHForCausalLM")
    after = _post(client, CHAT, body)
    assert (after.status_code, after.json()) == (before.status_code, before.json()) and before.status_code == 400


@pytest.mark.parametrize("path", ["/v1/completions", "/generate", "/v1/messages", "/v1/embeddings"])
def test_other_endpoints_stay(client: TestClient, path: str) -> None:
    before = _post(client, path, "[]")
    _started("NemotronHForCausalLM")
    after = _post(client, path, "[]")
    assert (after.status_code, after.json()) == (before.status_code, before.json()) and before.status_code == 400


def test_other_models_are_untouched(client: TestClient) -> None:
    _started("LlamaForCausalLM")
    assert _post(client, CHAT, "[]").status_code == 500


def test_the_row_waits_for_sglangs_server() -> None:
    row = replace(bodies.CHAT_BODIES, needs=("no.such.module",), wraps=(), opens=lambda: pytest.fail("too early"))
    row.open()
