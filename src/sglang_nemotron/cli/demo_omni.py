"""What the demo shows an Omni model: a photo, a spoken sentence, a clip, all of them at once, and a second turn.

An OpenAI client of a running server comes in, one checked record per request goes out; that the model has really been
given the media shows in the server's own token counts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli.demo_media import clip, photo, speech
from sglang_nemotron.cli.demo_requests import Row, Talk, require, thinking

if TYPE_CHECKING:
    from openai import OpenAI

# what each medium takes at least, by the published rules: 640 x 480 pixels are 40 x 30 patches, four of them a token; a
# second of sound is 12.5 tokens; the first two frames of a clip keep all of theirs
PHOTO_TOKENS = 300
SPEECH_TOKENS = 60
CLIP_TOKENS = 252
# SGLang keeps a prompt's state where it parts from an earlier one, else at its end: this one parts before any is kept
PHOTO_SYSTEM = {"role": "system", "content": "You are shown a photo."}
# of the clip's own sound, four seconds
HEARD_TOKENS = 45


def omni_requests(client: OpenAI, model: str) -> Iterator[Row]:
    """Every request of the Omni half, in order; each is yielded when its reply is complete and as promised.

    Raises DemoFailed for a reply that is not, openai.OpenAIError for none.
    """
    talk = Talk(client, model)
    seen = {"type": "image_url", "image_url": {"url": _data_uri("image/jpeg", photo())}}
    heard = {"type": "input_audio", "input_audio": {"data": _base64(speech()), "format": "mp3"}}
    watched = {"type": "video_url", "video_url": {"url": _data_uri("video/mp4", clip())}}

    text = _about(talk, "no media", [], "What do you see?", 0)
    yield text
    yield _about(talk, "a photo", [seen], "What do you see?", PHOTO_TOKENS, system=[PHOTO_SYSTEM])
    yield _second_turn(talk, seen)
    yield _about(talk, "a spoken sentence", [heard], "When does the ferry leave?", SPEECH_TOKENS)
    silent = _about(talk, "a clip", [watched], "What rolls across the field?", CLIP_TOKENS)
    yield silent
    loud = _about(talk, "a clip with its sound", [watched], "What does the voice say?", CLIP_TOKENS, listen=True)
    more = loud.prompt_tokens - silent.prompt_tokens
    require(loud, more >= HEARD_TOKENS, f"its sound made the prompt {more} tokens longer")
    yield loud
    together = PHOTO_TOKENS + SPEECH_TOKENS + CLIP_TOKENS
    yield _about(talk, "all three at once", [seen, heard, watched], "What have they in common?", together)


def _about(
    talk: Talk,
    name: str,
    media: list[dict[str, Any]],
    question: str,
    least: int,
    *,
    listen: bool = False,
    system: Sequence[dict[str, Any]] = (),
) -> Row:
    """One question about some media, whose tokens must be in the prompt."""
    content = [*media, {"type": "text", "text": question}]
    body = thinking(False)["extra_body"] | ({"use_audio_in_video": True} if listen else {})
    row, reply = talk.ask(name, [*system, {"role": "user", "content": content}], max_tokens=32, extra_body=body)
    require(row, row.prompt_tokens > least, f"the prompt has {row.prompt_tokens} tokens, the media take {least}")
    require(row, bool(reply.choices[0].message.content), "the answer is empty")
    return row


def _second_turn(talk: Talk, seen: dict[str, Any]) -> Row:
    """The photo again, with an answer and another question after it: what came before must be in the cache."""
    messages = [
        PHOTO_SYSTEM,
        {"role": "user", "content": [seen, {"type": "text", "text": "What do you see?"}]},
        {"role": "assistant", "content": "The sun over a lake."},
        {"role": "user", "content": "Is it morning or evening?"},
    ]
    row, _ = talk.ask("  and a second turn", messages, max_tokens=32, **thinking(False))
    require(row, row.cached_tokens > PHOTO_TOKENS, "the photo was not found in the cache")
    return row


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{_base64(data)}"
