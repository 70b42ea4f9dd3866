"""A server of two ranks, of which one comes late: both say where they stand still, and then the start goes on."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.host.start_watch import WATCH_SECONDS
from support.serving import Servers, post
from support.waiting import NET_S, eventually

pytestmark = [pytest.mark.server, pytest.mark.matrix]

# the tree that is tested may be on the path of this process alone
PATH = os.pathsep.join(filter(None, (str(Path(__file__).with_name("late_rank")), os.environ.get("PYTHONPATH"))))


def test_a_rank_that_comes_late_is_waited_for_out_loud(servers: Servers, tmp_path: Path) -> None:
    come = tmp_path / "come"
    server = ServerProcess(
        servers.checkpoint(PRESETS["toy"]),
        ["--tp", "2"],
        log_path=servers.log_path(),
        env={"PYTHONPATH": PATH, "LATE_RANK_FILE": str(come), "OMP_WAIT_POLICY": None, WATCH_SECONDS: "1.2"},
        time_limit_s=NET_S,
    )

    def said(rank: int, what: str) -> list[str]:
        start = f"rank TP{rank} PP0 of 2 x 1 {what}"
        return [line for line in server.log_text().splitlines() if start in line]

    waiting = threading.Thread(target=server.start)
    waiting.start()
    try:
        # an earlier step may have been slow as well
        assert eventually(
            lambda: (
                not waiting.is_alive()
                or bool(said(1, "stands still"))
                and any("waits for the other ranks in" in line for line in said(0, "stands still"))
            )
        )
        assert waiting.is_alive(), "the start did not wait: " + server.log_tail()
        assert all("sglang/srt/" in line for line in (*said(0, "stands still"), *said(1, "stands still")))
        come.touch()
        waiting.join(NET_S)
        assert not waiting.is_alive() and server.returncode is None
        assert said(0, "goes on with its start") and said(1, "goes on with its start")
        status, text = post(server.url, "/generate", {"input_ids": [3, 4], "sampling_params": {"max_new_tokens": 2}})
        assert status == 200, text
    finally:
        come.touch()
        waiting.join(NET_S)
        server.stop()
