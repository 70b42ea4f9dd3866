"""Requests with media as clients send them, drawn at random or told in a row, and what a server holds meanwhile.

Everything random comes of a seed. Answers are greedy, so that the same request must get the same answer again.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import psutil

from sglang_nemotron.cli.server import ServerProcess
from support.omni_media import film, photo, recording
from support.waiting import NET_S

# of a token's logprob, beside others and alone; what the parity tests allow against the reference
TOLERANCE = 5e-5
# two tokens closer than this may change places
TIE = 2 * TOLERANCE
# files that the server has on their way: SGLang's prefix, the process that made them, and what follows
STAMP = re.compile(r"sgl_shm_mm_(\d+)_")

_WORDS = (
    "what",
    "where",
    "lake",
    "hill",
    "dusk",
    "walks",
    "sings",
    "red",
    "seven",
    "water",
    "and",
    "of",
    "the",
    "bird",
)


# ---- one request


@dataclass(frozen=True, eq=False)
class Wish:
    """A chat request. options: fields beyond those of the openai client. quit_after: seconds, or None to wait.

    hang_up: whether the client of a stream leaves after its first piece.
    """

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    stream: bool = False
    max_tokens: int = 12
    quit_after: float | None = None
    hang_up: bool = False

    def __str__(self) -> str:
        kinds = [
            part["type"].removesuffix("_url").removeprefix("input_")
            for message in self.messages
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] != "text"
        ]
        how = "stream" if self.stream else "whole"
        left = f", left after {self.quit_after} s" if self.quit_after is not None else ""
        return (
            f"{len(self.messages)} messages with {' '.join(kinds) or 'text'}, n={self.n}, {how}{left}"
            f"{', hung up' if self.hang_up else ''}, {dict(self.options)}"
        )


@dataclass(frozen=True)
class Said:
    """One choice: its tokens as text, their logprobs, and how far the second best of each was behind."""

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    leads: tuple[float, ...]
    text: str


def tell(url: str, wish: Wish) -> list[Said] | None:
    """Every choice's answer; None if the client left, as wished. Errors of the server are openai's exceptions."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0, timeout=NET_S) as client:
        asked: dict[str, Any] = {
            "model": "default",
            "messages": list(wish.messages),
            "temperature": 0,
            "max_tokens": wish.max_tokens,
            "n": wish.n,
            "logprobs": True,
            "top_logprobs": 2,
            "timeout": NET_S if wish.quit_after is None else wish.quit_after,
            "extra_body": {"ignore_eos": True, **wish.options},
        }
        try:
            if not wish.stream:
                return [_whole(choice) for choice in client.chat.completions.create(**asked).choices]
            with client.chat.completions.create(**asked, stream=True) as pieces:
                return _collect(wish, pieces)
        # in the middle of a stream the client lets its transport's own error through
        except (openai.APITimeoutError, httpx.TimeoutException):
            if wish.quit_after is None:
                raise
            return None


def _whole(choice: Any) -> Said:
    thought = getattr(choice.message, "reasoning_content", None) or ""
    return _said(choice.logprobs.content, thought + (choice.message.content or ""))


def _said(content: Sequence[Any], text: str) -> Said:
    tops = [sorted((top.logprob for top in token.top_logprobs), reverse=True) for token in content]
    return Said(
        tuple(token.token for token in content),
        tuple(token.logprob for token in content),
        tuple(best - second for best, second in tops),
        text,
    )


def _collect(wish: Wish, pieces: Any) -> list[Said] | None:
    contents: list[list[Any]] = [[] for _ in range(wish.n)]
    texts = [""] * wish.n
    for piece in pieces:
        for choice in piece.choices:
            thought = getattr(choice.delta, "reasoning_content", None) or ""
            texts[choice.index] += thought + (choice.delta.content or "")
            if choice.logprobs is not None:
                contents[choice.index] += choice.logprobs.content or []
            if wish.hang_up and contents[choice.index]:
                return None
    return [_said(content, text) for content, text in zip(contents, texts, strict=True)]


def tell_together(url: str, wishes: Sequence[Wish]) -> list[list[Said] | None]:
    """All at once."""
    with ThreadPoolExecutor(len(wishes)) as pool:
        return list(pool.map(lambda wish: tell(url, wish), wishes))


def difference(wish: Wish, said: Sequence[Said], alone: Said) -> tuple[str | None, bool]:
    """(how an answer differs from that of the same request alone, or None; whether a tie was passed over)."""
    if len(said) != wish.n:
        return f"{len(said)} choices instead of {wish.n}", False
    tied = False
    for choice in said:
        if len(choice.tokens) != wish.max_tokens:
            return f"{len(choice.tokens)} tokens instead of {wish.max_tokens}", False
        apart = [a != b for a, b in zip(choice.tokens, alone.tokens, strict=True)]
        same = apart.index(True) if True in apart else len(apart)
        for number in range(same):
            delta = abs(choice.logprobs[number] - alone.logprobs[number])
            # a NaN fails
            if not delta <= TOLERANCE:
                return f"logprobs differ by {delta:.1e}", False
        if same < len(apart):
            if alone.leads[same] > TIE:
                return f"token {same + 1} is {choice.tokens[same]!r}, alone {alone.tokens[same]!r}", False
            tied = True
        elif choice.text != alone.text:
            return f"the text is {choice.text!r}, alone {alone.text!r}", False
    return None, tied


# ---- drawn at random


def uri(kind: str, data: bytes, suffix: str) -> str:
    return f"data:{kind}/{suffix};base64,{base64.b64encode(data).decode()}"


