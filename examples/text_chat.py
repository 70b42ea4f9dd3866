"""A chat with a running server: `sglang serve --model-path DIR`, then this. OPENAI_BASE_URL names another address."""

from __future__ import annotations

import os

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

reply = client.chat.completions.create(
    model=model,
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Summarize what MoE models are in 5 bullets."},
    ],
    temperature=0.7,
    max_tokens=256,
)
print(reply.choices[0].message.content)
print(f"[{reply.choices[0].finish_reason}; {reply.usage}]")
