"""`sglang-nemotron demo --only omni`: the server takes a photo, a sentence and a clip, and nothing is left behind."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from clip_sound import trailing_tokens

from support.children import run

DEMO = [str(Path(sys.executable).parent / "sglang-nemotron"), "demo", "--only", "omni"]
# tokens of each prompt. The photo is 20 x 15 tokens and its two tags, after a system turn of 18; the others' questions
# differ by a few words from that without media
PROMPTS = {
    "no media": 42,
    "a photo": 42 + 18 + 20 * 15 + 2,
    "and a second turn": 415,
    "a spoken sentence": 113,
    "a clip": 597,
    "a clip with its sound": 645 + trailing_tokens(),
    "all three at once": 960,
}


@pytest.mark.server
@pytest.mark.matrix
def test_demo_shows_every_medium_and_cleans_up(tmp_path: Path):
    done = run([*DEMO, "--dir", tmp_path])
    assert done.returncode == 0, done.stdout + done.stderr
    prompts = {
        name.strip(): int(tokens)
        for name, tokens in re.findall(r"^   (.{22}) *(\d+) +[1-9]\d* +\d+ +[\d.]+  (?:stop|length)", done.stdout, re.M)
    }
    assert prompts == PROMPTS
    cached = re.search(r"and a second turn +\d+ +\d+ +(\d+)", done.stdout)
    assert cached and int(cached[1]) > 300
    assert "sglang_nemotron.models.nemotron_omni.NemotronH_Nano_Omni_Reasoning_V3" in done.stdout
    assert list(tmp_path.iterdir()) == []
