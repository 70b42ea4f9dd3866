"""Thinking budgets as SGLang's scheduler meets them: masks, inner grammars, whole batches of made-up sampling."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.constrained.grammar_manager import GrammarManager
from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarBackend
from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend
from sglang.srt.parser.reasoning_parser import ReasoningParser
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from transformers import AutoTokenizer

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.host import budget, budgets, parsers
from sglang_nemotron.host.budget import BudgetGrammar, allow_only, apply_mask
from sglang_nemotron.host.reply_flags import BUDGET, PARSER, TOOLS
from sglang_nemotron.reply.budget import Budget, BudgetAutomaton

# of the toy preset
VOCAB = 1280
CLOSE, EOS = 13, 2
THINKING = "<|im_start|>assistant\n<think>\n"
SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(PRESETS["toy"], folder, overwrite=True)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def manager(tokenizer: Any) -> Any:
    """SGLang's grammar manager without a scheduler around it, on its default backend with our reasoning parser."""
    budgets.BUDGETS.open()
    parsers.PARSERS.open()
    bare = GrammarManager.__new__(GrammarManager)
    inner = XGrammarGrammarBackend(tokenizer, vocab_size=VOCAB, model_eos_token_ids=[EOS])
    bare.grammar_backend = ReasonerGrammarBackend(inner, ReasoningParser(PARSER, tokenizer=tokenizer), tokenizer)
    bare.scheduler = SimpleNamespace(tokenizer=tokenizer, model_config=SimpleNamespace())
    bare.grammar_queue = []
    bare._enable_strict_thinking = False
    bare.pp_rank, bare.pp_size, bare.pp_group, bare.grammar_sync_size = 0, 1, None, 1
    bare.SGLANG_GRAMMAR_POLL_INTERVAL, bare.SGLANG_GRAMMAR_MAX_POLL_ITERATIONS = 0.5, 100
    return bare


