"""How a video is read, chosen per request: omni_video_options.py [FILE] asks with few frames, many, and sound.

`fps` and `max_frames` say which frames are looked at, `video_pruning_rate` which share of their tokens is dropped
because nothing moved there (0 keeps all), `use_audio_in_video` lets the model hear the video as well.
"""

from __future__ import annotations

import base64
import os
from typing import Any

from openai import OpenAI

import sample

sample.plain_errors()

path = sample.file("clip.mp4")
video_b64 = base64.b64encode(path.read_bytes()).decode()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1"), api_key="EMPTY")
model = client.models.list().data[0].id

OPTIONS: list[dict[str, Any]] = [
    {"media_io_kwargs": {"video": {"fps": 1, "num_frames": 4}}, "video_pruning_rate": 0.5},
    {"media_io_kwargs": {"video": {"fps": 2, "num_frames": 8}}, "video_pruning_rate": 0},
    {"media_io_kwargs": {"video": {"fps": 2, "num_frames": 8}}, "video_pruning_rate": 0, "use_audio_in_video": True},
]
for options in OPTIONS:
    reply = client.chat.completions.create(
        model=model,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{video_b64}"}},
                    {"type": "text", "text": "What happens, and what is said?"},
                ],
            }
        ],
        temperature=0.6,
        max_tokens=64,
        extra_body=options,
    )
    message = reply.choices[0].message
    print(f"== {options}")
    print("reasoning:", getattr(message, "reasoning_content", None))
    print("content:", message.content)
    print(f"[{reply.usage.prompt_tokens} prompt tokens]")
