"""The demo's media are real files of the kinds it says, small, and their absence is said."""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_nemotron.cli import demo, demo_media
from sglang_nemotron.media import libraries

TEST_MEDIA = Path(__file__).parents[1] / "data" / "media"


def test_the_photo_is_a_photo():
    from PIL import Image

    picture = Image.open(io.BytesIO(demo_media.photo()))
    assert (picture.format, picture.size, picture.mode) == ("JPEG", (640, 480), "RGB")
    # not a plain surface: bright sun, dark hills
    low, high = picture.convert("L").getextrema()
    assert low < 70 and high > 220


def test_sentence_and_clip_are_those_of_the_tests():
    assert demo_media.speech() == (TEST_MEDIA / "speech.mp3").read_bytes()
    assert demo_media.clip() == (TEST_MEDIA / "clip.mp4").read_bytes()


def test_the_package_stays_small():
    folder = Path(demo_media.__file__).parent / "media"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000


def _acts(**options: str | None) -> list[str]:
    given = {"size": "tiny", "only": None, **options}
    return [act.name for act in demo._acts(given["size"] or "", given["only"])]


def test_both_models_are_shown_unless_one_is_asked_for():
    assert _acts() == ["Nemotron 3 Nano", "Nemotron 3 Nano Omni"]
    assert _acts(only="text") == ["Nemotron 3 Nano"] and _acts(only="omni") == ["Nemotron 3 Nano Omni"]


def test_without_the_extra_text_alone_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(libraries, "missing", lambda: ["av", "librosa"])
    assert _acts() == ["Nemotron 3 Nano"]
    assert capsys.readouterr().out == (
        "text only, since Omni needs av, librosa: pip install '.[omni]' in a clone of sglang-nemotron\n\n"
    )
    assert _acts(only="text") == ["Nemotron 3 Nano"] and capsys.readouterr().out == ""
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert demo.run(parser.parse_args(["--only", "omni"])) == 1
    assert "Omni needs av, librosa\n  remedy: pip install" in capsys.readouterr().err


def test_what_is_missing_is_found_without_importing_it():
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('av', 'PIL'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from sglang_nemotron.cli import demo, demo_media\n"
        "assert not {'av', 'librosa', 'PIL', 'soundfile', 'soxr'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert libraries.missing() == []


def test_every_architecture_of_the_demo_has_a_class_to_look_for():
    from sglang_nemotron.checkpoint.config_files import config_json
    from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS

    for spec in (PRESETS["tiny"], OMNI_PRESETS["tiny"]):
        for architecture in config_json(spec)["architectures"]:
            module, _, name = demo._OUR_CLASSES[architecture].rpartition(".")
            assert name == architecture
            file = Path(demo.__file__).parents[1] / f"{module.removeprefix('sglang_nemotron.').replace('.', '/')}.py"
            assert re.search(rf"^class {name}\b", file.read_text(), re.MULTILINE), file
