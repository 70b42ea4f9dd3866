"""Every bad request that the tests know, as requests of a soak that must be refused."""

from __future__ import annotations

from functools import cache

from e2e.test_bad_input import BAD as BAD_TEXT
from e2e.test_omni_bad_input import BAD as BAD_MEDIA
from soak.asks import GENERATE, Ask

# these say that a text model takes no media, or count on the context of the tests' own server
NOT_OMNI = ("image", "ids beyond the context")


@cache
def bad_asks(omni: bool, context: int) -> dict[str, Ask]:
    """By name."""
    found = {
        name: Ask("bad", path, body, fate="refused")
        for name, ((path, body), _) in BAD_TEXT.items()
        if not (omni and name in NOT_OMNI)
    }
    ids = {"input_ids": [1001] * (context + 1), "sampling_params": {"max_new_tokens": 2}}
    found["more ids than the context"] = Ask("bad", GENERATE, ids, fate="refused")
    if omni:
        for name, (make, _) in BAD_MEDIA.items():
            path, body = make()
            found[f"media: {name}"] = Ask("bad media", path, body, fate="refused", media=True)
    return found
