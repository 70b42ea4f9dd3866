"""A reply that is either calls or an answer of a given schema: the grammar that a model is held to, and how its text is
read.

The grammar is in the words of XGrammar's structural tags, as plain JSON: tools and a schema go in, a format comes out.
Knows nothing of requests, and nothing of what a value means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .markup import (
    CALL_CLOSE,
    CALL_HEADER,
    CALL_OPEN,
    FUNCTION_CLOSE,
    FUNCTION_OPEN,
    MAX_NAME,
    MAX_SPACE,
    PARAMETER_CLOSE,
    PARAMETER_OPEN,
    SPACE,
    THINK_CLOSE,
)

Format = dict[str, Any]

_END: Final = f"{FUNCTION_CLOSE}\n{CALL_CLOSE}"
# what `markup.parameter_tag` takes for one, whatever is declared: behind a `=` it may look for a value
_PARAMETER_NAME: Final = rf"[^<>\n=]{{1,{MAX_NAME}}}"
# what a value must not hold, so that a parser that forgives missing tags cannot take the call for another; of the
# parameters, also those of another markup: they could not be closed
_NO_VALUE: Final = (
    CALL_OPEN,
    CALL_CLOSE,
    FUNCTION_OPEN,
    FUNCTION_CLOSE,
    *(f"<parameter{behind}" for behind in f"=>{SPACE}"),
)


def calls_or_answer(answer: Format, tags: Sequence[Format], *, parallel: bool, thoughts: bool) -> Format:
    """The format of a reply that is calls, each as one of `tags` has it, or `answer`, and nothing else.

    parallel: more than one call may come. thoughts: the reply begins with thoughts, up to `</think>`, in this grammar.
    The one newline that the template writes before either is allowed: it is markup to `reasoning.ReasoningStage`.
    """
    calls = {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": not parallel,
    }
    newline = {"type": "optional", "content": _const("\n")}
    thinking = [_tag("", {"type": "any_text"}, THINK_CLOSE)] if thoughts else []
    return _sequence(*thinking, newline, {"type": "or", "elements": [calls, answer]})


def call_tags(names: Sequence[str], strict: Mapping[str, Format]) -> list[Format]:
    """How a call of each tool may look: as its format in `strict` has it, else with any parameters of any values.

    strict: formats of JSON schemas. A value of a tool that is not strict has no tag of a call in it, and ends at the
    first `</parameter>`, which ends its line. That a name comes once cannot be said where the names are any.
    """
    # more blanks between tags than belong to a call would be content
    bounded = {name: content | {"max_whitespace_cnt": MAX_SPACE - 2} for name, content in strict.items()}
    value = _tag(">", {"type": "any_text", "excludes": list(_NO_VALUE)}, PARAMETER_CLOSE)
    name = {"type": "regex", "pattern": _PARAMETER_NAME}
    anything = {"type": "star", "content": _sequence(_const(PARAMETER_OPEN), name, value, _const("\n"))}
    return [_call(name, bounded.get(name, anything)) for name in names]


def _call(name: str, parameters: Format) -> Format:
    # without a parameter there is one newline between the two tags, not two
    return _tag(f"{CALL_HEADER}{name}>\n", parameters, [_END, f"\n{_END}"])


def _const(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def _tag(begin: str, content: Format, end: str | list[str]) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


class AnswerQuotes:
    """In the place of `markdown.Markdown` for a reply that is calls or an answer: behind the first character of an
    answer every tag is a part of it, such as a call that is quoted in one of its strings."""

    __slots__ = ("_answers", "_thinking")

    def __init__(self, *, thinking: bool = False) -> None:
        """`thinking`: the content begins with thoughts, up to `</think>`."""
        self._answers = False
        self._thinking = thinking

    def feed(self, text: str) -> None:
        """Take more of the content; a `</think>` comes in one piece."""
        if self._thinking:
            _, close, text = text.partition(THINK_CLOSE)
            self._thinking = not close
        self._answers = self._answers or bool(text.strip())

    def end_line(self) -> None:
        """A call begins: what came before it was no answer."""
        self._answers = False

    @property
    def quotes(self) -> bool:
        return self._answers
