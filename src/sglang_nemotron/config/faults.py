"""What a checkpoint's tensors have against a config, gathered name by name; one ValueError that lists it all goes out.

It must never know which tensors a model has: whoever fills parameters from a checkpoint finds the faults.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# names shown of each kind of fault
_LISTED = 12


@dataclass
class Faults:
    """Names, with shapes or what else helps, of the tensors (or parameters) that have each kind of fault."""

    unknown: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unfilled: list[str] = field(default_factory=list)

    def raise_if_any(self) -> None:
        """ValueError with every kind of fault there is, its count and its first names in alphabetical order."""
        parts = []
        for title, names in (
            ("tensors the model has no place for", self.unknown),
            ("tensors that appear twice", self.repeated),
            ("tensors of a wrong shape", self.shapes),
            ("tensors of values that are not supported", self.values),
            ("tensors that are missing", self.missing),
            ("parameters that nothing filled", self.unfilled),
        ):
            if names:
                more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
                parts.append(f"{len(names)} {title}: {', '.join(sorted(names)[:_LISTED])}{more}")
        if parts:
            raise ValueError("the checkpoint does not fit the config: " + "; ".join(parts))
