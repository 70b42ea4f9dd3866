"""A reply about a picture, printed as it is made: omni_streaming.py [FILE]."""

from __future__ import annotations

import base64
import mimetypes
import os
from typing import Any

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

path = sample.file("photo.jpg")
kind = mimetypes.guess_type(path)[0] or "image/png"
image_b64 = base64.b64encode(path.read_bytes()).decode()
content: list[Any] = [
    {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image_b64}"}},
    {"type": "text", "text": "What is in this picture?"},
]
messages: list[Any] = [
    {"role": "system", "content": "You are a helpful AI assistant."},
    {"role": "user", "content": content},
]
stream = client.chat.completions.create(
    model=model,
    messages=messages,
    temperature=0.6,
    max_tokens=256,
    stream=True,
    stream_options={"include_usage": True},
)
num_pieces = 0
for chunk in stream:
    for choice in chunk.choices:
        text = getattr(choice.delta, "reasoning_content", None) or choice.delta.content
        if text:
            num_pieces += 1
            print(text, end="", flush=True)
    if chunk.usage:
        print(f"\n[{num_pieces} pieces after {chunk.usage.prompt_tokens} prompt tokens]")
