"""Ours around functions and methods of SGLang's: put there once each, and proved to be there.

Nothing else in this package sets an attribute of somebody else's module or class. A mark says whose wrapper it is, as
several rows wrap the same method.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Around = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Wrap:
    """`owner.name` in `module`, and the function that makes ours of it.

    owner: a class, or "" for a function of the module. takes: the parameters that ours hands on or looks at by place;
    what follows them it passes through. inherited: the class has the method from a base, and gets one of
    its own. held_by: other modules that import the function by name; each that is there gets ours too.
    """

    module: str
    owner: str
    name: str
    around: Around
    takes: tuple[str, ...] = ()
    inherited: bool = False
    held_by: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.owner or self.module}.{self.name}"

    def places(self) -> list[Any]:
        """The modules or the class that hold it; imports the first."""
        module = importlib.import_module(self.module)
        if self.owner:
            return [getattr(module, self.owner)]
        return [module, *(sys.modules[name] for name in self.held_by if name in sys.modules)]


def wrap_once(wraps: tuple[Wrap, ...], mark: str) -> None:
    """Puts ours around each that lacks the mark; AttributeError for a method that its class does not define.

    Wrappers are made with functools.wraps, which copies marks outwards: a wrapper around ours has ours too.
    """
    for wrap in wraps:
        first, *others = wrap.places()
        method = getattr(first, wrap.name, None) if wrap.inherited else vars(first).get(wrap.name)
        if method is None:
            raise AttributeError(f"SGLang's {wrap.owner or wrap.module} has no {wrap.name} of its own")
        if not getattr(method, mark, False):
            method = wrap.around(method)
            setattr(method, mark, True)
            setattr(first, wrap.name, method)
        for other in others:
            if not getattr(getattr(other, wrap.name, None), mark, False):
                setattr(other, wrap.name, method)


def first_unwrapped(wraps: tuple[Wrap, ...], mark: str) -> str | None:
    """The label of the first that ours is not around, or None."""
    for wrap in wraps:
        for place in wrap.places():
            if not getattr(getattr(place, wrap.name, None), mark, False):
                return wrap.label
    return None


def rebind(owner: Any, name: str, value: Any) -> None:
    """Sets a table or a method that is no function to wrap; the row that does so proves it."""
    setattr(owner, name, value)
