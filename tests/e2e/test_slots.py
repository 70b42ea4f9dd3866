"""State slots on real servers: bytes as computed, requests that wait for slots, hits while every slot is taken.

Every server is compared with transformers in float32; after every test all slots and pages are back.
"""

from __future__ import annotations

import re
import threading

import pytest

from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.parity.client import Answer, Client
from sglang_nemotron.parity.prompts import make_prompt
from sglang_nemotron.state.capacity import Pools, slots_per_request
from sglang_nemotron.state.layout import StateLayout, state_layout
from support.parity_checks import VOCAB_SIZE, assert_equal, reference
from support.serving import MAIN, OMNI, Served, Servers, json_of, running
from support.streams import streams
from support.waiting import eventually

SKIP = "SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK"
FLOAT32 = ("--dtype", "float32")
# states are kept every 16 tokens of an answer too, and prompts come in pieces
_OFTEN = ("--mamba-track-interval", "16", "--chunked-prefill-size", "64")


def few(slots: int, *flags: str, skip: str | None = None) -> Served:
    args = (*FLOAT32, *_OFTEN, "--max-mamba-cache-size", str(slots), *flags)
    return Served(args=args, env=((SKIP, skip),))


def strategy(name: str) -> tuple[str, str]:
    return ("--mamba-radix-cache-strategy", name)


# three requests at once on each, and no slot to spare
FEW = few(9)
LOCKED = few(12, *strategy("extra_buffer_lazy"), skip="0")
TWO_TRACKED = few(15, *strategy("extra_buffer"))
NO_BUFFER = few(9, *strategy("no_buffer"), "--disable-overlap-schedule")
ONE_TRACKED = few(12, *strategy("extra_buffer"), "--disable-overlap-schedule")
NO_RADIX = few(3, "--disable-radix-cache")
TP2 = few(9, "--tp", "2")
PAGED = few(9, "--page-size", "16")
MIXED = few(9, "--enable-mixed-chunk")
STAGES = few(30, "--pp-size", "2")
HALF = Served(args=("--dtype", "bfloat16", "--mamba-ssm-dtype", "float16", "--max-mamba-cache-size", "500"))

# (server, slots a request by its flags)
BY_STRATEGY = [
    (FEW, slots_per_request("extra_buffer_lazy", skip_decode_lock=True)),
    (LOCKED, slots_per_request("extra_buffer_lazy")),
    (TWO_TRACKED, slots_per_request("extra_buffer")),
    (NO_BUFFER, slots_per_request("no_buffer", overlap=False)),
    (ONE_TRACKED, slots_per_request("extra_buffer", overlap=False)),
    (NO_RADIX, slots_per_request(None)),
    (TP2, slots_per_request("extra_buffer_lazy", skip_decode_lock=True)),
    (PAGED, slots_per_request("extra_buffer_lazy", skip_decode_lock=True)),
    (MIXED, slots_per_request("extra_buffer_lazy", skip_decode_lock=True)),
]


def _param(served: Served, *values: object):
    marks = [pytest.mark.server(served)]
    if served not in (FEW, MAIN, OMNI):
        marks.append(pytest.mark.matrix)
    return pytest.param(served, *values, marks=marks, id=" ".join(served.args[2:]) or "main")


# the last prints sizes in GB of two digits that are not all zero
SIZED = [_param(served) for served in (MAIN, OMNI, HALF, *(served for served, _ in BY_STRATEGY))]
CROWDED = [_param(served, slots) for served, slots in BY_STRATEGY]


@pytest.fixture
def client(server: ServerProcess) -> Client:
    return Client(server.url, new_tokens=40)


# ---- bytes


def _layout(served: Served, servers: Servers) -> StateLayout:
    half = served is HALF
    return state_layout(
        decoder_spec(json_of(servers.checkpoint(served.checkpoint) / "config.json")),
        tp_size=2 if served is TP2 else 1,
        conv_dtype="bfloat16" if half else "float32",
        ssm_dtype="float16" if half else "float32",
        kv_dtype="bfloat16" if half else "float32",
    )


