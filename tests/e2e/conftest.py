"""Servers for the end-to-end tests: shared by what they serve, counted, and checked for leaks after every test.

A test asks for the fixture `server` and says what it wants with the marker: `@pytest.mark.server` for the main server
(the tiny checkpoint in float32), `@pytest.mark.server(Served(...))` for another. Tests of one server run in a row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.serving import MAIN, Served, Servers
from support.starts import STARTS, Start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs end-to-end tests last, those without a server of the pool first, then server by server."""
    here = Path(__file__).parent
    order: dict[Served | None, int] = {None: 0, MAIN: 1}
    e2e = [item for item in items if here in item.path.parents]
    for item in e2e:
        order.setdefault(_served(item), len(order))
    e2e.sort(key=lambda item: order[_served(item)])
    items[:] = [item for item in items if here not in item.path.parents] + e2e


def pytest_runtest_setup(item: pytest.Item) -> None:
    STARTS.matrix_ran = STARTS.matrix_ran or item.get_closest_marker("matrix") is not None


@pytest.fixture(scope="session", autouse=True)
def _count_starts() -> Iterator[None]:
    begin = ServerProcess.start

    def counted(self: ServerProcess) -> ServerProcess:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
        if not test.startswith("tests/e2e/"):
            # of another room, which starts what only looks like a server
            return begin(self)
        flags = " ".join(self.command[self.command.index("--port") + 2 :])
        at = len(STARTS.made)
        STARTS.made.append(Start(test, flags, None))
        begin(self)
        STARTS.made[at] = replace(STARTS.made[at], seconds=self.seconds_to_ready)
        return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerProcess, "start", counted)
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Checkpoints and servers of this session; `servers.get(Served(...))` for a test that needs more than one."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def say(text: str) -> None:
        # a worker of pytest-xdist has no terminal, but the error output of the one that has
        with capture.global_and_fixture_disabled():
            print(f"\n  {text}", file=sys.stderr, flush=True)

    pool = Servers(tmp_path_factory.mktemp("serving"), say)
    yield pool
    pool.stop_all()


@pytest.fixture
def server(servers: Servers, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """The server that the test's marker names; afterwards every slot and page must be back (see `Servers.check_leaks`).

    A test that ends its server on purpose starts one of its own instead.
    """
    served = _served(request.node)
    assert served is not None, "a test that uses `server` carries the marker `server`"
    yield servers.get(served)
    servers.check_leaks(served)


def _served(item: pytest.Item) -> Served | None:
    marker = item.get_closest_marker("server")
    if marker is None or "server" not in getattr(item, "fixturenames", ()):
        return None
    return marker.args[0] if marker.args else MAIN
