"""Conversations with media, told once: what the openai client sends, what the reference is given, and the comparison.

The reference is transformers from the file on: its image and video processors, its feature extractor, its chat template
and its model.

Shape suffix: K the most likely tokens that are compared.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import openai
import torch

from sglang_nemotron.parity import reference_media
from sglang_nemotron.parity.client import Answer, Client
from sglang_nemotron.parity.compare import compare
from sglang_nemotron.parity.media_files import frames, pixels, samples
from sglang_nemotron.parity.reference_media import Item, Sound, Video
from sglang_nemotron.parity.reference_omni import NUM_TOP, OmniReference, OmniScores
from support.router_choices import MIN_GAP, Choice, NearestChoice
from support.waiting import NET_S

TOLERANCE = 5e-5
NEW_TOKENS = 32
# one answer may have so many tokens of which the reference is not sure
MAX_UNSURE = 2
# ids of the tokenizer: a picture's or frame's embedding, a sound's
IMAGE_ID, SOUND_ID = 18, 27


@dataclass(frozen=True, eq=False)
class Medium:
    """A file as the client has it, and what the reference reads in it.

    item: of the reference; `heard`: a video's own sound, if it is asked for. by: how it is sent.
    """

    kind: Literal["image", "video", "audio"]
    data: bytes
    suffix: str
    item: Item
    heard: Sound | None = None
    by: Literal["base64", "inline", "path"] = "base64"

    @property
    def encoded(self) -> str:
        return base64.b64encode(self.data).decode()

    def sent(self, folder: Path) -> dict[str, Any]:
        """The part of a message of the openai client."""
        if self.by == "inline":
            return {"type": "input_audio", "input_audio": {"data": self.encoded, "format": self.suffix}}
        url = f"data:{self.kind}/{self.suffix};base64,{self.encoded}"
        if self.by == "path":
            # a name of its own: several clients may be at it at the same time
            path = folder / f"{uuid.uuid4().hex}.{self.suffix}"
            path.write_bytes(self.data)
            url = str(path)
        return {"type": f"{self.kind}_url", f"{self.kind}_url": {"url": url}}


# (role, parts)
Turn = tuple[str, Sequence[Medium | str]]


@dataclass(frozen=True, eq=False)
class Case:
    """A conversation up to the user's last turn. options: of the request, beyond what the openai client knows."""

    name: str
    turns: Sequence[Turn]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def media(self) -> list[Medium]:
        return [part for _, parts in self.turns for part in parts if isinstance(part, Medium)]

    def sent(self, folder: Path) -> list[dict[str, Any]]:
        return [
            {"role": role, "content": _content([p if isinstance(p, str) else p.sent(folder) for p in parts])}
            for role, parts in self.turns
        ]

    def rendered(self) -> list[dict[str, Any]]:
        """The same for a chat template."""
        return [
            {"role": role, "content": _content([p if isinstance(p, str) else {"type": p.kind} for p in parts])}
            for role, parts in self.turns
        ]


def _content(parts: Sequence[str | dict[str, Any]]) -> Any:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


# ---- media as the reference reads them


def image(data: bytes, suffix: str = "png", *, context: int = 32768, by: Any = "base64") -> Medium:
    """context: tokens that the server serves, which an image's budget is counted from."""
    return Medium("image", data, suffix, reference_media.image(pixels(data), max_tokens=context), by=by)


def video(
    data: bytes, numbers: Sequence[int], *, rate: float, fps: float = 24.0, heard: bool = False, by: Any = "base64"
) -> Medium:
    """numbers: the frames that the server is to sample. rate: q. fps: of the file."""
    sampled = frames(data)[list(numbers)]
    item = reference_media.video(sampled, numbers, source_fps=fps, pruning_rate=rate)
    return Medium(
        "video", data, "mp4", item, reference_media.sound(torch.from_numpy(samples(data))) if heard else None, by
    )


