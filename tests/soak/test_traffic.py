"""A seed gives one script; a script has everything that a soak is to have, in every length."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from soak.asks import Ask, Chore, Place, Rest, Step
from soak.hostile import bad_asks
from soak.traffic import script

TEXT = Place(4096, 2048, False, bad={"one": Ask("bad", "/x", b"{", fate="refused")})


def steps(place: Place, seed: int, count: int) -> list[Step]:
    return list(islice(script(seed, place), count))


def said(step: Step) -> tuple[Any, ...]:
    """A step as plain values."""
    does = step.does
    if isinstance(does, Ask):
        return step.pause, does.kind, does.path, str(does.body), does.manner, does.after, does.fate, does.checked
    return step.pause, str(does)


def test_a_seed_is_a_script() -> None:
    first, again, other = (list(map(said, steps(TEXT, seed, 300))) for seed in (1, 1, 2))
    assert first == again != other


def test_everything_is_in_it() -> None:
    made = steps(TEXT, 1, 4000)
    asks = [step.does for step in made if isinstance(step.does, Ask)]
    kinds = Counter(ask.kind for ask in asks)
    # what a soak of text is to have, by the words of its report
    assert set(kinds) == {
        *("chat", "lengths", "branches", "n", "tools", "schemas", "budgets", "sampled", "other endpoints"),
        *("read slowly", "hung up", "given up", "aborted", "endless", "half a body", "bad"),
    }
    assert {step.wave for step in made} == {"burst", "steady", "trickle"}
    chores = [chore.what for step in made if isinstance(step.does, Rest) for chore in step.does.chores]
    chores += [step.does.what for step in made if isinstance(step.does, Chore)]
    assert {"flush", "weights"} == set(chores)
    # whoever waits for an answer and cannot compare it is in the minority
    assert sum(ask.checked for ask in asks) > len(asks) / 2


def test_lengths_go_from_one_token_to_the_context() -> None:
    asks = [step.does for step in steps(TEXT, 3, 6000) if isinstance(step.does, Ask) and step.does.kind == "lengths"]
    bodies = [ask.body for ask in asks if not isinstance(ask.body, bytes)]
    lengths = [len(body["input_ids"]) for body in bodies]
    whole = [len(body["input_ids"]) + body["sampling_params"]["max_new_tokens"] for body in bodies]
    # SGLang keeps some places of the context free
    assert min(lengths) == 1 and max(lengths) == TEXT.context - 7 and max(whole) == TEXT.context - 1
    ids = [one for body in bodies for one in body["input_ids"]]
    assert min(ids) >= 1000 and max(ids) < TEXT.top_id


def test_branches_share_beginnings() -> None:
    asks = [step.does for step in steps(TEXT, 4, 3000) if isinstance(step.does, Ask) and step.does.kind == "branches"]
    begins = Counter(tuple(ask.body["input_ids"][:15]) for ask in asks if not isinstance(ask.body, bytes))
    assert len(asks) > 100 and len(begins) == 6


@pytest.mark.parametrize("omni", [False, True])
def test_every_bad_request_of_the_tests_comes(omni: bool) -> None:
    from e2e.test_bad_input import BAD as BAD_TEXT
    from e2e.test_omni_bad_input import BAD as BAD_MEDIA

    bad = bad_asks(omni, 4096)
    assert len(bad) >= len(BAD_TEXT) - 1 + omni * len(BAD_MEDIA)
    place = Place(4096, 2048, omni, bad=bad)
    asked = {id(step.does) for step in steps(place, 5, 9000)}
    assert {name for name, ask in bad.items() if id(ask) not in asked} == set()
    assert {ask.fate for ask in bad.values()} == {"refused"}


def test_omni_has_media_of_every_kind() -> None:
    asks = [step.does for step in steps(Place(8192, 2048, True, bad=TEXT.bad), 6, 900) if isinstance(step.does, Ask)]
    media = [str(ask.body) for ask in asks if ask.kind == "media"]
    for kind in ("image_url", "video_url", "audio_url", "input_audio"):
        assert any(kind in body for body in media), kind
    assert {"media, given up", "media, hung up"} <= {ask.kind for ask in asks}
