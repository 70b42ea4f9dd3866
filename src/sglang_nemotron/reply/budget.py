"""A thinking budget as a pure automaton: sampled tokens come in, "anything" or "this token" for the next one goes out.

Knows the reply grammar's idea of where thinking ends (by `</think>` or by a tool call) and nothing of logits, masks,
requests or SGLang.

After `budget` thinking tokens the block is closed at the next line end; if none comes within `grace` further tokens, at
once. So a block holds at most budget + grace thinking tokens, and 0 closes it before the first. What is forced is what
the template writes, as far as it is not there yet: a newline unless the text is at a line end, then `</think>`. Nothing
is forced behind it: the next token is the model's, or an inner grammar's. The newline between `<tool_call>` and
`<function=` of a call that may be beginning is no line end. A model that closes its block earlier, or begins a call, is
left alone from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .markup import THINK_CLOSE
from .reasoning import ReasoningStage

# grace of NVIDIA's own budget processor for vLLM; its cookbook's examples set it per request
DEFAULT_GRACE: Final = 500
# no supported context is longer; a larger number is a mistake, such as characters or milliseconds
MAX_BUDGET: Final = 1 << 20

# names under which clients send a budget: ours in chat and `/generate`, vLLM's request field
BUDGET_NAMES: Final = ("thinking_budget", "max_thinking_tokens", "thinking_token_budget")
GRACE_NAME: Final = "thinking_budget_grace_period"


@dataclass(frozen=True)
class Budget:
    """A request's limit: thinking tokens, and tokens more to look for a line end."""

    tokens: int
    grace: int = DEFAULT_GRACE


def read_budget(params: Mapping[str, Any]) -> Budget | None:
    """Read the budget of a request from its custom parameters; None if it names none.

    Raises ValueError, naming field and value, for anything but a whole number from 0 to MAX_BUDGET, and for two names
    that disagree.
    """
    given = {name: _count(name, params[name]) for name in BUDGET_NAMES if params.get(name) is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(f"{listed}: these thinking budgets differ; send one of {', '.join(BUDGET_NAMES)}")
    if not given:
        if params.get(GRACE_NAME) is not None:
            raise ValueError(f"{GRACE_NAME} is given without a budget; send {BUDGET_NAMES[0]} too")
        return None
    grace = params.get(GRACE_NAME)
    return Budget(next(iter(given.values())), DEFAULT_GRACE if grace is None else _count(GRACE_NAME, grace))


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_BUDGET:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of tokens from 0 to {MAX_BUDGET}")
    return value


@dataclass(frozen=True)
class Vocabulary:
    """What the automaton needs of a tokenizer.

    `text_of` gives the text of one token (incomplete UTF-8 may come out as anything without `<` or newline);
    `newline` and `close` are the token ids that are forced: a newline, and `</think>`.
    """

    text_of: Callable[[int], str]
    newline: tuple[int, ...]
    close: tuple[int, ...]

    def __post_init__(self) -> None:
        for ids, text in ((self.newline, "\n"), (self.close, THINK_CLOSE)):
            found = "".join(map(self.text_of, ids))
            if found != text:
                raise ValueError(
                    f"the token ids {list(ids)} stand for {found!r}, not for {text!r}: a thinking budget needs a "
                    "tokenizer and template with think tags"
                )


class BudgetAutomaton:
    """Follows one reply that begins inside a think block; one `accept` per token, `rollback` takes tokens back.

    `forced()` is the token that must come next, or None for any. A token other than the forced one is followed too
    (the caller may be unable to force): it counts as thinking, and forcing begins anew behind it.
    """

    __slots__ = (
        "_behind",
        "_counted",
        "_limit",
        "_queue",
        "_soft",
        "_stage",
        "_states",
        "_vocabulary",
        "thinking_tokens",
    )

    def __init__(
        self, budget: Budget, vocabulary: Vocabulary, *, tool_names: Iterable[str] = (), line_start: bool = True
    ) -> None:
        """`tool_names` are the declared tools, `line_start` is `reasoning.opening`'s."""
        self._soft = budget.tokens
        # no thinking means none, not even to the end of a line that the prompt began
        self._limit = budget.tokens + budget.grace if budget.tokens else 0
        self._vocabulary = vocabulary
        self._stage = ReasoningStage(tool_names, thinking=True, line_start=line_start)
        # tokens accepted inside the block so far; forced ones and the model's own closing tag do not count
        self.thinking_tokens = 0
        # tokens still to be forced
        self._queue: tuple[int, ...] = ()
        # for rollback: the state before each token inside the block (equal ones shared), whether it counted; and the
        # number of tokens behind the block
        self._states: list[tuple[Any, tuple[int, ...]]] = []
        self._counted = bytearray()
        self._behind = 0
        self._plan()

    @property
    def thinking(self) -> bool:
        """Whether the block is still open."""
        return self._stage.thinking

    def forced(self) -> int | None:
        """The token that must come next, or None for any."""
        return self._queue[0] if self._queue else None

    def accept(self, token: int) -> None:
        """Follow one sampled token."""
        if not self._stage.thinking:
            self._behind += 1
            return
        state = (self._stage.save(), self._queue)
        self._states.append(self._states[-1] if self._states and self._states[-1] == state else state)
        self._stage.feed(self._vocabulary.text_of(token))
        as_forced = bool(self._queue) and token == self._queue[0]
        self._counted.append(not as_forced and self._stage.thinking)
        self.thinking_tokens += self._counted[-1]
        if as_forced:
            self._queue = self._queue[1:]
        if not as_forced or not self._queue:
            self._plan()

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        assert 0 <= count <= self._behind + len(self._states), "more tokens taken back than accepted"
        inside = max(0, count - self._behind)
        self._behind = max(0, self._behind - count)
        if inside:
            saved, self._queue = self._states[-inside]
            self._stage.restore(saved)
            self.thinking_tokens -= sum(self._counted[-inside:])
            del self._states[-inside:], self._counted[-inside:]

    def _plan(self) -> None:
        """Decide, where nothing is being forced, whether forcing begins."""
        self._queue = ()
        if not self._stage.thinking or self.thinking_tokens < self._soft:
            return
        if self._stage.at_line_end:
            self._queue = self._vocabulary.close
        elif self.thinking_tokens >= self._limit:
            self._queue = (*self._vocabulary.newline, *self._vocabulary.close)