def audio(data: bytes, suffix: str = "wav", *, by: Any = "base64") -> Medium:
    return Medium("audio", data, suffix, _sound(data), by=by)


def _sound(data: bytes) -> Sound:
    return reference_media.sound(torch.from_numpy(samples(data)))


# ---- the server


@dataclass(frozen=True, eq=False)
class Reply:
    """What the server said to a case. top_K: per token, the logprobs of the most likely ones, the likeliest first."""

    case: Case
    prompt_ids: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    tops_K: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    cached: int

    @property
    def media_end(self) -> int:
        """Tokens of the prompt up to and with the last one that stands for an embedding."""
        return max((i + 1 for i, token in enumerate(self.prompt_ids) if token in (IMAGE_ID, SOUND_ID)), default=0)


def ask(url: str, case: Case, folder: Path) -> Reply:
    """The greedy answer, past end tokens. folder: for media that are sent as paths."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0, timeout=NET_S)
    completion = client.chat.completions.create(
        model="default",
        messages=case.sent(folder),  # type: ignore[arg-type]
        temperature=0,
        max_tokens=NEW_TOKENS,
        logprobs=True,
        top_logprobs=NUM_TOP,
        extra_body={"ignore_eos": True, "return_token_ids": True, **case.options},
    )
    (choice,) = completion.choices
    said: Any = choice
    assert choice.logprobs is not None and choice.logprobs.content is not None and completion.usage is not None
    details = completion.usage.prompt_tokens_details
    return Reply(
        case,
        tuple(said.prompt_token_ids),
        tuple(said.response_token_ids),
        tuple(token.logprob for token in choice.logprobs.content),
        tuple(tuple(top.logprob for top in token.top_logprobs) for token in choice.logprobs.content),
        completion.usage.prompt_tokens,
        (details.cached_tokens or 0) if details else 0,
    )


def ask_together(url: str, cases: Sequence[Case], folder: Path) -> list[Reply]:
    """All at once."""
    with ThreadPoolExecutor(len(cases)) as pool:
        return list(pool.map(lambda case: ask(url, case, folder), cases))


def ask_raw(url: str, case: Case, text: str) -> Answer:
    """A rendered prompt and its media over SGLang's own /generate, which gives the prompt's logprobs as well.

    The answer's prompt holds the ids as SGLang names them there, from the second on.
    """
    data = {kind: [m.encoded for m in case.media if m.kind == kind] for kind in ("image", "video", "audio")}
    reply = Client(url).post(
        "/generate",
        {
            "text": text,
            **{f"{kind}_data": items for kind, items in data.items() if items},
            "mm_processor_kwargs": dict(case.options),
            "sampling_params": {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True},
            "return_logprob": True,
            "logprob_start_len": 0,
        },
    )["meta_info"]
    prompt, said = reply["input_token_logprobs"][1:], reply["output_token_logprobs"]
    return Answer(
        prompt=tuple(token for _, token, *_ in prompt),
        tokens=tuple(token for _, token, *_ in said),
        output_logprobs=tuple(logprob for logprob, *_ in said),
        prompt_logprobs=tuple(logprob for logprob, *_ in prompt),
        cached=reply["cached_tokens"],
    )


# ---- the reference


class Golden:
    """transformers on one checkpoint; keeps what it has computed, since modes repeat cases."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = OmniReference(checkpoint)
        self._known: dict[tuple[Case, tuple[int, ...]], tuple[OmniScores, Choice]] = {}
        self._nearest = NearestChoice(self.model.model)

    def prompt(self, case: Case) -> tuple[str, list[Item]]:
        """(the rendered conversation with a slot for every item, the items)."""
        items: list[Item] = []
        for medium in case.media:
            items += [medium.item, *([medium.heard] if medium.heard else [])]
        # the published processing puts a video's own sound right behind it
        heard = iter([medium.heard for medium in case.media if medium.kind == "video"])
        text = self.model.render(case.rendered())
        return re.sub("<video>", lambda slot: slot[0] + ("<so_embedding>" if next(heard) else ""), text), items

    def scores(self, case: Case, tokens: tuple[int, ...] = ()) -> OmniScores:
        """Scores of the whole conversation and these tokens after it."""
        return self._judged(case, tokens)[0]

    def nearest_choice(self, case: Case, tokens: tuple[int, ...] = ()) -> Choice:
        """Of all choices of experts in it, the one of which the reference is least sure."""
        return self._judged(case, tokens)[1]

    def _judged(self, case: Case, tokens: tuple[int, ...]) -> tuple[OmniScores, Choice]:
        if (case, tokens) not in self._known:
            text, items = self.prompt(case)
            self._nearest.take()
            scores = self.model.score_text(text, items, tokens)
            self._known[case, tokens] = scores, self._nearest.take()
        return self._known[case, tokens]


