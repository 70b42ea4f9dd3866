"""Single values of a Hugging Face config: looked up under all their spellings, converted, or refused by name.

Comes in: a mapping or a config object. Goes out: plain Python values. It must never know what the decoder needs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

# the Omni checkpoints write "no upper bound" as 1e30
_UNBOUNDED = 1e30

ABSENT: Any = object()


class Fields:
    """Values by name from a mapping, a config object with `to_dict()`, or plain attributes."""

    def __init__(self, config: Mapping[str, Any] | object) -> None:
        self._class = None if isinstance(config, Mapping) else type(config)
        self._object = config
        self._values: Mapping[str, Any] | None = None
        if isinstance(config, Mapping):
            self._values = config
        elif callable(to_dict := getattr(config, "to_dict", None)):
            values = to_dict()
            if not isinstance(values, Mapping):
                raise ValueError(f"{type(config).__name__}.to_dict() returned {type(values).__name__}, not a mapping")
            self._values = values

    def get(self, name: str) -> Any:
        """The value, or ABSENT if the field is missing or null."""
        value = getattr(self._object, name, None) if self._values is None else self._values.get(name)
        return ABSENT if value is None else value

    def one(self, convert: Callable[[str, Any], Any], *names: str, default: Any = ABSENT) -> Any:
        """The one value that all present spellings agree on; ValueError if they do not, or if none is required."""
        found = {name: convert(name, value) for name in names if (value := self.get(name)) is not ABSENT}
        if len(set(found.values())) > 1:
            # a config class fills the spelling the checkpoint did not use with its own default: that is no statement
            stated = {n: value for n, value in found.items() if not self._is_class_default(n, convert, value)}
            found = stated or found
        if len(set(found.values())) > 1:
            said = " and ".join(f"{name}={value!r}" for name, value in found.items())
            raise ValueError(f"the config contradicts itself: {said}; keep one of them")
        for value in found.values():
            return value
        if default is ABSENT:
            also = f" (also spelt {', '.join(names[1:])})" if names[1:] else ""
            raise ValueError(f"the config has no {names[0]}{also}, which is required")
        return default

    def check(self, implemented: Mapping[str, tuple[Any, ...]]) -> None:
        """ValueError for the first field whose value is not among those implemented; None there: absent or null."""
        for name, allowed in implemented.items():
            value = self.get(name)
            if (None if value is ABSENT else value) not in allowed:
                named = ", ".join(repr(v) for v in allowed if v is not None) or "null"
                raise ValueError(f"{name}={value!r} is not supported; allowed: {named}")

    def _is_class_default(self, name: str, convert: Callable[[str, Any], Any], value: Any) -> bool:
        for cls in self._class.__mro__ if self._class else ():
            default = vars(cls).get(name)
            init = vars(cls).get("__init__")
            if default is None and init is not None:
                parameter = inspect.signature(init).parameters.get(name)
                default = None if parameter is None or parameter.default is parameter.empty else parameter.default
            if isinstance(default, int | float | str | list | tuple):
                return convert(name, default) == value
        return False


def count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} is not supported; allowed: a positive integer")
    return value


def count_or_zero(name: str, value: Any) -> int:
    return 0 if value == 0 and not isinstance(value, bool) else count(name, value)


def size_or_list(name: str, value: Any) -> int:
    """An integer, or a list (one entry, or one per layer) of which all entries are equal."""
    if not isinstance(value, list | tuple):
        return count(name, value)
    sizes = {count(name, entry) for entry in value}
    if len(sizes) != 1:
        raise ValueError(f"{name}={value!r} is not supported; allowed: an integer, or a list of equal integers")
    return sizes.pop()


def positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} is not supported; allowed: a positive number")
    return float(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not supported; allowed: true, false")
    return value


def dtype_name(name: str, value: Any) -> str:
    # a torch.dtype prints as torch.bfloat16; its name is all we need, and torch is not ours to import
    return str(value).removeprefix("torch.")


def tokens(name: str, value: Any) -> tuple[int, ...]:
    tokens = value if isinstance(value, list | tuple) else (value,)
    return tuple(count_or_zero(name, token) for token in tokens)


def limit(name: str, value: Any) -> tuple[float, float]:
    """Two numbers; infinity as a float, "Infinity", {"__float__": "Infinity"} (transformers 5), null or 1e30."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name}={value!r} is not supported; allowed: [low, high] or null")
    low, high = (_bound(name, entry, unset) for entry, unset in zip(value, (0.0, math.inf), strict=True))
    if not 0 <= low < high:
        raise ValueError(f"{name}={value!r} is not supported; allowed: 0 <= low < high")
    return low, math.inf if high >= _UNBOUNDED else high


def _bound(name: str, value: Any, unset: float) -> float:
    if value is None:
        return unset
    try:
        return float(value["__float__"] if isinstance(value, Mapping) else value)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name} holds {value!r}; allowed: numbers, 'Infinity' or null") from None
