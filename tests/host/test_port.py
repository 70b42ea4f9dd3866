"""An address at which no server can listen ends the start before anything is loaded, in two lines."""

from __future__ import annotations

import socket
import types
from collections.abc import Iterator

import pytest

from sglang_nemotron.host import ending, port, startup


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_port_in_use(taken: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^port {taken} of 127.0.0.1 is in use\n  remedy: choose another with --port$"
    ):
        port.check_port("127.0.0.1", taken)
    # of all addresses, that one is taken too
    with pytest.raises(ValueError, match="is in use"):
        port.check_port("0.0.0.0", taken)


def test_a_port_that_is_free_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)), server.accept()[0]:
            pass
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        port.check_port(host, number)


def test_an_address_of_another_machine() -> None:
    # reserved for documentation, by RFC 5737
    with pytest.raises(ValueError, match=r"^nothing can listen at 192.0.2.1, port 1: [^\n]+\n  remedy: .*--host"):
        port.check_port("192.0.2.1", 1)


@pytest.mark.parametrize("command", [True, False])
def test_only_a_server_is_asked(command: bool, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program around the engine has the same arguments, and listens nowhere."""
    monkeypatch.setattr(ending, "is_command", lambda: command)
    monkeypatch.setattr(startup, "check_flags", lambda *_, **__: None)
    monkeypatch.setattr(startup, "check_parallel", lambda *_, **__: None)
    view = types.SimpleNamespace(host="127.0.0.1", port=taken, tokenizer_worker_num=1, tp_size=1, ep_size=1, pp_size=1)
    if not command:
        startup.check_server(view, None, http_app="x")
        return
    with pytest.raises(ValueError, match="is in use"):
        startup.check_server(view, None, http_app="x")