@lru_cache(maxsize=4)
def golden(checkpoint: Path) -> Golden:
    return Golden(checkpoint)


# ---- the comparison


def prompt_problem(reply: Reply, wanted: OmniScores) -> str | None:
    """How the server's prompt differs from the reference's; None if they are the same."""
    ids = wanted.ids[: len(wanted.ids) - len(reply.tokens)]
    if reply.prompt_tokens != len(ids):
        return f"{reply.prompt_tokens} prompt tokens, the reference has {len(ids)}"
    ours, theirs = reply.prompt_ids, ids
    if any(isinstance(medium.item, Video) and medium.item.pruning_rate for medium in reply.case.media):
        # where in a clip the retained tokens lie is known after encoding; the ids just count them
        ours, theirs = (tuple(i for i in ids if i != IMAGE_ID) for ids in (ours, theirs))
    if ours != theirs:
        pairs = zip(ours, theirs, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
        return f"other ids from place {at} on: {ours[at : at + 8]}, the reference has {theirs[at : at + 8]}"
    return None


def problem_of(reply: Reply, golden: Golden) -> tuple[float, str | None]:
    """(max |delta logprob| over the answer's tokens and the likeliest beside them, what is wrong or None)."""
    wanted = golden.scores(reply.case, reply.tokens)
    wrong_prompt = prompt_problem(reply, wanted)
    if wrong_prompt is not None:
        return float("inf"), wrong_prompt
    start = len(wanted.ids) - len(reply.tokens)
    assert len(reply.tokens) == NEW_TOKENS, reply.tokens
    found = compare("", Answer(wanted.ids[:start], reply.tokens, reply.logprobs, (), 0), lambda _: wanted.scores)
    beside_TK = torch.tensor(reply.tops_K, dtype=torch.float64) - wanted.top_logprobs_TK[start - 1 :]
    worst = max(found.worst, float(beside_TK.abs().max()))
    # a NaN fails
    if worst <= TOLERANCE and not found.disagreements and found.excluded <= MAX_UNSURE:
        return worst, None
    return worst, f"other tokens at {found.disagreements}, {found.excluded} of which the reference is not sure"


def problems(mode: str, replies: Sequence[Reply], golden: Golden) -> list[str]:
    """A line per reply that differs from the reference, or need not be equal; prints a line per reply in any case."""
    found = []
    for reply in replies:
        worst, problem = problem_of(reply, golden)
        choice = golden.nearest_choice(reply.case, reply.tokens)
        if choice.gap < MIN_GAP:
            problem = f"{problem or 'equal by chance'}: {choice}; give the case other media or another text"
        told = f"{mode}, {reply.case.name}: {reply.prompt_tokens} tokens, {reply.cached} cached, {worst:.1e}"
        told += f", experts {choice.gap:.0e} apart"
        print(told)
        if problem is not None:
            found.append(f"{told}: {problem}")
    return found


def assert_equal(mode: str, replies: Sequence[Reply], golden: Golden) -> None:
    """Prompts the same, every logprob within TOLERANCE, every greedy token of which the reference is sure the same."""
    assert replies
    found = problems(mode, replies, golden)
    assert not found, "\n".join(found)
