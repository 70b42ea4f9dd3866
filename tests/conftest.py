"""What concerns a whole run: which worker gets which tests, and what its end tells of servers."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest

from support.starts import MAX_STARTS, STARTS, Start

# files that take longest, of those that share no server with another file
LONG = (
    "tests/e2e/test_parity_shapes.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/test_doors.py",
    "tests/e2e/test_death.py",
    "tests/media/test_video_file.py",
    "tests/reply/test_reply_invariance.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With two workers (`make test`): one has the tests that share servers, the rest goes to who is free, by files.

    A file that takes long goes early, or one worker would be busy with it while the other has nothing left.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ServersFirst(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "servers" if file.startswith("tests/e2e/") and file not in LONG else file

        def _assign_work_unit(self, node: Any) -> None:
            scope = next((scope for scope in ("servers", *LONG) if scope in self.workqueue), None)
            if scope:
                self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    return ServersFirst(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["starts"], told["matrix_ran"] = [astuple(start) for start in STARTS.made], STARTS.matrix_ran
    elif STARTS.too_many:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes over what a worker of pytest-xdist counted."""
    told = getattr(node, "workeroutput", {})
    STARTS.made.extend(Start(*start) for start in told.get("starts", ()))
    STARTS.matrix_ran = STARTS.matrix_ran or told.get("matrix_ran", False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not STARTS.made:
        return
    whole = sum(start.seconds or 0 for start in STARTS.made)
    terminalreporter.section(f"{len(STARTS.made)} server starts, {whole:.0f} s until they were ready")
    for start in sorted(STARTS.made, key=lambda start: -(start.seconds or 0)):
        took = "refused" if start.seconds is None else f"{start.seconds:.0f} s"
        terminalreporter.write_line(f"{took:>8} {start.test}  {start.flags}"[:118])
    if STARTS.too_many:
        terminalreporter.write_line(
            f"without the matrix at most {MAX_STARTS} servers may be started: share one, or mark the test `matrix`",
            red=True,
        )
