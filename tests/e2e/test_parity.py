"""The server equals transformers in float32, in every mode: alone, together, from the prefix cache, after trouble."""

from __future__ import annotations

import re

import pytest

from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.parity import modes
from sglang_nemotron.parity.client import Client
from sglang_nemotron.parity.prompts import make_prompt, make_prompts
from support.parity_checks import (
    BY_HAND,
    NO_BUFFER_FLAGS,
    PREFILL_CHUNK,
    PRESSED_FLAGS,
    PRESSED_TP2,
    VOCAB_SIZE,
    assert_equal,
    boundary_prompts,
    no_tick,
    reference,
)
from support.serving import MAIN, Served, Servers, running
from support.streams import streams
from support.waiting import eventually

FLOAT32 = ("--dtype", "float32")
PRESSED = Served(args=(*FLOAT32, *PRESSED_FLAGS))
NO_BUFFER = Served(args=(*FLOAT32, *NO_BUFFER_FLAGS, "--chunked-prefill-size", str(PREFILL_CHUNK)))
TWO_TRACKED = Served(args=(*FLOAT32, "--mamba-radix-cache-strategy", "extra_buffer", *PRESSED_FLAGS))
NO_OVERLAP = Served(
    args=(
        *FLOAT32,
        *("--mamba-radix-cache-strategy", "extra_buffer", "--disable-overlap-schedule"),
        *("--chunked-prefill-size", str(PREFILL_CHUNK)),
    )
)
TP2 = Served(args=(*FLOAT32, "--tp", "2"), env=BY_HAND)
# more ranks than groups and KV heads of the tiny checkpoint, which has two of each
TP4 = Served(args=(*FLOAT32, "--tp", "4"), env=BY_HAND)
PP2 = Served(args=(*FLOAT32, "--pp-size", "2"), env=BY_HAND)
# two engines behind one address, of which each has a cache of its own
DP2 = Served(args=(*FLOAT32, "--dp-size", "2"))
NO_RADIX = Served(args=(*FLOAT32, "--disable-radix-cache", "--chunked-prefill-size", str(PREFILL_CHUNK)))
TRUSTING = Served(args=(*FLOAT32, "--trust-remote-code"))

BUFFERS = [
    pytest.param(MAIN, id="default", marks=pytest.mark.server(MAIN)),
    pytest.param(NO_BUFFER, id="no_buffer without overlap", marks=[pytest.mark.server(NO_BUFFER), pytest.mark.matrix]),
]
TOGETHER = pytest.param(
    PRESSED_TP2, id="TP=2, chunked prefill, no_buffer without overlap", marks=pytest.mark.server(PRESSED_TP2)
)
APART = [
    pytest.param(PRESSED, id="chunked prefill", marks=[pytest.mark.server(PRESSED), pytest.mark.matrix]),
    pytest.param(TP2, id="TP=2", marks=[pytest.mark.server(TP2), pytest.mark.matrix]),
    pytest.param(TP4, id="TP=4", marks=[pytest.mark.server(TP4), pytest.mark.matrix]),
]
SHARED_OUT = [
    pytest.param(PP2, id="PP=2", marks=[pytest.mark.server(PP2), pytest.mark.matrix]),
    pytest.param(DP2, id="DP=2", marks=[pytest.mark.server(DP2), pytest.mark.matrix]),
]
MATRIX = [
    *BUFFERS,
    *APART,
    pytest.param(TWO_TRACKED, id="extra_buffer and chunked prefill", marks=[pytest.mark.server(TWO_TRACKED)]),
    pytest.param(NO_OVERLAP, id="extra_buffer without overlap", marks=[pytest.mark.server(NO_OVERLAP)]),
    pytest.param(NO_RADIX, id="no radix cache", marks=[pytest.mark.server(NO_RADIX)]),
]


@pytest.fixture
def client(server: ServerProcess) -> Client:
    return Client(server.url)


def _golden(servers: Servers, served: Served):
    return reference(servers.checkpoint(served.checkpoint))


@pytest.mark.parametrize("served", [*BUFFERS, TOGETHER, *APART, *SHARED_OUT])
def test_alone_and_together(served: Served, client: Client, servers: Servers):
    prompts = boundary_prompts(full=False)
    golden = _golden(servers, served)
    assert_equal("alone", modes.alone(client, prompts, no_tick), golden, tolerance=2e-5)
    assert_equal("10 at once", modes.concurrent(client, prompts, no_tick), golden, tolerance=2e-5)


