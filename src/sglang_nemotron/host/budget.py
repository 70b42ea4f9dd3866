"""Thinking budgets in the scheduler: sampled tokens come in, and the one token that may come next goes out as a mask.

A grammar object around any other, attached only to requests with a budget; SGLang waits for grammar objects before it
samples, so they are exact under its overlap too. Knows of replies only what `reply.budget` tells it.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import torch

from sglang_nemotron.host import counts
from sglang_nemotron.host.reply_flags import BUDGET, TOOLS, prompt_tail
from sglang_nemotron.reply.budget import Budget, BudgetAutomaton, Vocabulary
from sglang_nemotron.reply.markup import THINK_CLOSE
from sglang_nemotron.reply.reasoning import opening
from sglang_nemotron.sglang_api.engine import BaseGrammarObject, ReasonerGrammarObject, get_exec

_BITS: Final = 32


class BudgetGrammar(BaseGrammarObject):
    """Follows one reply; where its budget forces a token nothing else may come, elsewhere `inner` decides as before.

    Masks have the form of the server's grammar backend, because the rows of a batch share one tensor: packed int32
    words [rows, vocabulary / 32] where a set bit allows a token, or (outlines) bool [rows, vocabulary] where True bars
    it. `backend` may bring a kernel that applies packed masks on a GPU.
    """

    def __init__(
        self, automaton: BudgetAutomaton, inner: BaseGrammarObject | None, *, packed: bool = True, backend: Any = None
    ) -> None:
        super().__init__()
        self.automaton = automaton
        self.inner = inner
        self._packed = packed
        self._backend = backend
        self.grammar_stats = getattr(inner, "grammar_stats", None)
        # tokens that are taken back may close the block again
        self._was_closed = False

    def accept_token(self, token: int) -> None:
        self.current_token = token
        if self.inner is not None:
            self.inner.accept_token(token)
        forced = self.automaton.forced()
        self.automaton.accept(token)
        if forced == token and not (self._was_closed or self.automaton.thinking):
            self._was_closed = True
            counts.add(counts.BUDGETS_CLOSED)

    def rollback(self, k: int) -> None:
        if self.inner is not None:
            self.inner.rollback(k)
        self.automaton.rollback(k)

    def is_terminated(self) -> bool:
        return self.inner is not None and self.inner.is_terminated()

    @property
    def finished(self) -> bool:
        return self._finished

    @finished.setter
    def finished(self, finished: bool) -> None:
        self._finished = finished
        if self.inner is not None:
            self.inner.finished = finished

    def copy(self) -> BaseGrammarObject:
        # SGLang copies what it caches, and that is the inner one
        raise NotImplementedError("a grammar with a thinking budget belongs to one request")

    def allocate_vocab_mask(self, vocab_size: int, batch_size: int, device: Any) -> torch.Tensor:
        if self.inner is not None:
            return self.inner.allocate_vocab_mask(vocab_size, batch_size, device)
        if not self._packed:
            return torch.zeros(batch_size, vocab_size, dtype=torch.bool, device=device)
        return torch.full((batch_size, -(-vocab_size // _BITS)), -1, dtype=torch.int32)

    def fill_vocab_mask(self, vocab_mask: torch.Tensor, idx: int) -> None:
        token = self.automaton.forced()
        if token is not None:
            allow_only(vocab_mask[idx], token)
        elif self.inner is not None:
            self.inner.fill_vocab_mask(vocab_mask, idx)

    # SGLang declares the next two static, and calls them on an object
    def move_vocab_mask(self, vocab_mask: torch.Tensor, device: Any) -> torch.Tensor:  # type: ignore[override]
        return vocab_mask.to(device, non_blocking=True)

    def apply_vocab_mask(self, logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:  # type: ignore[override]
        kernel = getattr(self._backend, "apply_vocab_mask", None)
        if self._packed and logits.is_cuda and kernel is not None:
            kernel(logits, vocab_mask)
        else:
            apply_mask(logits, vocab_mask)

    def try_jump_forward(self, tokenizer: Any) -> Any:
        if self.inner is None or self.automaton.thinking:
            return None
        return self.inner.try_jump_forward(tokenizer)


def allow_only(row: torch.Tensor, token: int) -> None:
    """Bar every token of one mask row but one; the row's dtype tells its form (see `BudgetGrammar`)."""
    if row.dtype == torch.bool:
        row.fill_(True)
        row[token] = False
        return
    word, bit = divmod(token, _BITS)
    row.fill_(0)
    # the highest bit is the sign
    row[word] = 1 << bit if bit < _BITS - 1 else -(1 << bit)


def apply_mask(logits_BV: torch.Tensor, mask: torch.Tensor) -> None:
    """Set the barred logits to -inf, in place, on whatever device they are."""
    if mask.dtype != torch.bool:
        bits = torch.arange(_BITS, dtype=torch.int32, device=mask.device)
        allowed = (mask.unsqueeze(-1) >> bits) & 1
        mask = allowed.view(mask.shape[0], -1)[:, : logits_BV.shape[1]] == 0
    logits_BV[:, : mask.shape[1]].masked_fill_(mask[:, : logits_BV.shape[1]], float("-inf"))


# ---- attaching


class _Texts:
    """The text of single tokens, each decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        text = self._known.get(token)
        if text is None:
            text = self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            self._known[token] = text
        return text


@functools.lru_cache(maxsize=1)
def vocabulary(tokenizer: Any) -> Vocabulary:
    """What the automaton needs of a tokenizer; ValueError for one without think tags."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    return Vocabulary(_Texts(tokenizer), newline=ids("\n"), close=ids(THINK_CLOSE))


def attach(manager: Any, req: Any) -> None:
    """Put a request's budget around whatever grammar it has; ValueError, for a 400, where that cannot work.

    Nothing happens to a request without a budget, without thinking, or one that ended or waits for its grammar.
    """
    asked = (req.sampling_params.custom_params or {}).get(BUDGET)
    if asked is None or req.finished() or req.to_finish is not None or isinstance(req.grammar, BudgetGrammar):
        return
    tokenizer = manager.scheduler.tokenizer
    if tokenizer is None:
        raise ValueError("a thinking budget needs the server's tokenizer; drop --skip-tokenizer-init")
    seen = opening(prompt_tail(req.origin_input_ids_unpadded, tokenizer))
    if not seen.thinking:
        return
    if req.grammar is not None and not _waits_for_reasoning(req.grammar):
        raise ValueError(
            "a thinking budget was sent with a grammar (json_schema, regex, ebnf or structural_tag) that begins with "
            "the first token, though the prompt opens a think block; serve with --reasoning-parser, and in /generate "
            'send "require_reasoning": true'
        )
    names = req.sampling_params.custom_params.get(TOOLS) or ()
    automaton = BudgetAutomaton(Budget(*asked), vocabulary(tokenizer), tool_names=names, line_start=seen.line_start)
    backend = manager.grammar_backend
    req.grammar = BudgetGrammar(
        automaton,
        req.grammar,
        packed=get_exec().kernel.grammar_backend != "outlines",
        backend=getattr(backend, "grammar_backend", backend),
    )


def _waits_for_reasoning(grammar: Any) -> bool:
    return isinstance(grammar, ReasonerGrammarObject) and grammar.tokens_in_think >= 0 > grammar.tokens_after_end
