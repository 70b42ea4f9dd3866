"""A picture that the server fetches: omni_image_url.py [URL].

Without one, a file on the server's machine, in a folder that SGLANG_NEMOTRON_MEDIA_FOLDERS names (docs/media.md).
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI

import sample

sample.plain_errors()

url = sys.argv[1] if len(sys.argv) > 1 else sample.file("photo.jpg").as_uri()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

reply = client.chat.completions.create(
    model=model,
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": "Describe this image in detail."},
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
