"""What docs promise to forks is there: the names, and the example's subclass under the name that checkpoints say."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from support.examples import EXAMPLES
from support.waiting import NET_S

ROOT = Path(__file__).parents[2]


def names() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "forks.md").read_text()
    rows = re.findall(r"^\| `(sglang_nemotron[\w.]*)` \| (.+) \|$", text, re.M)
    return [(module, name) for module, listed in rows for name in re.findall(r"`(\w+)`", listed)]


def test_every_listed_name_is_there() -> None:
    # as a program of a fork imports them: each in the docs' order, in a process without our plugin's doors
    lines = [f"from {module} import {name}" for module, name in names()]
    assert len(lines) >= 15
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=NET_S)
    assert done.returncode == 0, done.stderr
    assert importlib.util.find_spec("sglang_nemotron.nowhere") is None


def test_what_the_examples_import_is_listed() -> None:
    listed = set(names())
    for name in ("fork_import.py", "engine_offline.py"):
        text = (EXAMPLES / name).read_text()
        found = re.findall(r"from (sglang_nemotron[\w.]*) import (\w+)", text)
        assert found
        # a module may be imported whole
        modules = {module for module, _ in listed}
        assert [pair for pair in found if pair not in listed and ".".join(pair) not in modules] == []


def test_the_subclass_has_the_name_of_checkpoints() -> None:
    from sglang_nemotron.family import TEXT
    from sglang_nemotron.models.nemotron_h import NemotronHForCausalLM

    spec = importlib.util.spec_from_file_location("fork_import", EXAMPLES / "fork_import.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entry = module.EntryClass
    assert entry.__name__ == TEXT and issubclass(entry, NemotronHForCausalLM) and entry is not NemotronHForCausalLM
