"""A report passes only if nothing was wrong, and says each thing that was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from soak.compare import Verdict
from soak.player import Record
from soak.report import report
from soak.run import Seen
from soak.test_judge import changed, sound


def seen() -> Seen:
    """Of a soak in which nothing was wrong."""
    records = [Record("chat", 200, 0.5), Record("endless", None, 900.0), Record("bad", 400, 0.1)] * 100
    return Seen(1800.0, records, readings=sound(), num_checked=400, verdicts=[("chat", Verdict(apart=1e-6))] * 40)


def problems(one: Seen) -> list[str]:
    found = report(one, slowest_s=60.0)
    assert found["passed"] == (not found["problems"])
    return found["problems"]


def test_a_sound_soak_passes() -> None:
    found = report(seen(), slowest_s=60.0)
    assert found["passed"] and found["compared"]["wrong"] == 0
    assert found["kinds"]["bad"]["statuses"] == {"400": 100} and found["kinds"]["endless"]["statuses"] == {"left": 100}
    assert found["memory"]["roles"]["http"]["verdict"] == "flat"
    columns = found["series"]
    assert len(columns["seconds"]) == len(columns["requests"]) == len(columns["private MB"]["http"])
    assert columns["seconds"] == sorted(columns["seconds"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ended": "the server ended with exit code -9"}, "exit code -9"),
        ({"faults": ["weights busy 400: no"]}, "weights busy 400: no"),
        ({"records": [Record("chat", 500, 0.1, "500 oh")]}, "chat: 500 oh"),
        ({"records": [Record("chat", 200, 61.0)]}, "chat took 61.0 s, more than 60 s"),
        ({"verdicts": [("n", Verdict("token 3 is"))]}, "wrong: n: token 3 is"),
        ({"verdicts": [("n", Verdict(tied=True))] * 2}, "2 of 2 answers have a tie"),
        ({"verdicts": []}, "no answer was compared"),
        ({"readings": sound()[:4]}, "too few readings"),
        (
            {"readings": changed(sound(), "http", lambda one, done: replace(one, private=10**9 + 10**5 * done))},
            "http: +100,000",
        ),
    ],
)
def test_each_fault_fails_it(change: dict[str, object], words: str) -> None:
    found = problems(replace(seen(), **change))
    assert any(words in problem for problem in found), found
