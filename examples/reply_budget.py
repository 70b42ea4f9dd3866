"""A thinking budget that the server keeps: after so many tokens it closes the think block, and the answer follows.

No flag is needed. Clients of vLLM send `thinking_token_budget`, which works as well; in `/generate` it is
`max_thinking_tokens`. The block ends at the next line end, at the latest after the grace period.
"""

from __future__ import annotations

import os

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

for params in (
    {"custom_params": {"thinking_budget": 32, "thinking_budget_grace_period": 8}},
    {"thinking_token_budget": 0},
):
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Write a haiku about GPUs."}],
        temperature=0.6,
        max_tokens=128,
        extra_body=params,
    )
    message, usage = reply.choices[0].message, reply.usage
    print(f"== {params}")
    print("reasoning:", getattr(message, "reasoning_content", None))
    print("content:", message.content)
    print(f"[{usage.completion_tokens} tokens, {usage.reasoning_tokens} of them thinking]")
