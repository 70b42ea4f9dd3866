"""Thinking on (the default) and off, per request. Serve with --reasoning-parser to get the thoughts apart."""

from __future__ import annotations

import os

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

for enable_thinking, question, temperature in (
    (True, "Write a haiku about GPUs.", 0.7),
    (False, "Give me 3 interesting facts about SGLang.", 0.6),
):
    reply = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": question},
        ],
        temperature=temperature,
        max_tokens=256,
        extra_body={"chat_template_kwargs": {"enable_thinking": enable_thinking}},
    )
    message = reply.choices[0].message
    print(f"== thinking {'on' if enable_thinking else 'off'}")
    print("reasoning:", getattr(message, "reasoning_content", None))
    print("content:", message.content)
