"""A picture of your own, sent along as base64: omni_image_base64.py [FILE] (PNG, JPEG, WebP or GIF)."""

from __future__ import annotations

import base64
import mimetypes
import os

from openai import OpenAI

import sample

sample.plain_errors()

path = sample.file("photo.jpg")
image_b64 = base64.b64encode(path.read_bytes()).decode()
kind = mimetypes.guess_type(path)[0] or "image/png"

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

reply = client.chat.completions.create(
    model=model,
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image_b64}"}},
                {
                    "type": "text",
                    "text": "What UI elements are visible on this screen? What action would you take next?",
                },
            ],
        }
    ],
    temperature=0.6,
    max_tokens=256,
)
message = reply.choices[0].message
print("reasoning:", getattr(message, "reasoning_content", None))
print("content:", message.content)
print(f"[{reply.usage.prompt_tokens} prompt tokens]")