@pytest.fixture(autouse=True)
def _backend(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(grammar_backend="xgrammar")
    monkeypatch.setattr(budget, "get_exec", lambda: SimpleNamespace(kernel=kernel))


class Request:
    """The fields of SGLang's request that grammars touch."""

    def __init__(self, tokenizer: Any, prompt: str = THINKING, *, reasons: bool = True, **params: Any) -> None:
        custom = {BUDGET: params.pop("asked"), TOOLS: params.pop("tools", [])} if "asked" in params else None
        given = {"json_schema": None, "regex": None, "ebnf": None, "structural_tag": None, **params}
        self.sampling_params = SimpleNamespace(custom_params=custom, **given)
        self.origin_input_ids = self.origin_input_ids_unpadded = tokenizer.encode(prompt, add_special_tokens=False)
        self.require_reasoning = reasons
        self.grammar: Any = None
        self.grammar_key = None
        self.grammar_wait_ct = 0
        self.to_finish: Any = None
        self.output: list[int] = []

    def finished(self) -> bool:
        return bool(self.output) and self.output[-1] == EOS

    def set_finish_with_abort(self, message: str) -> None:
        self.grammar, self.to_finish = None, message


def started(manager: Any, req: Request) -> Request:
    """The request as it leaves SGLang's queue."""
    if manager.process_req_with_grammar(req):
        (ready,) = manager.get_ready_grammar_requests()
        assert ready is req
    return req


def sample(manager: Any, reqs: list[Request], wanted: list[list[int]], steps: int) -> None:
    """Sample greedily what each request's made-up model wants, under SGLang's own mask code, as one batch."""
    for _ in range(steps):
        live = [i for i, req in enumerate(reqs) if not req.finished()]
        info = SimpleNamespace(
            grammars=[reqs[i].grammar for i in live],
            temperatures=torch.ones(len(live), 1),
            vocab_size=VOCAB,
            device="cpu",
        )
        if not live:
            return
        # the model likes any token a little, and the next wanted one most
        logits = torch.zeros(len(live), VOCAB)
        for row, i in enumerate(live):
            at = len(reqs[i].output)
            logits[row, wanted[i][at] if at < len(wanted[i]) else EOS] = 1.0
        if any(info.grammars):
            SamplingBatchInfo.update_regex_vocab_mask(info)
            info.grammar_mask.apply(logits)
        for row, i in enumerate(live):
            token = int(logits[row].argmax())
            assert logits[row, token].isfinite()
            reqs[i].output.append(token)
            if reqs[i].grammar is not None:
                reqs[i].grammar.accept_token(token)
                reqs[i].grammar.finished = reqs[i].finished()


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


# ---- masks


@pytest.mark.parametrize("token", [0, 31, 32, 63, 99])
def test_only_one_token_is_left(token: int) -> None:
    for mask in (torch.full((2, 4), -1, dtype=torch.int32), torch.zeros(2, 100, dtype=torch.bool)):
        allow_only(mask[1], token)
        logits = torch.randn(2, 100)
        before = logits.clone()
        apply_mask(logits, mask)
        assert torch.equal(logits[0], before[0])
        assert logits[1].isfinite().nonzero().flatten().tolist() == [token]


def test_packed_masks_agree_with_xgrammars_kernel() -> None:
    from xgrammar import apply_token_bitmask_inplace

    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(-(2**31), 2**31, (5, 7), generator=generator).to(torch.int32)
    logits = torch.randn(5, 200, generator=generator)
    ours, theirs = logits.clone(), logits.clone()
    apply_mask(ours, mask)
    apply_token_bitmask_inplace(theirs, mask, backend="cpu")
    assert torch.equal(ours, theirs)
    assert 0 < ours.isfinite().sum() < ours.numel()


def test_the_mask_has_the_backends_form(tokenizer: Any) -> None:
    automaton = BudgetAutomaton(Budget(0), budget.vocabulary(tokenizer))
    packed = BudgetGrammar(automaton, None).allocate_vocab_mask(VOCAB, 3, "cpu")
    assert packed.shape == (3, VOCAB // 32) and packed.dtype == torch.int32
    plain = BudgetGrammar(automaton, None, packed=False)
    mask = plain.allocate_vocab_mask(VOCAB, 3, "cpu")
    assert mask.shape == (3, VOCAB) and mask.dtype == torch.bool
    plain.fill_vocab_mask(mask, 1)
    logits = torch.zeros(3, VOCAB)
    plain.apply_vocab_mask(logits, plain.move_vocab_mask(mask, "cpu"))
    assert logits.isfinite().sum(1).tolist() == [VOCAB, 1, VOCAB]


# ---- attaching


def test_nothing_without_a_budget(manager: Any, tokenizer: Any) -> None:
    assert started(manager, Request(tokenizer)).grammar is None
    inner = started(manager, Request(tokenizer, json_schema=SCHEMA)).grammar
    assert type(inner).__name__ == "ReasonerGrammarObject"


def test_nothing_without_thinking(manager: Any, tokenizer: Any) -> None:
    closed = "<|im_start|>assistant\n<think></think>"
    assert started(manager, Request(tokenizer, closed, reasons=False, asked=[0, 0])).grammar is None
    inner = started(manager, Request(tokenizer, closed, reasons=False, json_schema=SCHEMA, asked=[0, 0])).grammar
    assert not isinstance(inner, BudgetGrammar)


def test_a_grammar_from_the_first_token_is_refused(manager: Any, tokenizer: Any) -> None:
    # compiled now, and from the cache
    for _ in range(2):
        req = started(manager, Request(tokenizer, reasons=False, json_schema=SCHEMA, asked=[3, 0]))
        assert "begins with the first token" in str(req.to_finish) and req.grammar is None


def test_a_bad_schema_stays_sglangs_error(manager: Any, tokenizer: Any) -> None:
    req = started(manager, Request(tokenizer, json_schema='{"type": "nothing"}', asked=[3, 0]))
    assert "Failed to compile json" in str(req.to_finish)


def test_a_tokenizer_without_tags_is_refused(manager: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [1]

        def decode(self, *args: Any, **kwargs: Any) -> str:
            return THINKING

    monkeypatch.setattr(manager.scheduler, "tokenizer", Odd())
    assert "tokenizer" in str(started(manager, Request(tokenizer, asked=[3, 0])).to_finish)
    monkeypatch.setattr(manager.scheduler, "tokenizer", None)
    assert "--skip-tokenizer-init" in str(started(manager, Request(tokenizer, asked=[3, 0])).to_finish)


def test_the_cache_never_holds_a_budget(manager: Any, tokenizer: Any) -> None:
    for _ in range(2):
        req = started(manager, Request(tokenizer, json_schema=SCHEMA, asked=[3, 0]))
        assert isinstance(req.grammar, BudgetGrammar)
        assert not isinstance(req.grammar.inner, BudgetGrammar)
    assert not any(isinstance(kept, BudgetGrammar) for kept in manager.grammar_backend.cache.values())


# ---- sampling


def test_a_batch_of_everything(manager: Any, tokenizer: Any) -> None:
    """Different budgets, a JSON schema, tools and no budget at all side by side, in any order of rows."""
    thoughts = "one two three\nfour five six\nseven eight nine"
    answer = '{"n": 42}'
    text = ids(tokenizer, thoughts)
    newline = ids(tokenizer, "\n")
    full = [*text, *newline, CLOSE, *ids(tokenizer, "done"), EOS]
    line = text.index(newline[0]) + 1
    cases: list[tuple[dict[str, Any], list[int], list[int]]] = [
        ({}, full, full),
        ({"asked": [0, 500]}, [CLOSE, *ids(tokenizer, "no"), EOS], [CLOSE, *ids(tokenizer, "no"), EOS]),
        # what a model does after the budget is its own: here it wants on, and is closed off
        ({"asked": [0, 500]}, [5, *ids(tokenizer, "no"), EOS], [CLOSE, *ids(tokenizer, "no"), EOS]),
        ({"asked": [2, 500]}, full[:line] + full[line:], [*full[:line], CLOSE, *full[line + 1 :]]),
        ({"asked": [2, 1]}, full, [*full[:3], *newline, CLOSE, *full[5:]]),
        ({"asked": [1000, 0]}, full, full),
        (
            {"asked": [1, 0], "json_schema": SCHEMA},
            [*text[:1], 7, 7, *ids(tokenizer, answer), EOS],
            [*text[:1], *newline, CLOSE, *ids(tokenizer, answer), EOS],
        ),
        ({"json_schema": SCHEMA}, [5, CLOSE, *ids(tokenizer, answer), EOS], [5, CLOSE, *ids(tokenizer, answer), EOS]),
    ]
    order = list(range(len(cases)))
    for seed in range(6):
        random.Random(seed).shuffle(order)
        reqs = [started(manager, Request(tokenizer, **cases[i][0])) for i in order]
        sample(manager, reqs, [cases[i][1] for i in order], steps=80)
        for i, req in zip(order, reqs, strict=True):
            assert req.output == cases[i][2], (i, tokenizer.decode(req.output))


def test_a_call_in_thinking_ends_the_budget(manager: Any, tokenizer: Any) -> None:
    call = "\n<tool_call>\n<function=f>\n<parameter=x>\n" + "long " * 20
    wanted = [*ids(tokenizer, "hm" + call), EOS]
    with_tool = started(manager, Request(tokenizer, asked=[40, 0], tools=["f"]))
    without = started(manager, Request(tokenizer, asked=[40, 0]))
    sample(manager, [with_tool, without], [wanted, wanted], steps=150)
    assert with_tool.output == wanted
    assert CLOSE in without.output
    assert with_tool.grammar.automaton.thinking_tokens < 40


@pytest.mark.parametrize("seed", range(20))
def test_any_sampling_keeps_the_bound(seed: int, manager: Any, tokenizer: Any) -> None:
    """Random tokens under random budgets: at most budget + grace of thinking, then a schema holds to the end."""
    rng = random.Random(seed)
    reqs, wanted = [], []
    for _ in range(6):
        tokens, grace = rng.choice([0, 1, 2, 7, 30]), rng.choice([0, 1, 10])
        schema = {"json_schema": SCHEMA} if rng.random() < 0.5 else {}
        reqs.append(started(manager, Request(tokenizer, asked=[tokens, grace], **schema)))
        words = [*range(1000, VOCAB), *[ids(tokenizer, "\n")[0]] * 20]
        wanted.append([rng.choice(words) for _ in range(120)])
    sample(manager, reqs, wanted, steps=200)
    for req in reqs:
        tokens, grace = req.sampling_params.custom_params[BUDGET]
        assert CLOSE in req.output
        thought = req.output[: req.output.index(CLOSE)]
        assert len(thought) <= (tokens + grace + 1 if tokens else 0)
        assert req.grammar.automaton.thinking_tokens <= (tokens + grace if tokens else 0)
        if req.sampling_params.json_schema and req.finished():
            json.loads(tokenizer.decode(req.output[req.output.index(CLOSE) + 1 : -1]))


def test_rollback_and_termination_reach_the_inner_grammar(manager: Any, tokenizer: Any) -> None:
    req = started(manager, Request(tokenizer, asked=[1, 0], json_schema=SCHEMA))
    grammar = req.grammar
    newline = ids(tokenizer, "\n")[0]
    answer = ids(tokenizer, '{"n": 4}')
    for token in (1000, newline, CLOSE, *answer):
        assert not grammar.is_terminated()
        grammar.accept_token(token)
    grammar.rollback(len(answer) + 1)
    assert grammar.automaton.forced() == CLOSE
    for token in (CLOSE, *answer, EOS):
        grammar.accept_token(token)
    assert grammar.is_terminated() and grammar.current_token == EOS
    grammar.finished = True
    assert grammar.inner.finished and grammar.inner.grammar.finished
    with pytest.raises(NotImplementedError):
        grammar.copy()


def test_a_gpu_uses_the_backends_kernel(tokenizer: Any, tmp_path: Path) -> None:
    """Where the logits say they are on a GPU, the backend's kernel gets them; elsewhere ours does."""
    used: list[str] = []
    backend = SimpleNamespace(apply_vocab_mask=lambda logits, mask: used.append("kernel"))
    grammar = BudgetGrammar(BudgetAutomaton(Budget(0), budget.vocabulary(tokenizer)), None, backend=backend)
    grammar.apply_vocab_mask(SimpleNamespace(is_cuda=True), None)  # type: ignore[arg-type]
    assert used == ["kernel"]
    mask = grammar.allocate_vocab_mask(VOCAB, 1, "cpu")
    grammar.fill_vocab_mask(mask, 0)
    logits = torch.zeros(1, VOCAB)
    grammar.apply_vocab_mask(logits, mask)
    assert used == ["kernel"] and logits[0].isfinite().sum() == 1
