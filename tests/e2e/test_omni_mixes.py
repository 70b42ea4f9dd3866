"""Random mixes of requests with media, several at once, some given up: each answer is that of the request alone.

Nothing of them stays behind: no slot, no page, no file, no memory.
"""

from __future__ import annotations

import random

import pytest
from omni_requests import Said, Shelf, Wish, difference, draw_wish, holdings, tell, tell_together
from serving import LEAK_S, OMNI, running

from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.parity.client import Client
from support.waiting import eventually

# of 20 mixes and of the whole matrix; a failure tells which seed it was
FEW, MANY = range(20), range(1000, 1200)
# answers in which two tokens stood too close for a float32 sum in another order; more than these are a fault
MAX_TIES = 0.02
# what 100 more mixes of the same files may add to the memory of a process
MAX_GROWTH = 64 << 20
MAX_NEW_DESCRIPTORS = 8


def draw_mix(seed: int) -> list[Wish]:
    draw = random.Random(seed)
    return [draw_wish(draw, Shelf(seed // 20 % 5)) for _ in range(draw.randint(1, 5))]


def run_mix(url: str, seed: int) -> tuple[int, int, list[str]]:
    """(answers compared, ties among them, a line for each that differs)."""
    wishes = draw_mix(seed)
    draw = random.Random(-seed)
    if draw.random() < 0.3:
        Client(url).flush()
    # half of the time the caches know what is asked for from the request alone
    together: list[list[Said] | None] = [] if draw.random() < 0.5 else tell_together(url, wishes)
    alone = [tell(url, Wish(w.messages, w.options, max_tokens=w.max_tokens)) for w in wishes if not _leaves(w)]
    together = together or tell_together(url, wishes)
    compared, ties, wrong = 0, 0, []
    answers = iter(alone)
    for number, (wish, said) in enumerate(zip(wishes, together, strict=True)):
        if _leaves(wish):
            continue
        answer = next(answers)
        assert said is not None and answer is not None
        problem, tied = difference(wish, said, answer[0])
        compared, ties = compared + 1, ties + tied
        if problem is not None:
            wrong.append(f"seed {seed}, request {number} ({wish}): {problem}")
    return compared, ties, wrong


def _leaves(wish: Wish) -> bool:
    return wish.quit_after is not None or wish.hang_up


def run_mixes(server: ServerProcess, seeds: range) -> None:
    compared, ties, wrong = 0, 0, []
    for seed in seeds:
        try:
            of_one = run_mix(server.url, seed)
        except Exception as error:
            error.add_note(f"the mix of seed {seed}:\n" + "\n".join(map(str, draw_mix(seed))))
            raise
        compared, ties, wrong = compared + of_one[0], ties + of_one[1], wrong + of_one[2]
    asked = sum(len(draw_mix(seed)) for seed in seeds)
    print(f"mixes {seeds}: {asked} requests, {compared} answers compared, {ties} ties")
    assert wrong == [], "\n".join(wrong)
    assert compared > len(seeds) and ties <= max(1, MAX_TIES * compared), (compared, ties)
    assert server.returncode is None


def settle(server: ServerProcess) -> None:
    """Until what clients gave up is cleared away as well."""
    assert eventually(lambda: running(server.url) == 0)
    eventually(lambda: holdings(server).left == (), net_s=LEAK_S)


@pytest.mark.server(OMNI)
def test_twenty_mixes(server: ServerProcess) -> None:
    run_mixes(server, FEW)
    settle(server)
    assert holdings(server).left == ()


@pytest.mark.server(OMNI)
@pytest.mark.matrix
def test_two_hundred_mixes(server: ServerProcess) -> None:
    middle = len(MANY) // 2
    run_mixes(server, MANY[:middle])
    settle(server)
    after_half = holdings(server)
    run_mixes(server, MANY[middle:])
    settle(server)
    after_all = holdings(server)
    print(f"after {middle} mixes: {after_half}\nafter {len(MANY)} mixes: {after_all}")
    assert after_all.left == ()
    grown = {name: size - after_half.private[name] for name, size in after_all.private.items()}
    assert max(grown.values()) <= MAX_GROWTH, grown
    opened = {name: number - after_half.descriptors[name] for name, number in after_all.descriptors.items()}
    assert max(opened.values()) <= MAX_NEW_DESCRIPTORS, opened
    assert "Traceback" not in server.log_text(), server.log_tail(60)


def test_a_difference_is_seen() -> None:
    wish = Wish([], max_tokens=2)
    alone = Said(("a", "b"), (-1.0, -2.0), (0.5, 0.5), "ab")
    assert difference(wish, [alone], alone) == (None, False)
    assert difference(wish, [alone, alone], alone)[0] == "2 choices instead of 1"
    for said, problem in (
        (Said(("a",), (-1.0,), (0.5,), "a"), "1 tokens"),
        (Said(("a", "c"), (-1.0, -2.0), (0.5, 0.5), "ac"), "token 2 is 'c', alone 'b'"),
        (Said(("a", "b"), (-1.0, -2.001), (0.5, 0.5), "ab"), "logprobs differ by 1.0e-03"),
        (Said(("a", "b"), (-1.0, float("nan")), (0.5, 0.5), "ab"), "logprobs differ by nan"),
        (Said(("a", "b"), (-1.0, -2.0), (0.5, 0.5), "a"), "the text is 'a'"),
    ):
        assert problem in str(difference(wish, [said], alone)[0])
    close = Said(("a", "b"), (-1.0, -2.0), (0.5, 1e-6), "ab")
    assert difference(wish, [Said(("a", "c"), (-1.0, -2.0), (0.5, 0.5), "ac")], close) == (None, True)