def part(kind: Literal["image", "video", "audio"], data: bytes, suffix: str, **more: Any) -> dict[str, Any]:
    """A part of a message. more: of its url object."""
    return {"type": f"{kind}_url", f"{kind}_url": {"url": uri(kind, data, suffix), **more}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@dataclass(frozen=True)
class Shelf:
    """Files of random sizes, made when they are first taken; many mixes share one, so that caches are hit, too."""

    seed: int

    def take(self, draw: random.Random) -> dict[str, Any]:
        kind = draw.choices(("image", "video", "audio"), (5, 3, 3))[0]
        return _made(kind, self.seed, draw.randrange({"image": 8, "video": 4, "audio": 4}[kind]))


@cache
def _made(kind: str, shelf: int, number: int) -> dict[str, Any]:
    seed = 1000 * shelf + 10 * number
    draw = random.Random(f"{kind} {seed}")
    if kind == "image":
        width, height = (round(10 ** draw.uniform(0, 3)) for _ in range(2))
        form = draw.choice(("PNG", "JPEG", "WEBP", "GIF", "BMP"))
        return part("image", photo(width, height, seed=seed, kind=form), form.lower())
    if kind == "video":
        width, height = (2 * draw.randint(16, 120) for _ in range(2))
        made = film(
            width,
            height,
            seed=seed,
            num_frames=draw.randint(1, 60),
            rate=draw.choice((5, 12, 24, 30)),
            voice=draw.random() < 0.5,
        )
        own = {"fps": draw.choice((1, 2.5, 4)), "max_frames": draw.randint(1, 10)} if draw.random() < 0.4 else {}
        return part("video", made, "mp4", **own)
    form = draw.choice(("WAV", "FLAC", "OGG"))
    seconds, rate = 10 ** draw.uniform(-0.9, 1.6), draw.choice((8_000, 16_000, 44_100))
    made = recording(seconds, seed=seed, rate=rate, channels=draw.choice((1, 2)), kind=form)
    if draw.random() < 0.5:
        encoded = base64.b64encode(made).decode()
        # the protocol knows wav and mp3 alone; the bytes say what they are
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}
    return part("audio", made, form.lower())


def draw_wish(draw: random.Random, shelf: Shelf, *, may_leave: bool = True) -> Wish:
    """A request with no to four items in one to three turns."""
    num_turns = draw.choices((1, 2, 3), (6, 2, 2))[0]
    messages: list[dict[str, Any]] = []
    if draw.random() < 0.3:
        messages.append({"role": "system", "content": _sentence(draw)})
    for turn in range(num_turns):
        if turn:
            messages.append({"role": "assistant", "content": _sentence(draw)})
        items = [shelf.take(draw) for _ in range(draw.choices((0, 1, 2), (3, 5, 2))[0])]
        parts = [*items, text(_sentence(draw))]
        draw.shuffle(parts)
        messages.append({"role": "user", "content": parts if items else _sentence(draw)})
    options: dict[str, Any] = {}
    if draw.random() < 0.6:
        options["video_pruning_rate"] = draw.choice((0, 0.3, 0.5, 0.7, 0.95))
    if draw.random() < 0.6:
        options["media_io_kwargs"] = {"video": {"fps": draw.choice((0.5, 1, 3)), "num_frames": draw.randint(1, 12)}}
    if draw.random() < 0.3:
        options["use_audio_in_video"] = True
    if draw.random() < 0.3:
        options["max_image_tokens"] = draw.choice((256, 400, 1000))
    if draw.random() < 0.3:
        options["chat_template_kwargs"] = {"enable_thinking": False}
    stream = draw.random() < 0.5
    leaves = may_leave and draw.random() < 0.2
    quits = leaves and draw.random() < 0.6
    return Wish(
        messages,
        options,
        n=draw.choice((1, 1, 1, 2)),
        stream=stream or (leaves and not quits),
        max_tokens=draw.randint(4, 16),
        quit_after=round(10 ** draw.uniform(-1.7, 0.2), 3) if quits else None,
        hang_up=leaves and not quits,
    )


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(_WORDS, k=draw.randint(2, 40)))


# ---- what a server holds


@dataclass(frozen=True)
class Holdings:
    """private: bytes of memory of its own, by process. left: files of media that lie around, or that are open or
    mapped though they have no name any more. descriptors: open files, by process."""

    private: Mapping[str, int]
    descriptors: Mapping[str, int]
    left: tuple[str, ...]

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size >> 20} MB" for name, size in sorted(self.private.items()))
        return f"{sizes}; descriptors {dict(self.descriptors)}; left {self.left}"


def holdings(server: ServerProcess) -> Holdings:
    """Of an idle server, all its processes together."""
    private: dict[str, int] = {}
    descriptors: dict[str, int] = {}
    left: list[str] = []
    pids = server.children_alive()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            name = _role(psutil.Process(pid))
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            private[name] = private.get(name, 0) + int(status["RssAnon"].split()[0]) * 1024
            files = [_target(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
            descriptors[name] = descriptors.get(name, 0) + len(files)
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            left += [f"{name}: {file}" for file in {*files, *(line[73:] for line in maps)} if STAMP.search(file)]
    for folder in (Path("/dev/shm"), Path("/tmp")):
        left += [str(path) for path in folder.glob("sgl_shm_mm_*") if _owner(path.name) in pids]
    return Holdings(private, descriptors, tuple(sorted(left)))


def _owner(name: str) -> int | None:
    found = STAMP.search(name)
    return int(found[1]) if found else None


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def workers(server: ServerProcess) -> list[psutil.Process]:
    """The processes that read media."""
    found = []
    for pid in server.children_alive():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if _role(process) == "media worker":
                found.append(process)
    return found


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    for mark, role in (
        ("reader.worker", "media worker"),
        ("scheduler", "scheduler"),
        ("detokenizer", "detokenizer"),
        ("sglang serve", "http"),
    ):
        if mark in line:
            return role
    return "others"
