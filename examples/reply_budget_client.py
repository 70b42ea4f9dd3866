"""A thinking budget that the client keeps, for servers without one: think in a first call, answer in a second.

The first call may use up its tokens thinking; the second gets the thoughts back, closed, and goes on from there.
"""

from __future__ import annotations

import os
from typing import Any

from openai import OpenAI

import sample

sample.plain_errors()


class ThinkingBudgetClient:
    """Chat completions with at most `thinking_budget` tokens of thinking."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self._client = client
        self._model = model

    def complete(
        self, messages: list[Any], *, thinking_budget: int, max_tokens: int, temperature: float
    ) -> tuple[str, str]:
        """The reasoning and the content of a reply of at most `max_tokens` tokens."""
        options: dict[str, Any] = {"model": self._model, "temperature": temperature}
        first = self._client.chat.completions.create(messages=messages, max_tokens=thinking_budget, **options)
        choice = first.choices[0]
        reasoning = getattr(choice.message, "reasoning_content", None) or ""
        content = choice.message.content or ""
        if choice.finish_reason != "length":
            return reasoning, content
        if not content:
            # cut while thinking
            reasoning = reasoning.rstrip() + "."
        # a message that closes thoughts without opening them is opened by the server
        so_far = {"role": "assistant", "content": f"{reasoning}\n</think>\n{content}"}
        second = self._client.chat.completions.create(
            messages=[*messages, so_far],
            max_tokens=max_tokens - thinking_budget,
            extra_body={"continue_final_message": True},
            **options,
        )
        return reasoning, content + (second.choices[0].message.content or "")


api = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
budgeted = ThinkingBudgetClient(api, api.models.list().data[0].id)
reasoning, content = budgeted.complete(
    [{"role": "user", "content": "What is 2+2?"}], thinking_budget=32, max_tokens=96, temperature=0.6
)
print("reasoning:", reasoning)
print("content:", content)
