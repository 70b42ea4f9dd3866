"""Speech of your own, sent along as base64: omni_audio.py [FILE] (WAV, MP3, FLAC, OGG or M4A)."""

from __future__ import annotations

import base64
import os
from typing import Any

from openai import OpenAI

import sample

sample.plain_errors()

path = sample.file("speech.mp3")
audio_b64 = base64.b64encode(path.read_bytes()).decode()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

# the client's types know two formats; the server reads more
audio: dict[str, Any] = {"data": audio_b64, "format": path.suffix[1:]}
content: list[Any] = [
    {"type": "input_audio", "input_audio": audio},
    {"type": "text", "text": "Transcribe and summarize what was said in this audio."},
]
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
