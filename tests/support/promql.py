"""PromQL as dashboards of this repository use it: an expression comes in, the series that it asks for go out.

A parser of a part of the language: numbers, selectors with a range or without, functions, aggregations with `by`, and
arithmetic. What it does not know it refuses, so that a query is never passed unread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

RATES = ("rate", "increase", "irate")
FUNCTIONS = (*RATES, "histogram_quantile")
AGGREGATIONS = ("sum", "max", "min", "avg", "count")
# what Prometheus adds to every series that it scrapes
SCRAPED = ("job", "instance")

_TOKENS = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[(?:\d+[smhd]|\$__rate_interval)\])|(?P<number>\d+(?:\.\d+)?)"""
    r"""|(?P<name>[a-zA-Z_:][\w:]*)|(?P<mark>=~|!~|!=|[-+*/(){},=]))"""
)


@dataclass(frozen=True)
class Series:
    """A selector. matchers: (label, how, value). by: labels of the aggregations around it. rated: inside a rate."""

    name: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    by: tuple[str, ...] = ()
    rated: bool = False


def series(query: str) -> list[Series]:
    """Every selector of a query; ValueError for what is no PromQL, or none that is known here."""
    parser = _Parser(query)
    found = list(parser.expression())
    if parser.next is not None:
        raise ValueError(f"{query!r} goes on after its end with {parser.next[1]!r}")
    return found


class _Parser:
    def __init__(self, query: str) -> None:
        self._query = query
        self._tokens: list[tuple[str, str]] = []
        end = 0
        while query[end:].strip():
            match = _TOKENS.match(query, end)
            if match is None:
                raise ValueError(f"{query!r} has {query[end:].strip()!r}, which is not known here")
            assert match.lastgroup is not None
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            end = match.end()
        self._at = 0

    @property
    def next(self) -> tuple[str, str] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, kind: str, *texts: str) -> str:
        if self.next is None or self.next[0] != kind or (texts and self.next[1] not in texts):
            wanted, has = " or ".join(texts) or f"a {kind}", self.next[1] if self.next else "its end"
            raise ValueError(f"{self._query!r} has {has!r} where {wanted} should be")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _is(self, *texts: str) -> bool:
        return self.next is not None and self.next[1] in texts

    def expression(self) -> Iterator[Series]:
        yield from self._term()
        while self._is("+", "-", "*", "/"):
            self._take("mark")
            yield from self._term()

    def _term(self) -> Iterator[Series]:
        if self._is("("):
            yield from self._within()
        elif self.next is not None and self.next[0] == "number":
            self._take("number")
        else:
            yield from self._named(self._take("name"))

    def _named(self, name: str) -> Iterator[Series]:
        if name in AGGREGATIONS:
            by: tuple[str, ...] = ()
            if self._is("by"):
                self._take("name")
                by = tuple(self._labels())
            yield from (replace(one, by=one.by + by) for one in self._within())
        elif name in FUNCTIONS:
            yield from self._call(name)
        elif self._is("("):
            raise ValueError(f"{self._query!r} calls {name}, which is not known here")
        else:
            yield self._selector(name)

    def _within(self) -> list[Series]:
        self._take("mark", "(")
        found = list(self.expression())
        self._take("mark", ")")
        return found

    def _labels(self) -> Iterator[str]:
        self._take("mark", "(")
        while not self._is(")"):
            yield self._take("name")
            if not self._is(")"):
                self._take("mark", ",")
        self._take("mark", ")")

    def _call(self, name: str) -> list[Series]:
        self._take("mark", "(")
        if name == "histogram_quantile":
            self._take("number")
            self._take("mark", ",")
            found = list(self.expression())
            if not all(one.name.endswith("_bucket") and "le" in one.by for one in found):
                raise ValueError(f"{self._query!r} takes a quantile of what is no histogram by le")
        else:
            found = [replace(self._selector(self._take("name")), rated=True)]
            self._take("range")
        self._take("mark", ")")
        return found

    def _selector(self, name: str) -> Series:
        matchers: list[tuple[str, str, str]] = []
        if self._is("{"):
            self._take("mark")
            while not self._is("}"):
                label, how = self._take("name"), self._take("mark", "=", "=~", "!=", "!~")
                matchers.append((label, how, self._take("string")[1:-1]))
                if not self._is("}"):
                    self._take("mark", ",")
            self._take("mark", "}")
        return Series(name, tuple(matchers))


# ---- against what a server says


@dataclass(frozen=True)
class Family:
    """What `/metrics` says of a name: its type, and the values of each label."""

    type: str
    labels: dict[str, set[str]]


def families(metrics: str) -> dict[str, Family]:
    """The sample names of a `/metrics`, each with its family's type."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            labels = found.setdefault(sample.name, Family(family.type, {})).labels
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def faults(query: str, there: dict[str, Family]) -> list[str]:
    """Why a query would show nothing, or nonsense, on a server that says `there`."""
    found: list[str] = []
    for one in series(query):
        if one.name not in there:
            found.append(f"no metric {one.name}")
            continue
        family = there[one.name]
        rises = family.type in ("counter", "histogram")
        if one.rated != rises:
            found.append(f"{one.name} is a {family.type}, and is {'' if one.rated else 'not '}put into a rate")
        for label in (*(label for label, _, _ in one.matchers), *one.by):
            if label not in family.labels and label not in SCRAPED:
                found.append(f"{one.name} has no label {label}")
        for label, how, value in one.matchers:
            if how == "=" and label in family.labels and value not in family.labels[label]:
                found.append(f"{one.name} has no {label} {value!r}")
    return found
