"""The leak check that follows every test with a server sees a lost slot and a lock that is never released."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.parity.client import Client, ServerError
from sglang_nemotron.parity.prompts import make_prompt
from support.faults import Fault, plant
from support.serving import Served, Servers, Usage, usage

# each plant acts once its file is there, so that the server starts sound
_LOST_SLOT = """
import os
_free = MambaSlotAllocator.free
def _leaky(self, free_index):
    if os.path.exists({trigger!r}) and free_index.numel():
        free_index = free_index[1:]
    return _free(self, free_index)
MambaSlotAllocator.free = _leaky
"""
_LOST_LOCK = """
import os
_dec_lock_ref = UnifiedRadixCache.dec_lock_ref
def _leaky(self, node_id, params, *args, **kwargs):
    if os.path.exists({trigger!r}):
        return DecLockRefResult()
    return _dec_lock_ref(self, node_id, params, *args, **kwargs)
UnifiedRadixCache.dec_lock_ref = _leaky
"""


def test_any_difference_is_a_leak():
    start = Usage(requests=0, tokens_used=0, slots_used=0, tokens=1000, slots=64)
    assert start.leaks(start) is None
    for field in ("requests", "tokens_used", "slots_used", "tokens", "slots"):
        changed = Usage(**{**vars(start), field: getattr(start, field) + 1})
        assert str(changed) in (changed.leaks(start) or "")


@pytest.mark.server
def test_an_idle_server_holds_nothing(server: ServerProcess):
    prompt = make_prompt(100, 2048, seed=0)
    Client(server.url, new_tokens=2).ask(prompt, None)
    now = usage(server)
    assert (now.requests, now.slots_used, now.tokens_used) == (0, 0, 0)
    assert now.slots > 8 and now.tokens > 4096


# a decoding request holds a lock of its KV entries alone, unless SGLang's flags bring that of its state back
@pytest.mark.server
@pytest.mark.matrix
@pytest.mark.parametrize(
    ("module", "code", "seen"),
    [
        ("sglang.srt.mem_cache.allocator.mamba", _LOST_SLOT, "no longer answers.*memory leak detected"),
        ("sglang.srt.mem_cache.unified_radix_cache", _LOST_LOCK, "idle, has .*(tokens|slots)_used=[1-9]"),
    ],
    ids=["slot", "lock"],
)
def test_a_planted_leak_is_seen(module: str, code: str, seen: str, servers: Servers, tmp_path: Path):
    trigger = tmp_path / "leak"
    env = plant(tmp_path / "faults", Fault(module, after=code.format(trigger=str(trigger))))
    served = Served(args=("--dtype", "float32"), env=tuple(env.items()))
    client = Client(servers.get(served).url, new_tokens=4)
    client.ask(make_prompt(100, 2048, seed=0), None)
    servers.check_leaks(served)
    trigger.touch()
    # SGLang may end the server before the answer is out
    with suppress(ServerError):
        client.ask(make_prompt(100, 2048, seed=1), None)
    with pytest.raises(AssertionError, match=f"(?s){seen}"):
        servers.check_leaks(served)
