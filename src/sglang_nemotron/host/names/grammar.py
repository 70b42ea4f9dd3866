"""SGLang names for constrained decoding in the scheduler process."""

from __future__ import annotations

from sglang.srt.constrained.base_grammar_backend import BaseGrammarObject
from sglang.srt.constrained.grammar_manager import GrammarManager
from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject
from sglang.srt.runtime_context import get_exec

__all__ = ["BaseGrammarObject", "GrammarManager", "ReasonerGrammarObject", "get_exec"]
