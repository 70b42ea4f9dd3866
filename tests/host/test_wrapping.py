"""Ours is around each method once, another's wrapper hides nothing, and a method that was replaced is named."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from sglang_nemotron.host import media, reply_http
from sglang_nemotron.host.wrapping import Wrapped, first_unwrapped, wrap_once


def _made() -> type:
    class Owner:
        def first(self) -> list[str]:
            return ["first"]

        def second(self) -> list[str]:
            return ["second"]

    return Owner


def _adding(word: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapped(self: Any) -> Any:
            return [word, *original(self)]

        return wrapped

    return wrap


def _table(owner: type, word: str) -> tuple[Wrapped, ...]:
    return (owner, "first", _adding(word)), (owner, "second", _adding(word))


def test_ours_is_put_there_once() -> None:
    owner = _made()
    table = _table(owner, "ours")
    assert first_unwrapped(table, "mark") == "Owner.first"
    for _ in range(3):
        wrap_once(table, "mark")
    assert (owner().first(), owner().second()) == (["ours", "first"], ["ours", "second"])
    assert first_unwrapped(table, "mark") is None


def test_two_tables_wrap_the_same_method_in_any_order() -> None:
    owner = _made()
    one, other = _table(owner, "one"), _table(owner, "other")
    for _ in range(2):
        wrap_once(one, "one")
        assert first_unwrapped(other, "other") in ("Owner.first", None)
        wrap_once(other, "other")
    assert owner().first() == ["other", "one", "first"]
    assert first_unwrapped(one, "one") is None and first_unwrapped(other, "other") is None


def test_a_method_that_somebody_replaced_is_named() -> None:
    owner = _made()
    table = _table(owner, "ours")
    wrap_once(table, "mark")
    owner.second = lambda self: ["theirs"]  # type: ignore[attr-defined]
    assert first_unwrapped(table, "mark") == "Owner.second"
    wrap_once(table, "mark")
    assert owner().second() == ["ours", "theirs"] and owner().first() == ["ours", "first"]
    del owner.second  # type: ignore[attr-defined]
    assert first_unwrapped(table, "mark") == "Owner.second"


def test_a_method_that_a_class_does_not_define_is_not_wrapped() -> None:
    class Child(_made()):
        pass

    with pytest.raises(AttributeError, match="SGLang's Child has no first of its own"):
        wrap_once(_table(Child, "ours"), "mark")


@pytest.mark.parametrize(
    ("module", "opened", "proof"),
    [
        (media, media.open_media, media.media_is_ours),
        (reply_http, reply_http.open_requests, reply_http.requests_are_ours),
    ],
    ids=["media", "replies"],
)
def test_each_row_is_proved(
    module: Any, opened: Callable[[], None], proof: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    assert proof() is None
    for owner, name, _ in module._WRAPPED:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda self: None)
            assert str(proof()).startswith(f"{owner.__name__}.{name} does not show ")
    assert proof() is None
