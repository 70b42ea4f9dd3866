"""Thoughts and answer of a streamed reply, each in its own field, and how many tokens went into thinking."""

from __future__ import annotations

import os

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

stream = client.chat.completions.create(
    model=model,
    messages=[
        {"role": "system", "content": "You are a helpful AI assistant."},
        {"role": "user", "content": "What are the first 5 prime numbers?"},
    ],
    temperature=0.6,
    max_tokens=256,
    stream=True,
    stream_options={"include_usage": True},
)
field = None
for chunk in stream:
    for choice in chunk.choices:
        for name in ("reasoning_content", "content"):
            text = getattr(choice.delta, name, None)
            if text and name != field:
                print(f"\n== {name}")
                field = name
            print(text or "", end="", flush=True)
    if chunk.usage:
        print(f"\n[{chunk.usage.completion_tokens} tokens, {chunk.usage.reasoning_tokens} of them thinking]")
