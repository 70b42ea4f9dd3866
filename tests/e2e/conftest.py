"""Servers for the end-to-end tests: shared by what they serve, counted, and checked for leaks after every test.

A test asks for the fixture `server` and says what it wants with the marker: `@pytest.mark.server` for the main server
(the tiny checkpoint in float32), `@pytest.mark.server(Served(...))` for another. Tests of one server run in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import MAIN, Served, Servers

from sglang_nemotron.cli.server import ServerProcess

# a session without the matrix must stay quick: one start costs half a minute
MAX_STARTS = 12

_starts = 0
_matrix_ran = False


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
    global _matrix_ran
    _matrix_ran = _matrix_ran or item.get_closest_marker("matrix") is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _starts > MAX_STARTS and not _matrix_ran:
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(
                f"{_starts} servers were started; without the matrix at most {MAX_STARTS} may be: share one, or mark "
                "the test `matrix`",
                red=True,
            )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _count_starts() -> Iterator[None]:
    start = ServerProcess.start

    def counted(self: ServerProcess) -> ServerProcess:
        global _starts
        _starts += 1
        return start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerProcess, "start", counted)
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Checkpoints and servers of this session; `servers.get(Served(...))` for a test that needs more than one."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(f"  {text}")

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
