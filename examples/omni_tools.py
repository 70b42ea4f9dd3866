"""A tool that the model may call about a picture: omni_tools.py [FILE]. Serve with --tool-call-parser qwen3_coder."""

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

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather for a location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "City and state, e.g. San Francisco, CA"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["location"],
            },
        },
    }
]

reply = client.chat.completions.create(
    model=model,
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image_b64}"}},
                {"type": "text", "text": "What is the weather like in this place?"},
            ],
        },
    ],
    tools=TOOLS,
    temperature=0.6,
    top_p=0.95,
    max_tokens=256,
)
message = reply.choices[0].message
print("reasoning:", getattr(message, "reasoning_content", None))
print("tool calls:", message.tool_calls)
