"""In a process of SGLang's benchmarks a processor counts an image as the server does; elsewhere there is none of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from support.waiting import NET_S

# what sglang.bench_serving does for each of its requests with pictures
COUNT = """
import json, sys
from PIL import Image
from sglang.benchmark.datasets.image import create_mm_data_row
from sglang.benchmark.utils import get_processor

processor = get_processor(sys.argv[1])
rows = []
for sizes in json.loads(sys.argv[2]):
    images = [Image.new("RGB", tuple(size)) for size in sizes]
    row = create_mm_data_row("What is here?", images, ["data:,"] * len(images), 16, processor, "sglang-oai-chat")
    rows.append([row.prompt_len, row.text_prompt_len, row.vision_prompt_len])
print(json.dumps([type(processor).__name__, rows]))
"""
SIZES = [[[640, 480]], [[1920, 1080]], [[640, 480], [64, 64]]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "omni"
    write_checkpoint(OMNI_PRESETS["toy"], folder)
    return folder


def count(checkpoint: Path, program: Path) -> tuple[str, list[list[int]], str]:
    """The processor's class, counts for SIZES, and the log."""
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(COUNT)
    done = subprocess.run(
        [sys.executable, program, checkpoint, json.dumps(SIZES)], capture_output=True, text=True, timeout=NET_S
    )
    assert done.returncode == 0, done.stderr
    name, rows = json.loads(done.stdout.splitlines()[-1])
    return name, rows, done.stderr


def test_images_count_as_they_are_prefilled(checkpoint: Path, tmp_path: Path) -> None:
    name, rows, log = count(checkpoint, tmp_path / "sglang" / "bench_images.py")
    assert name == "CountingProcessor"
    # two tags and a line end around each run; the last is the smallest that the checkpoint allows
    by_sizes = [vision for _, _, vision in rows]
    assert by_sizes[:2] == [300 + 3, 60 * 34 + 3] and by_sizes[2] > 300 + 2 * 3
    assert all(prompt == text + vision for prompt, text, vision in rows)
    assert len({text for _, text, _ in rows}) == 1
    assert "TokenizersBackend" not in log


def test_other_programs_get_what_they_got_before(checkpoint: Path, tmp_path: Path) -> None:
    """The fault that the processor mends: an image is the tag that stands for it."""
    name, rows, _ = count(checkpoint, tmp_path / "elsewhere" / "program.py")
    assert name != "CountingProcessor" and [vision for _, _, vision in rows[:2]] == [2, 2]
