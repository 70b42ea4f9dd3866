"""Writes the arguments of one call as JSON, piece by piece: parameter names and texts come in, fragments go out.

Joined, the fragments are one JSON object wherever the writing stops (after `close`). Knows nothing of tags or calls.
"""

from __future__ import annotations

from json.encoder import encode_basestring

from .schema import STRING, ToolSpec, as_json, literal


def inner(text: str) -> str:
    """The text as it stands between the quotes of a JSON string."""
    return encode_basestring(text)[1:-1]


class Arguments:
    """The arguments of one call to `spec`. Memory is the longest value that cannot be told to be a string."""

    __slots__ = ("_buffered", "_fragments", "_settled", "_size", "_type", "_types", "_undeclared", "given", "streaming")

    def __init__(self, spec: ToolSpec) -> None:
        self._types, self._undeclared = spec.types
        self._fragments: list[str] = []
        # names of the parameters written so far
        self.given: set[str] = set()
        # of the open value: whether it goes out as it comes; else its pieces, their length, and whether it waits for
        # its end whatever comes
        self.streaming = False
        self._type = STRING
        self._buffered: list[str] = []
        self._size = 0
        self._settled = False

    @property
    def declared(self) -> frozenset[str]:
        """The parameters that the tool declares."""
        return frozenset(self._types)

    def open(self, name: str) -> None:
        """Begin the value of a parameter."""
        assert name not in self.given, "a name is written once"
        self._fragments.append(f"{', ' if self.given else '{'}{encode_basestring(name)}: ")
        self.given.add(name)
        self._type = self._types.get(name, self._undeclared)
        self.streaming = self._type.streams
        self._size, self._settled = 0, False
        if self.streaming:
            self._fragments.append('"')

    def add(self, text: str) -> None:
        """Go on with the value."""
        if self.streaming:
            self._fragments.append(inner(text))
            return
        if not text:
            return
        self._buffered.append(text)
        self._size += len(text)
        if self._settled:
            return
        so_far = "".join(self._buffered)
        if not self._type.undecided(so_far):
            self.streaming = True
            self._buffered.clear()
            self._fragments.append(f'"{inner(so_far)}')
        else:
            # only short texts are worth asking about again
            self._settled = self._type.waits(so_far)

    def end(self, cut: str = "") -> None:
        """End the value. `cut` is the beginning of an end tag, when the text stopped inside one: it belongs to a value
        that is a string, and is dropped behind one that is complete without it."""
        if self.streaming:
            self._fragments.append(f'{inner(cut)}"')
            self.streaming = False
            return
        text = "".join(self._buffered)
        self._buffered.clear()
        found = literal(text, self._type) if cut and "string" not in self._type.types else None
        self._fragments.append(found or as_json(text + cut, self._type))

    def close(self) -> None:
        """Write the end of the object."""
        self._fragments.append("}" if self.given else "{}")

    def take(self) -> str:
        """The fragments written since the last `take`, joined."""
        taken = "".join(self._fragments)
        self._fragments.clear()
        return taken
