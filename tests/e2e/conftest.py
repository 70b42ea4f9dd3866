"""Servers for the end-to-end tests: shared by what they serve, counted, and checked for leaks after every test.

A test asks for the fixture `server` and says what it wants with the marker: `@pytest.mark.server` for the main server
(the tiny checkpoint in float32), `@pytest.mark.server(Served(...))` for another. Tests of one server run in a row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.serving import MAIN, Served, Servers

# a session without the matrix must stay quick: one start costs half a minute
MAX_STARTS = 12

_starts: list[Start] = []
_matrix_ran = False


@dataclass(frozen=True)
class Start:
    """One start of a server, for the report at the end. seconds: until it was ready, None if it was refused."""

    test: str
    flags: str
    seconds: float | None


# before pytest-xdist reads the groups
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Runs end-to-end tests last, those without a server of the pool first, then server by server.

    With two workers (`make test`), one has these, and the other all that needs no server.
    """
    here = Path(__file__).parent
    order: dict[Served | None, int] = {None: 0, MAIN: 1}
    e2e = [item for item in items if here in item.path.parents]
    for item in e2e:
        order.setdefault(_served(item), len(order))
    e2e.sort(key=lambda item: order[_served(item)])
    others = [item for item in items if here not in item.path.parents]
    for group, members in (("servers", e2e), ("no server", others)):
        for item in members:
            item.add_marker(pytest.mark.xdist_group(group))
    # whoever comes first gets what takes longer
    items[:] = [*e2e, *others] if hasattr(config, "workerinput") else [*others, *e2e]


def pytest_runtest_setup(item: pytest.Item) -> None:
    global _matrix_ran
    _matrix_ran = _matrix_ran or item.get_closest_marker("matrix") is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["starts"], told["matrix_ran"] = [astuple(start) for start in _starts], _matrix_ran
    elif len(_starts) > MAX_STARTS and not _matrix_ran:
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(
                f"{len(_starts)} servers were started; without the matrix at most {MAX_STARTS} may be: share one, or "
                "mark the test `matrix`",
                red=True,
            )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes over what a worker of pytest-xdist counted."""
    global _matrix_ran
    told = getattr(node, "workeroutput", {})
    _starts.extend(Start(*start) for start in told.get("starts", ()))
    _matrix_ran = _matrix_ran or told.get("matrix_ran", False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _starts:
        return
    ready = [start for start in _starts if start.seconds is not None]
    whole = sum(start.seconds or 0 for start in ready)
    terminalreporter.section(f"{len(_starts)} server starts, {whole:.0f} s until they were ready")
    for start in sorted(_starts, key=lambda start: -(start.seconds or 0)):
        took = "refused" if start.seconds is None else f"{start.seconds:.0f} s"
        terminalreporter.write_line(f"{took:>8} {start.test}  {start.flags}"[:118])


@pytest.fixture(scope="session", autouse=True)
def _count_starts() -> Iterator[None]:
    begin = ServerProcess.start

    def counted(self: ServerProcess) -> ServerProcess:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
        flags = " ".join(self.command[self.command.index("--port") + 2 :])
        _starts.append(Start(test, flags, None))
        at = len(_starts) - 1
        begin(self)
        _starts[at] = replace(_starts[at], seconds=self.seconds_to_ready)
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
