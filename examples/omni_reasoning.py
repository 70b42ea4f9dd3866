"""Thinking on (the default), on with a budget, and off, about one picture: omni_reasoning.py [FILE]."""

from __future__ import annotations

import base64
import mimetypes
import os
from typing import Any

from openai import OpenAI

import sample

sample.plain_errors()

path = sample.file("photo.jpg")
kind = mimetypes.guess_type(path)[0] or "image/png"
image_b64 = base64.b64encode(path.read_bytes()).decode()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

MODES: dict[str, dict[str, Any]] = {
    "on": {},
    "on, at most 40 tokens of it": {"custom_params": {"thinking_budget": 32, "thinking_budget_grace_period": 8}},
    "off": {"chat_template_kwargs": {"enable_thinking": False}},
}
for name, options in MODES.items():
    reply = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image_b64}"}},
                    {"type": "text", "text": "What is 15% of the largest number in this picture?"},
                ],
            },
        ],
        temperature=0.6,
        max_tokens=256,
        extra_body=options,
    )
    message = reply.choices[0].message
    print(f"== thinking {name}")
    print("reasoning:", getattr(message, "reasoning_content", None))
    print("content:", message.content)
