"""`sglang-nemotron verify` against a fake server: 0 if sound, 1 for a fault in what it reuses, 2 if unproved."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.cli import main
from sglang_nemotron.verify import conversations
from support.fake_chats import FakeChats, fake_chats

QUICK = ["--new-tokens", "4", "--longest", "3000"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three conversations are enough for what is no matter of their kinds."""
    every = conversations.built_in

    def three(*args: Any, **kwargs: Any) -> list[conversations.Conversation]:
        return [one for one in every(*args, **kwargs) if one.name in ("short", "branching", "long")]

    monkeypatch.setattr(conversations, "built_in", three)


def _verify(fake: FakeChats, *more: str) -> int:
    with fake_chats(fake) as url:
        return main(["verify", url, *QUICK, *more])


def _two_lines(err: str) -> str:
    said, remedy = err.splitlines()[-2:]
    assert said.startswith("sglang-nemotron verify: ") and remedy.startswith("  remedy: ")
    return said + remedy


def test_a_sound_server_agrees(tmp_path: Path, capsys):
    fake = FakeChats()
    assert _verify(fake, "--json", str(tmp_path / "out.json")) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("AGREES") and "DISAGREES" not in out
    # how the bound was found, in numbers
    assert "of 480 logprobs none moved by more than 0.0e+00" in out and "what rounding in float32 costs" in out
    assert "its cache is flushed; prefixes end at exact tokens; prompts of more than 4096 tokens" in err
    raw = json.loads((tmp_path / "out.json").read_text())
    assert raw["passed"] and {run["mode"] for run in raw["runs"]} == {"warm", "batched", "chunked", "turns"}
    assert len(raw["conversations"]) == 8 and max(run["reused"] for run in raw["runs"]) > 2500
    # without SGLang's /generate, exact prefixes go where OpenAI takes tokens
    assert "/v1/completions" in fake.paths


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("off", [1e-3, -1e-3])
def test_a_fault_in_what_is_reused(off: float, tmp_path: Path, capsys):
    assert _verify(FakeChats(off=off), "--json", str(tmp_path / "out.json")) == 1
    out = capsys.readouterr().out
    assert out.rstrip().endswith("DISAGREES") and "|d| 1.0e-03, allowed" in out
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert all(run["agrees"] == (run["reused"] == 0) for run in runs)


@pytest.mark.usefixtures("few")
def test_a_fault_below_the_servers_own_noise_cannot_be_told(capsys):
    assert _verify(FakeChats(off=1e-3, sway=1e-2)) == 0
    assert re.search(r"A run may differ by 4 times that, [1-4]\.\de-02, or", capsys.readouterr().out)


@pytest.mark.usefixtures("few")
def test_a_server_that_is_all_noise(capsys):
    assert _verify(FakeChats(sway=2.0)) == 2
    assert "a probability might grow tenfold unseen" in _two_lines(capsys.readouterr().err)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("tie", "code"), [(1e-6, 0), (0.1, 1)])
def test_ties_may_fall_either_way(tie: float, code: int, capsys):
    assert _verify(FakeChats(tie=tie)) == code
    out = capsys.readouterr().out
    assert (", 0 where the two likeliest" in out) == (code == 1)
    assert ("; 0 took another greedy token for sure" in out) == (code == 0)


@pytest.mark.usefixtures("few")
def test_salts_where_the_cache_must_stay(capsys):
    fake = FakeChats(flush=True)
    assert _verify(fake, "--keep-cache") == 0
    assert not [path for path in fake.paths if "flush" in path]
    salts = {body.get("cache_salt") for body in fake.bodies}
    assert len(salts) > 30
    assert "every mode under a salt of its own" in capsys.readouterr().err
    assert _verify(FakeChats(flush=False)) == 0


@pytest.mark.usefixtures("few")
def test_without_exact_tokens_texts_are_cut(capsys):
    fake = FakeChats(tokenize=False)
    assert _verify(fake) == 0
    assert "/v1/completions" not in fake.paths and "prefixes end within texts" in capsys.readouterr().err
    assert _verify(replace(fake, off=1e-3)) == 1


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (FakeChats(cache=False), "nothing was reused.*--enable-cache-report"),
        (FakeChats(tells=False), "nothing was reused.*--enable-prompt-tokens-details"),
        (FakeChats(logprobs=False), "gives no logprobs.*remedy: allow them"),
        (FakeChats(flush=False, salts=False), "can neither be flushed nor knows cache_salt"),
        (FakeChats(context=400), "room for prompts of 380 tokens.*remedy: start it with a larger"),
    ],
    ids=["no cache", "untold", "no logprobs", "never cold", "no room"],
)
def test_what_proves_nothing(fake: FakeChats, said: str, capsys):
    assert _verify(fake) == 2
    out, err = capsys.readouterr()
    assert re.search(said, _two_lines(err)) and "AGREES" not in out.replace("DISAGREES", "")
    assert ("NOTHING WAS REUSED for 'long'" in out) == said.startswith("nothing")


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("off", "code"), [(0.0, 0), (1e-3, 1)])
def test_what_was_kept_while_an_answer_was_made(off: float, code: int, tmp_path: Path, capsys):
    fake = FakeChats(generate=True, off=off)
    assert _verify(fake, "--json", str(tmp_path / "out.json")) == code
    capsys.readouterr()
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    (after,) = (run for run in runs if (run["conversation"], run["mode"]) == ("own answer", "turns"))
    # the hit ends within the answer, just past a multiple of 256
    assert after["reused"] % 256 == 0 and after["reused"] + 10 == after["prompt_tokens"]
    assert after["agrees"] == (code == 0) and "/v1/completions" not in fake.paths


@pytest.mark.usefixtures("few")
def test_media(capsys):
    assert _verify(FakeChats(), "--media", "yes") == 2
    assert "fake takes no media" in _two_lines(capsys.readouterr().err)
    # one that swallows them silently
    assert _verify(FakeChats(images=0), "--media", "yes") == 2
    assert "an image made the prompt " in _two_lines(capsys.readouterr().err)
    assert _verify(FakeChats(images=300), "--media", "yes") == 0
    out = capsys.readouterr().out
    assert all(re.search(f"^{name} +turns .* agrees$", out, re.M) for name in ("image", "speech", "clip", "all media"))


@pytest.mark.parametrize("path", ["", "/v1", "/", "/v1/"])
def test_any_spelling_of_the_root(path: str):
    fake = FakeChats(context=100)
    with fake_chats(fake) as url:
        assert main(["verify", url + path]) == 2
    assert "/tokenize" in fake.paths


def test_no_server_and_no_such_endpoint(capsys):
    assert main(["verify", "http://127.0.0.1:9"]) == 2
    assert "http://127.0.0.1:9/v1/models does not answer" in _two_lines(capsys.readouterr().err)
    with fake_chats(FakeChats()) as url:
        assert main(["verify", url + "/elsewhere"]) == 2
    assert "/elsewhere/v1/models answered 404" in _two_lines(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["here"], "'here' is no address"), (["http://x", "--new-tokens", "0"], "--new-tokens is 0")],
)
def test_bad_arguments(words: list[str], said: str, capsys):
    assert main(["verify", *words]) == 2
    assert said in _two_lines(capsys.readouterr().err)


def test_help_says_how_the_bound_is_found(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for word in ("4 times the largest difference", "u = 2^-8 for bfloat16", "counted as a tie", "Exit code: 0"):
        assert word in out
