"""Ours around methods of SGLang's classes: put there once each, and proved to be there.

A table has a row (class, method, function from SGLang's method to ours) for each; a mark says whose wrapper it is, as
several rooms wrap the same method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Wrapped = tuple[type, str, Callable[[Callable[..., Any]], Callable[..., Any]]]


def wrap_once(table: tuple[Wrapped, ...], mark: str) -> None:
    """Puts ours around each method that lacks the mark; AttributeError for a method that its class does not define.

    Wrappers are made with functools.wraps, which copies marks outwards: a wrapper around ours has ours too.
    """
    for owner, name, wrap in table:
        method = owner.__dict__.get(name)
        if method is None:
            raise AttributeError(f"SGLang's {owner.__name__} has no {name} of its own")
        if not getattr(method, mark, False):
            wrapped = wrap(method)
            setattr(wrapped, mark, True)
            setattr(owner, name, wrapped)


def first_unwrapped(table: tuple[Wrapped, ...], mark: str) -> str | None:
    """The first "Class.method" that ours is not around, or None."""
    for owner, name, _ in table:
        if not getattr(getattr(owner, name, None), mark, False):
            return f"{owner.__name__}.{name}"
    return None
