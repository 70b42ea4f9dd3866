"""Writes the arguments of one call as JSON, piece by piece: parameter names and texts come in, fragments go out.

Joined, the fragments are one JSON object wherever the writing stops (after `close`; after `abandon`, one that is not
finished). A name is written once: a value that can only be a string is written as it comes, so a second one under its
name is left over; any other is written when the next name comes, so a second one in a row takes its place. Knows
nothing of tags or calls.
"""

from __future__ import annotations

from json.encoder import encode_basestring

from .schema import ToolSpec
from .values import STRING, as_json, leaves_out, literal


def inner(text: str) -> str:
    """The text as it stands between the quotes of a JSON string."""
    return encode_basestring(text)[1:-1]


class Arguments:
    """The arguments of one call to `spec`. Memory is the longest value that cannot be told to be a string."""

    __slots__ = (
        "_buffered",
        "_fragments",
        "_left",
        "_leaves",
        "_name",
        "_settled",
        "_type",
        "_types",
        "_undeclared",
        "_waiting",
        "_written",
        "given",
        "streaming",
    )

    def __init__(self, spec: ToolSpec) -> None:
        self._types, self._undeclared = spec.types
        self._fragments: list[str] = []
        # names of the parameters that came so far, and of those that are written
        self.given: set[str] = set()
        self._written: set[str] = set()
        # of the open value: whether it goes out as it comes; else its pieces, and whether it waits for its end whatever
        # comes; whether it is left over, since its name is written
        self.streaming = False
        self._name = ""
        self._type = STRING
        self._buffered: list[str] = []
        self._settled = False
        self._leaves = False
        # the literal of the last value, not written yet
        self._waiting: str | None = None
        self._left: list[str] = []

    @property
    def declared(self) -> frozenset[str]:
        """The parameters that the tool declares."""
        return frozenset(self._types)

    @property
    def plain(self) -> bool:
        """Whether the type of the open value has no text in it."""
        return self._type.types.isdisjoint(("string", "array", "object"))

    def open(self, name: str) -> None:
        """Begin the value of a parameter."""
        if name == self._name:
            # the last value counts
            self._waiting = None
        self._write_waiting()
        self._name = name
        self.given.add(name)
        self._leaves = name in self._written
        self._type = self._types.get(name, self._undeclared)
        self._settled = self._leaves
        self.streaming = self._type.streams and not self._leaves
        if self.streaming:
            self._write_name('"')

    def add(self, text: str) -> None:
        """Go on with the value."""
        if self.streaming:
            self._fragments.append(inner(text))
            return
        if not text:
            return
        self._buffered.append(text)
        if self._settled:
            return
        so_far = "".join(self._buffered)
        if not self._type.undecided(so_far):
            self.streaming = True
            self._buffered.clear()
            self._write_name(f'"{inner(so_far)}')
        else:
            # only short texts are worth asking about again
            self._settled = self._type.waits(so_far)

    def end(self, cut: str = "") -> None:
        """End the value. `cut` is the text behind it that may begin an end tag which the end of the reply cut: it
        belongs to a string, and is dropped behind a value that is complete without it."""
        if self.streaming:
            self._fragments.append(f'{inner(cut)}"')
            self.streaming = False
            return
        text = "".join(self._buffered)
        self._buffered.clear()
        if self._leaves:
            self._left.append(text + cut)
            return
        found = literal(text, self._type) if cut and "string" not in self._type.types else None
        text = text if found else text + cut
        self._waiting = None if leaves_out(text, self._type) else as_json(text, self._type)

    def close(self) -> None:
        """Write the end of the object."""
        self._write_waiting()
        self._fragments.append("}" if self._written else "{}")

    def abandon(self) -> None:
        """Leave the object unfinished: the reply was cut inside a value. What is written is no JSON object."""
        text = "".join(self._buffered)
        self._buffered.clear()
        if self._leaves:
            self._left.append(text)
        if self.streaming or self._leaves:
            return
        # an open string, whatever the type: `1}` would close the object
        self._write_name(f'"{inner(text)}')

    def take(self) -> str:
        """The fragments written since the last `take`, joined."""
        taken = "".join(self._fragments)
        self._fragments.clear()
        return taken

    def left_over(self) -> list[str]:
        """The values since the last call whose names were written already."""
        left, self._left = self._left, []
        return left

    def _write_waiting(self) -> None:
        if self._waiting is not None:
            self._write_name(self._waiting)
            self._waiting = None

    def _write_name(self, value: str) -> None:
        """Write the name of the open or last value, and `value`."""
        self._fragments.append(f"{', ' if self._written else '{'}{encode_basestring(self._name)}: {value}")
        self._written.add(self._name)