@pytest.mark.parametrize("served", SIZED)
def test_what_is_allocated_is_what_was_computed(served: Served, server: ServerProcess, servers: Servers):
    """`PoolView` compares bytes in the scheduler and logs what it saw; SGLang's own lines say the same in GB."""
    Client(server.url, new_tokens=2).ask(make_prompt(5, VOCAB_SIZE, seed=0), None)
    log, layout = server.log_text(), _layout(served, servers)
    (slots,) = set(re.findall(r"max_mamba_cache_size: (\d+)", log))
    (tokens,) = set(re.findall(r"max_total_num_tokens=(\d+)", log))
    pools = Pools(int(slots), int(tokens), page_size=16 if served is PAGED else 1)
    seen = set(
        re.findall(r"state pools: .*?(\d+) slots .*? take ([\d.]+) GiB; (\d+) KV.* take ([\d.]+) GiB(.*?);", log)
    )
    ours = (str(pools.num_slots + 1), f"{pools.state_bytes(layout) / 2**30:.3f}", tokens)
    assert seen == {(*ours, f"{pools.kv_bytes(layout) / 2**30:.3f}", "")}
    conv, ssm = re.findall(r"conv_state size: ([\d.]+)GB, ssm_state size: ([\d.]+)GB", log)[0]
    allocated = pools.num_slots + 1
    assert conv == f"{allocated * layout.conv_bytes_per_slot / 2**30:.2f}"
    assert ssm == f"{allocated * layout.ssm_bytes_per_slot / 2**30:.2f}"
    keys, values = re.findall(r"KV Cache is allocated.*K size: ([\d.]+) GB, V size: ([\d.]+) GB", log)[0]
    assert keys == values == f"{pools.kv_bytes(layout) / 2 / 2**30:.2f}"


@pytest.mark.matrix
@pytest.mark.server(STAGES)
def test_a_pipeline_stage_keeps_states_of_its_own_layers(server: ServerProcess, client: Client, servers: Servers):
    prompts = [make_prompt(length, VOCAB_SIZE, seed=4) for length in (5, 70, 200)]
    golden = reference(servers.checkpoint(STAGES.checkpoint))
    assert_equal("two stages", client.ask_together(prompts), golden, tolerance=2e-5)
    kinds = re.findall(r"over (\d+) Mamba layers.*over (\d+) attention layers", server.log_text())
    layout = _layout(STAGES, servers)
    assert len(kinds) == 2
    assert sum(int(mamba) for mamba, _ in kinds) == len(layout.mamba_layers)
    assert sum(int(attention) for _, attention in kinds) == len(layout.attention_layers)


# ---- when slots run out


@pytest.mark.parametrize(("served", "slots_each"), CROWDED)
def test_requests_wait_when_slots_run_out(
    served: Served, slots_each: int, client: Client, server: ServerProcess, servers: Servers
):
    """Three run, whatever comes; clients that hang up in the middle or while they wait leave nothing behind."""
    client.flush()
    prompts = [make_prompt(length, VOCAB_SIZE, seed=3) for length in range(20, 160, 10)]
    with streams(server.url, 3) as first_pieces:
        assert len(first_pieces) == 3
        waiting: list[list[Answer]] = []
        asked = threading.Thread(target=lambda: waiting.append(client.ask_together(prompts)))
        asked.start()
        assert eventually(lambda: running(server.url) == 3 + len(prompts)), "some were refused"
    asked.join()
    assert eventually(lambda: running(server.url) == 0)
    golden = reference(servers.checkpoint(served.checkpoint))
    assert_equal("after the streams", waiting[0], golden, tolerance=2e-5)
    most = max(int(count) for count in re.findall(r"#running-req: (\d+)", server.log_text()))
    slots = int(re.findall(r"max_mamba_cache_size: (\d+)", server.log_text())[0])
    (cap,) = set(re.findall(r"max_running_requests=(\d+)", server.log_text()))
    assert most <= int(cap) == slots // slots_each == 3


@pytest.mark.parametrize(("served", "slots_each"), CROWDED)
def test_hits_while_every_slot_is_taken(served: Served, slots_each: int, client: Client, servers: Servers):
    """Three conversations go on at once: each holds its state, one to track, and the cached one it is matched with."""
    golden = reference(servers.checkpoint(served.checkpoint))
    for turn in range(3):
        client.flush()
        heads = [make_prompt(33 + 7 * turn + i, VOCAB_SIZE, seed=50 * turn + i) for i in range(3)]
        for _ in range(3):
            answers = client.ask_together(heads, None)
            assert_equal(f"turn {turn}", answers, golden, tolerance=2e-5)
            hits = [answer.cached for answer in answers]
            heads = [[*head, *answer.tokens, 1500] for head, answer in zip(heads, answers, strict=True)]
        # who comes late may find that its state had to make room for one who came early
        if served is not NO_RADIX:
            assert max(hits) > 64, hits


@pytest.mark.parametrize(("served", "slots_each"), CROWDED)
def test_branches_of_one_prefix_at_once(served: Served, slots_each: int, client: Client, servers: Servers):
    client.flush()
    trunk = make_prompt(100, VOCAB_SIZE, seed=9)
    branches = [trunk[: 100 - 7 * i] + make_prompt(20 + i, VOCAB_SIZE, seed=i) for i in range(12)]
    golden = reference(servers.checkpoint(served.checkpoint))
    client.ask(trunk, None)
    answers = client.ask_together(branches, None)
    assert_equal("branches", answers, golden, tolerance=2e-5)
    again = [client.ask(branch, None) for branch in branches]
    assert_equal("branches again", again, golden, tolerance=2e-5)
    if served is not NO_RADIX:
        assert any(answer.cached >= 16 for answer in answers + again)