@pytest.mark.parametrize("served", BUFFERS + APART)
def test_from_the_prefix_cache(served: Served, client: Client, servers: Servers):
    answers = modes.radix(client, boundary_prompts(full=False), VOCAB_SIZE, no_tick)
    cached = {answer.cached for answer in answers}
    # no_buffer keeps the state at the end of a prompt, extra_buffer at multiples of the SSM chunk
    expected = {3, 4, 5, 15, 16, 17, 63, 64, 65, 300, 600} if served is NO_BUFFER else {16, 48, 64, 288, 592}
    assert expected <= cached, sorted(cached)
    assert_equal("prefix cache", answers, _golden(servers, served), tolerance=2e-5)


@pytest.mark.parametrize("served", BUFFERS)
def test_hits_of_every_length(served: Served, server: ServerProcess, servers: Servers):
    """Every prompt length up to 70 is left in the cache and continued; four tokens each, all logprobs compared."""
    client = Client(server.url, new_tokens=4)
    client.flush()
    answers = []
    for length in range(1, 71):
        prompt = make_prompt(length, VOCAB_SIZE, seed=length)
        client.ask(prompt, None)
        answers.append(client.ask([*prompt, *make_prompt(5, VOCAB_SIZE, seed=-length)], length))
    lengths = [answer.cached for answer in answers]
    assert lengths == [n if served is NO_BUFFER else n // 16 * 16 for n in range(1, 71)]
    assert_equal("every hit", answers, _golden(servers, served), tolerance=2e-5)


@pytest.mark.server
def test_beside_and_after_aborted_streams(client: Client, servers: Servers, server: ServerProcess):
    """Three clients hang up in mid-stream while others are being answered; those and later ones are not disturbed."""
    prompts = boundary_prompts(full=False, seed=1)[-10:]
    golden = _golden(servers, MAIN)
    client.flush()
    with streams(server.url, 3) as first_pieces:
        assert len(first_pieces) == 3
        beside = client.ask_together(prompts[:6])
        assert eventually(lambda: running(server.url) == 3), "the streams ended by themselves: nothing was aborted"
    assert eventually(lambda: running(server.url) == 0), "the aborted requests still run"
    assert_equal("beside the streams", beside, golden, tolerance=2e-5)
    assert_equal("after the aborts", modes.concurrent(client, prompts, no_tick), golden, tolerance=2e-5)


@pytest.mark.parametrize("served", [TOGETHER, APART[0]])
def test_after_retraction_under_memory_pressure(served: Served, server: ServerProcess, servers: Servers):
    """Sixteen answers need twice the cache: some are thrown out, computed again, and still equal."""
    # SGLang reserves room for the whole answer of a request that ignores end tokens, and would never have to retract
    client = Client(server.url, new_tokens=96, ignore_eos=False)
    client.flush()
    before = server.log_text().count("Retract")
    prompts = make_prompts(range(50, 82, 2), VOCAB_SIZE, seed=2)
    answers = client.ask_together(prompts)
    retracted = server.log_text().count("Retract") - before
    assert retracted > 0, "the cache was large enough after all"
    assert_equal("retraction", answers, _golden(servers, served), tolerance=2e-5)


@pytest.mark.server
def test_float32_keeps_float32_state_by_itself(server: ServerProcess):
    """The checkpoint is bfloat16; `--dtype float32` alone gives float32 pools, and the log says so once."""
    pools = re.findall(r"state pools: (.*?); ", server.log_text())
    assert pools == ["conv torch.float32, ssm torch.float32, kv torch.float32"]


@pytest.mark.matrix
@pytest.mark.parametrize("served", MATRIX)
def test_every_boundary(served: Served, client: Client, servers: Servers):
    prompts = boundary_prompts(full=True, seed=3)
    golden = _golden(servers, served)
    assert_equal("alone", modes.alone(client, prompts, no_tick), golden, tolerance=2e-5)
    assert_equal("10 at once", modes.concurrent(client, prompts, no_tick), golden, tolerance=2e-5)
    assert_equal("prefix cache", modes.radix(client, prompts, VOCAB_SIZE, no_tick), golden, tolerance=2e-5)


@pytest.mark.matrix
@pytest.mark.server(TRUSTING)
def test_trust_remote_code_changes_nothing(client: Client, servers: Servers, server: ServerProcess):
    prompts = boundary_prompts(full=False)
    trusting = modes.alone(client, prompts, no_tick)
    assert "state pools:" in server.log_text()
    plain = modes.alone(Client(servers.get(MAIN).url), prompts, no_tick)
    assert trusting == plain
