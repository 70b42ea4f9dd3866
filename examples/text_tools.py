"""A tool that the model may call. Serve with --tool-call-parser qwen3_coder to get the calls parsed."""

from __future__ import annotations

import os

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

TIP_TOOL = {
    "type": "function",
    "function": {
        "name": "calculate_tip",
        "description": "The tip on a bill.",
        "parameters": {
            "type": "object",
            "properties": {
                "bill_total": {"type": "integer", "description": "The total amount of the bill"},
                "tip_percentage": {"type": "integer", "description": "The percentage of tip to be applied"},
            },
            "required": ["bill_total", "tip_percentage"],
        },
    },
}

reply = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "My bill is $50. What will be the amount for 15% tip?"}],
    tools=[TIP_TOOL],
    temperature=0.6,
    top_p=0.95,
    max_tokens=512,
)
message = reply.choices[0].message
print("reasoning:", getattr(message, "reasoning_content", None))
print("content:", message.content)
print("tool calls:", message.tool_calls)
