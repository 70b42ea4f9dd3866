"""The reply room's own cases and tools, for the tests that put them through SGLang's parsers."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("test_reply_cases", "test_intree_fails")

from reply.test_intree_fails import ROWS, right  # noqa: E402
from reply.test_reply_cases import CASES, exact  # noqa: E402
from support.reply_texts import OPENAI_TOOLS, TOOLS  # noqa: E402

__all__ = ["CASES", "OPENAI_TOOLS", "ROWS", "TOOLS", "exact", "right"]
