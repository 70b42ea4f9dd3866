"""A short soak of a real server into which two leaks were put: both are found, and nothing else is.

One state slot of a thousand requests, and 100 KB of each. SGLang's own check of an idle server would end it at the
first lost slot; it is switched off here, so that the readings must show it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.server import ServerProcess
from soak.asks import Place
from soak.hostile import bad_asks
from soak.report import report
from soak.run import Soak, Target
from soak.servers import CONTEXT, ENVIRONMENT, FLAGS
from soak.traffic import script
from support.faults import Fault, plant
from support.omni_requests import TOLERANCE
from support.serving import Servers
from support.waiting import NET_S

REQUESTS = 1500
_LOST_SLOT = """
_free_group, _requests = MambaSlotAllocator.free, 0
def _leaky(self, free_index):
    global _requests
    _requests += 1
    if _requests % 1000 == 0:
        free_index = free_index[1:]
    return _free_group(self, free_index)
MambaSlotAllocator.free = _leaky
"""
_KEPT_MEMORY = """
_generate, _kept = TokenizerManager.generate_request, []
def _leaky(self, *args, **kwargs):
    _kept.append(b"x" * 100_000)
    return _generate(self, *args, **kwargs)
TokenizerManager.generate_request = _leaky
"""


@pytest.mark.server
@pytest.mark.matrix
def test_planted_leaks_of_a_real_server_are_found(servers: Servers, tmp_path: Path) -> None:
    env = plant(
        tmp_path / "faults",
        Fault("sglang.srt.mem_cache.allocator.mamba", after=_LOST_SLOT),
        Fault("sglang.srt.managers.tokenizer_manager", after=_KEPT_MEMORY),
    )
    spec = PRESETS["tiny"]
    server = ServerProcess(
        servers.checkpoint(spec),
        FLAGS["text"],
        log_path=servers.log_path(),
        env={**ENVIRONMENT, **env, "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "0"},
        time_limit_s=NET_S,
    )
    with server:
        place = Place(CONTEXT["text"], spec.vocab_size, False, bad=bad_asks(False, CONTEXT["text"]))
        target = Target(server.url, server.pid, None, lambda: server.returncode)
        soak = Soak(target, script(7, place), tolerance=TOLERANCE, say=print)
        found = report(soak.run(requests=REQUESTS), slowest_s=NET_S)
    print("\n".join(found["problems"]))
    verdicts = {role: one["verdict"] for role, one in found["memory"]["roles"].items()}
    assert verdicts["http"] == "leaks" and verdicts["scheduler"] == verdicts["detokenizer"] == "flat", verdicts
    # what they are must not hide anything else, nor make up what is not there
    lost = [problem for problem in found["problems"] if problem.startswith("slots_used")]
    grown = [problem for problem in found["problems"] if problem.startswith("http: +")]
    assert len(lost) == len(grown) == 1 and len(found["problems"]) == 2, found["problems"]
    assert found["compared"]["wrong"] == 0 and found["compared"]["asked again alone"] > 0
