"""A tool from question to answer: the model calls it, we run it, the model answers. Serve with qwen3_coder calls."""

from __future__ import annotations

import json
import os
from typing import Any

from openai import OpenAI

import sample

sample.plain_errors()

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


def get_weather(location: str, unit: str = "celsius") -> str:
    return json.dumps({"location": location, "temperature": 21, "unit": unit})


messages: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the weather like in Santa Clara, CA?"},
]
# a model would call by itself; "required" makes even one with random weights do so
options: dict[str, Any] = {"model": model, "tools": TOOLS, "temperature": 0.6, "top_p": 0.95, "max_tokens": 128}
reply = client.chat.completions.create(
    messages=messages,
    tool_choice="required",
    extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    **options,
)
message = reply.choices[0].message
print("tool calls:", message.tool_calls)

messages.append(message.model_dump(exclude_none=True))
for call in message.tool_calls or []:
    try:
        arguments = json.loads(call.function.arguments)
    except json.JSONDecodeError:
        # max_tokens ended the reply inside this call (finish_reason is "length"): half an argument is not to be used
        arguments = {}
    given = {name: value for name, value in arguments.items() if name in ("location", "unit")}
    result = get_weather(**{"location": "nowhere", **given})
    print("result:", result)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
reply = client.chat.completions.create(messages=messages, **options)
print("reasoning:", getattr(reply.choices[0].message, "reasoning_content", None))
print("answer:", reply.choices[0].message.content)
