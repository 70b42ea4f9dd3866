"""A chat whose reply is printed as it is made; thinking arrives in a field of its own, before the answer."""

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
    temperature=0.7,
    max_tokens=256,
    stream=True,
)
num_pieces = 0
for chunk in stream:
    for choice in chunk.choices:
        # the server sends the field only with --reasoning-parser
        thought = getattr(choice.delta, "reasoning_content", None)
        text = thought or choice.delta.content
        if text:
            num_pieces += 1
            print(text, end="", flush=True)
print(f"\n[{num_pieces} pieces]")
