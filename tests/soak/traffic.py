"""A seed comes in, an endless script of requests, chores and rests goes out: the same script for the same seed.

Waves of bursts, steady traffic and trickles, each ended by a rest. Must never know a server or the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from soak.asks import CHAT, COMPLETION, GENERATE, Ask, Chore, Place, Rest, Step
from support.omni_requests import Shelf, draw_wish

# (wave, weight, requests at least and at most, seconds between two on average)
WAVES = (("burst", 3, (40, 100), 0.0), ("steady", 4, (40, 120), 0.12), ("trickle", 2, (4, 12), 0.8))
# ids of ordinary words begin here in every checkpoint of ours
FIRST_ID = 1000
# of a prompt cut to a grid of states, the places around which something may go wrong
EDGES = (1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025)
# SGLang refuses a prompt that leaves fewer places of the context free
RESERVED = 7
WORDS = ["what", "where", "lake", "hill", "dusk", "walks", "sings", "red", "seven", "water", "and", "of", "the", "bird"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks at a place.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "times": {"type": "integer"}},
                "required": ["place"],
            },
        },
    },
    {"type": "function", "function": {"name": "wait", "parameters": {"type": "object", "properties": {}}}},
]
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 6},
    {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]},
)


def script(seed: int, place: Place) -> Iterator[Step]:
    """Waves without end."""
    draw = random.Random(seed)
    kinds = _kinds(place)
    names, weights = list(kinds), [weight for weight, _ in kinds.values()]
    count = 0
    while True:
        wave, _, (least, most), gap = draw.choices(WAVES, [weight for _, weight, *_ in WAVES])[0]
        for number in range(draw.randint(least, most)):
            pause = draw.expovariate(1 / gap) if gap and number else 0.0
            # now and then in the midst of traffic, where they must wait or be refused
            if draw.random() < 0.01:
                yield Step(pause, Chore(draw.choice(("flush", "weights"))), wave)
            name = draw.choices(names, weights)[0]
            count += 1
            yield Step(pause, kinds[name][1](draw, f"soak-{seed}-{count}"), wave)
        chores = [Chore("flush")] * (draw.random() < 0.3) + [Chore("weights")] * (draw.random() < 0.2)
        yield Step(0.0, Rest(tuple(chores)), wave)


Maker = Callable[[random.Random, str], Ask]


def _kinds(place: Place) -> dict[str, tuple[float, Maker]]:
    """(weight, maker) by name; a maker gets what to draw from and an id that no other request has."""

    def ids(draw: random.Random, number: int) -> list[int]:
        return [draw.randrange(FIRST_ID, place.top_id) for _ in range(number)]

    def length(draw: random.Random, new_tokens: int) -> int:
        """From 1 to what the context has room for, most of them short, some at an edge."""
        most = min(place.context - new_tokens - 1, place.context - RESERVED)
        if draw.random() < 0.2:
            return min(most, draw.choice((*EDGES, most - 1, most)))
        return min(most, max(1, round(most ** draw.random())))

    def lengths(draw: random.Random, _: str) -> Ask:
        new_tokens = draw.randint(1, 24)
        return _tokens("lengths", ids(draw, length(draw, new_tokens)), new_tokens)

    def branch(draw: random.Random, _: str) -> Ask:
        """A path through one of three trees: long shared beginnings that part at any token."""
        tree, path = draw.randrange(3), []
        for depth in range(draw.randint(1, 4)):
            which = draw.randrange(2)
            part = random.Random(f"{tree} {depth} {which} {len(path)}")
            path += ids(part, part.randint(20, 300))
        path += ids(draw, draw.randint(0, 5))
        return _tokens("branches", path[: place.context - 32], draw.randint(1, 24))

    def long_stream(draw: random.Random, kind: str, manner: Any, after: float, tokens: int) -> Ask:
        checked = manner == "slowly"
        ask = _tokens(kind, ids(draw, draw.randint(1, 60)), tokens, stream=True, checked=checked)
        return Ask(kind, ask.path, ask.body, manner, after, "served" if checked else "ended", checked)

    def aborted(draw: random.Random, rid: str) -> Ask:
        body = {**_chat(draw, max_tokens=400), "rid": rid, "stream": draw.random() < 0.5}
        return Ask("aborted", CHAT, body, "aborts", draw.uniform(0, 2), fate="ended")

    def endless(draw: random.Random, _: str) -> Ask:
        """As long as the context: the server's own limit on a request's time may end it."""
        ask = _tokens("endless", ids(draw, 8), place.context - 16, stream=True, checked=False)
        return Ask("endless", ask.path, ask.body, "gives up", draw.uniform(5, 15), fate="ended")

    def bad(draw: random.Random, _: str) -> Ask:
        return place.bad[draw.choice(sorted(place.bad))]

    kinds: dict[str, tuple[float, Maker]] = {
        "chat": (10, _plain),
        "lengths": (8, lengths),
        "branches": (8, branch),
        "n": (4, _several),
        "tools": (4, _tools),
        "schemas": (4, _schemas),
        "budgets": (4, _budgets),
        "sampled": (4, _sampled),
        "other endpoints": (3, lambda draw, _: _elsewhere(draw, place.model)),
        "read slowly": (3, lambda draw, _: long_stream(draw, "read slowly", "slowly", 0.05, draw.randint(40, 160))),
        "hung up": (4, lambda draw, _: long_stream(draw, "hung up", "hangs up", draw.randint(1, 40), 400)),
        "given up": (4, _given_up),
        "aborted": (4, aborted),
        "endless": (0.3, endless),
        "half a body": (2, lambda draw, _: Ask("half a body", CHAT, _chat(draw), "half a body", fate="ended")),
        "bad": (10, bad),
    }
    if place.omni:
        shelf = Shelf(0)
        kinds["media"] = (24, lambda draw, _: _media(draw, shelf))
    return kinds


def _sentence(draw: random.Random, most: int = 60) -> str:
    return " ".join(draw.choices(WORDS, k=round(most ** draw.random())))


def _chat(draw: random.Random, *, max_tokens: int | None = None, **fields: Any) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": _sentence(draw)}] * (draw.random() < 0.3)
    for _ in range(draw.choice((0, 0, 1, 2))):
        messages.append({"role": "user", "content": _sentence(draw)})
        messages.append({"role": "assistant", "content": _sentence(draw)})
    messages.append({"role": "user", "content": _sentence(draw)})
    limit = draw.randint(1, 32) if max_tokens is None else max_tokens
    return {"model": "default", "messages": messages, "max_tokens": limit, "ignore_eos": True, **fields}


def _greedy(draw: random.Random, kind: str, body: dict[str, Any], **fields: Any) -> Ask:
    asked = {**body, "temperature": 0, "logprobs": True, "top_logprobs": 2, "stream": draw.random() < 0.5, **fields}
    return Ask(kind, CHAT, asked, checked=True)


def _tokens(kind: str, ids: Sequence[int], new_tokens: int, *, stream: bool = False, checked: bool = True) -> Ask:
    params = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
    logprobs = {"return_logprob": True, "top_logprobs_num": 2} if checked else {}
    body = {"input_ids": list(ids), "sampling_params": params, "stream": stream, **logprobs}
    return Ask(kind, GENERATE, body, checked=checked)


def _plain(draw: random.Random, _: str) -> Ask:
    return _greedy(draw, "chat", _chat(draw))


def _several(draw: random.Random, _: str) -> Ask:
    return _greedy(draw, "n", _chat(draw), n=draw.choice((2, 3, 5)))


def _tools(draw: random.Random, _: str) -> Ask:
    forced: Any = {"type": "function", "function": {"name": "look"}}
    choice = draw.choice(("auto", "required", "none", forced))
    # random weights do not close a string by themselves: what a grammar lets run on ends with its tokens
    return _greedy(draw, "tools", _chat(draw, ignore_eos=False, tools=TOOLS, tool_choice=choice, **_thinks(draw)))


def _schemas(draw: random.Random, _: str) -> Ask:
    schema = {"name": "answer", "schema": draw.choice(SCHEMAS), "strict": True}
    form = draw.choice(
        (
            {"response_format": {"type": "json_schema", "json_schema": schema}},
            {"response_format": {"type": "json_object"}},
            {"regex": "(red|blue) [0-9]{2,4}"},
        )
    )
    return _greedy(draw, "schemas", _chat(draw, ignore_eos=False, **form, **_thinks(draw)))


def _budgets(draw: random.Random, _: str) -> Ask:
    budget = {"thinking_budget": draw.choice((0, 1, 5, 20)), "thinking_budget_grace_period": draw.choice((0, 4))}
    return _greedy(draw, "budgets", _chat(draw, max_tokens=32, **budget))


def _sampled(draw: random.Random, _: str) -> Ask:
    own = {"temperature": draw.choice((0.6, 1.0)), "top_p": 0.95, "n": draw.choice((1, 2)), "stop": ["lake", "\n\n"]}
    return Ask("sampled", CHAT, _chat(draw, stream=draw.random() < 0.5, **own))


def _thinks(draw: random.Random) -> dict[str, Any]:
    return {"chat_template_kwargs": {"enable_thinking": False}} if draw.random() < 0.7 else {}


def _elsewhere(draw: random.Random, model: str) -> Ask:
    said = _sentence(draw)
    path, body = draw.choice(
        (
            (COMPLETION, {"prompt": said, "max_tokens": 8, "ignore_eos": True}),
            ("/v1/messages", {"messages": [{"role": "user", "content": said}], "max_tokens": 8}),
            ("/v1/responses", {"input": said, "max_output_tokens": 8}),
            ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": said}]}),
        )
    )
    return Ask("other endpoints", path, {"model": model, **body})


def _given_up(draw: random.Random, _: str) -> Ask:
    body = _chat(draw, max_tokens=draw.randint(50, 300), stream=draw.random() < 0.5, n=draw.choice((1, 1, 2)))
    return Ask("given up", CHAT, body, "gives up", round(10 ** draw.uniform(-2, 0.5), 3), fate="ended")


def _media(draw: random.Random, shelf: Shelf) -> Ask:
    wish = draw_wish(draw, shelf)
    # the wish as the tests of mixes send it
    asked = {"messages": list(wish.messages), "max_tokens": wish.max_tokens, "n": wish.n, "ignore_eos": True}
    ask = _greedy(draw, "media", {"model": "default", **asked, **wish.options}, stream=wish.stream)
    if wish.quit_after is not None:
        return Ask("media, given up", CHAT, ask.body, "gives up", wish.quit_after, fate="ended", media=True)
    if wish.hang_up:
        return Ask("media, hung up", CHAT, ask.body, "hangs up", 1, fate="ended", media=True)
    return Ask("media", CHAT, ask.body, checked=True, media=True)
