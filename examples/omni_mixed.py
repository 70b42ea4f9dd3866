"""Pictures, videos and sounds in one message, any number of each: omni_mixed.py [FILE...]"""

from __future__ import annotations

import base64
import mimetypes
import os
from pathlib import Path
from typing import Any

from openai import OpenAI

import sample

sample.plain_errors()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id


def part(path: Path) -> dict[str, Any]:
    """A file as a part of a message, by its name's ending."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = mimetypes.guess_type(path)[0] or "image/png"
    if kind.startswith("audio/"):
        return {"type": "input_audio", "input_audio": {"data": data, "format": path.suffix[1:]}}
    name = "video_url" if kind.startswith("video/") else "image_url"
    return {"type": name, name: {"url": f"data:{kind};base64,{data}"}}


question = "Analyze this. What are the key points, and what conclusion do they support?"
content: list[Any] = [part(path) for path in sample.files("photo.jpg", "speech.mp3", "clip.mp4")]
content.append({"type": "text", "text": question})
reply = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": content}],
    temperature=0.6,
    max_tokens=256,
)
message = reply.choices[0].message
print("reasoning:", getattr(message, "reasoning_content", None))
print("content:", message.content)
print(f"[{reply.usage.prompt_tokens} prompt tokens]")
