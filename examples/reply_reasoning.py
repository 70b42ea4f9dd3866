"""Thinking on (the default) and off, per request, with any of the published `--reasoning-parser` names."""

from __future__ import annotations

import os

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

print("Reasoning on")
reply = client.chat.completions.create(
    model=model,
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the derivative of x^3 sin(x)?"},
    ],
    temperature=0.6,
    max_tokens=256,
)
message = reply.choices[0].message
print(f"Reasoning:\n{message.reasoning_content[:300]}...\nContent:\n{message.content}\n")

print("Reasoning off")
reply = client.chat.completions.create(
    model=model,
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is 15% of 200?"},
    ],
    temperature=0.6,
    max_tokens=256,
    extra_body={"chat_template_kwargs": {"enable_thinking": False}},
)
message = reply.choices[0].message
print(f"Reasoning:\n{getattr(message, 'reasoning_content', None)}\nContent:\n{message.content}")
