"""Every command and snippet that a reader is shown is run, or stands in the one list of those that are not.

Those that need a server are in tests/e2e/test_snippets.py. What takes seconds runs in `make matrix`.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_nemotron import cli
from sglang_nemotron.cli import make_checkpoint
from sglang_nemotron.config import hub
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.config.omni import omni_spec
from support import children, snippets
from support.snippet_table import BLOCKS, ELSEWHERE, RULES, SHOWN
from support.snippets import BIN, ROOT, Snippet, adapted, classes, fits, found, of, shell

FOUND = found()


def by_key(name: str) -> list[object]:
    """The snippets of a class, as parameters."""
    return [pytest.param(snippet, id=snippet.key[:80]) for snippet in of(name)]


# ---- the classes


def test_every_snippet_is_in_one_class() -> None:
    assert len(FOUND) > 90
    assert {str(snippet): names for snippet in FOUND if len(names := classes(snippet)) != 1} == {}


def test_every_exception_and_rule_is_of_something() -> None:
    keys = [*SHOWN, *ELSEWHERE, *(key for block in BLOCKS.values() for key in block)]
    assert len(set(keys)) == len(keys)
    assert [key for key in keys if not any(fits(snippet, key) for snippet in FOUND)] == []
    assert all(reason.strip() for reason in SHOWN.values())
    taken = {name for snippet in FOUND for name in classes(snippet)}
    assert [name for name in RULES if name not in taken] == []


def test_tests_that_are_named_are_there() -> None:
    for name in ELSEWHERE.values():
        file, _, function = name.partition("::")
        names = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")}
        assert function in names, name


def test_every_class_is_run() -> None:
    """A class of which no test asks for its snippets would be a second list of what is not run."""
    texts = [Path(__file__).read_text(), (ROOT / "tests" / "e2e" / "test_snippets.py").read_text()]
    asked = {name for text in texts for name in re.findall(r'\b(?:by_key|of)\("(\w+)"\)', text)}
    assert asked == {*RULES, *BLOCKS}


def test_what_is_new_or_gone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```sh\ncurl http://x \\\n  -d '{\n}'   # asks\nhf download a/b\n```\n`sglang-nemotron fly --high`, `python`"
    new = list(snippets.in_markdown("X.md", f"{text}\n```\nx\n```"))
    assert [snippet.key for snippet in new] == [
        *("curl http://x -d '{ }'", "hf download a/b", "X.md: x", "sglang-nemotron fly --high")
    ]
    assert [classes(snippet) for snippet in new] == [["curl"], [], [], []]
    monkeypatch.setitem(SHOWN, "hf download c/d", "planted")
    with pytest.raises(AssertionError, match="hf download c/d"):
        test_every_exception_and_rule_is_of_something()
    with pytest.raises(AssertionError, match="'30000' is not in"):
        adapted("curl http://x", {"30000": "1"})


# ---- checkpoints, targets, flags


@pytest.mark.parametrize("snippet", by_key("checkpoint"))
def test_a_checkpoint_is_what_its_command_says(snippet: Snippet, tmp_path: Path) -> None:
    _, _, *words = shlex.split(snippet.key)
    parser = argparse.ArgumentParser()
    make_checkpoint.add_arguments(parser)
    asked = parser.parse_args(words)
    words[words.index(str(asked.out))] = str(out := tmp_path / asked.out.name)
    assert cli.main(["make-checkpoint", *words]) == 0
    config = json.loads((out / "config.json").read_text())
    spec = omni_spec(config).decoder if asked.omni else decoder_spec(config)
    assert hub.unfetched(out) is None and list(out.glob("*.safetensors"))
    assert ("vision_config" in config) == asked.omni
    assert (out / "hf_quant_config.json").exists() == (asked.quantization is not None)
    assert (len(list(out.glob("model-*.safetensors"))) > 1) == (asked.max_shard_bytes is not None)
    text = config.get("text_config") or config.get("llm_config") or config
    assert len(spec.layers) == text["num_hidden_layers"]
    # every size that a flag gave
    sizes = {name: value for name, value in vars(asked).items() if value is not None and name in text}
    assert sizes.items() <= text.items()


@pytest.mark.parametrize("snippet", by_key("make"))
def test_make_knows_its_targets(snippet: Snippet) -> None:
    """What a target does is run where it can be: lint and demo below, the tests by whoever reads this."""
    done = shell(adapted(snippet.key, {"make ": "make -n "}), ROOT)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize("snippet", by_key("launch"))
def test_a_launch_command_is_printed(
    snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """tests/host/test_launch_commands.py shows that SGLang takes it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    _, *words = shlex.split(snippet.key)
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    if "--page" in words:
        file = words[words.index("--page") + 1]
        assert (tmp_path / file).read_text().startswith("<!doctype html>") and err == f"  wrote {file}\n"
    else:
        command = json.loads(out)["command"] if "--json" in words else out
        assert command.startswith("sglang serve ") and "--model-path nvidia/" in command


@pytest.mark.parametrize("snippet", by_key("fragment"))
def test_flags_are_there(snippet: Snippet) -> None:
    name, *words = shlex.split(snippet.key)
    parser = argparse.ArgumentParser()
    importlib.import_module(f"sglang_nemotron.cli.{cli.COMMANDS[name]}").add_arguments(parser)
    assert [word for word in words if word.startswith("--") and word not in parser._option_string_actions] == []


@pytest.mark.matrix
def test_a_module_of_a_fork_has_a_class() -> None:
    (snippet,) = of("module")
    from sglang_nemotron.models.nemotron_h import NemotronHForCausalLM

    names: dict[str, object] = {"__name__": "fork"}
    exec(snippet.text, names)
    entry = names["EntryClass"]
    assert isinstance(entry, type) and issubclass(entry, NemotronHForCausalLM) and entry is not NemotronHForCausalLM


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No model of this machine's own cache is taken for a published name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no-hub"))


@pytest.mark.parametrize("snippet", by_key("plan"))
def test_a_plan_is_made(snippet: Snippet, no_cache: None, capsys: pytest.CaptureFixture[str]) -> None:
    _, *words = shlex.split(snippet.key)
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["fits"] is True if "--json" in words else "requests at once" in out


def test_the_plan_that_is_shown_is_what_is_printed(no_cache: None, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = of("planned")
    command = next(snippet for snippet in of("plan") if snippet.place == block.place)
    assert cli.main(shlex.split(command.key)[1:]) == 0
    assert capsys.readouterr().out == block.text


# ---- what takes a process of its own


@pytest.mark.matrix
@pytest.mark.parametrize("snippet", by_key("tests"))
def test_pytest_finds_what_is_to_run(snippet: Snippet) -> None:
    command = snippet.key.replace(".venv/bin/", f"{BIN}/")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = children.run([*shlex.split(command), "--collect-only", "-q"], {**env, "PATH": f"{BIN}:{env['PATH']}"}, ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    # by tests, or where it is told to be quiet twice by files
    assert re.search(r"^tests/\S+(::\S+|: \d+)$", done.stdout, re.M), done.stdout[-500:]


# parses as the program does, and ends where it would begin
_PARSE_ALONE = """
import argparse, runpy, sys
from pathlib import Path
parse = argparse.ArgumentParser.parse_args
def parsed(*args, **more):
    parse(*args, **more)
    raise SystemExit(0)
argparse.ArgumentParser.parse_args = parsed
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit("it never looked at its arguments")
"""


@pytest.mark.matrix
@pytest.mark.parametrize("snippet", by_key("benchmark"))
def test_a_benchmark_takes_its_arguments(snippet: Snippet) -> None:
    """They run for minutes, some on a GPU, and write the JSON that is committed; that says what they measured."""
    script, *words = shlex.split(re.sub(r"^\S*python ", "", snippet.key))
    done = children.run([sys.executable, "-c", _PARSE_ALONE, script, *words], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    wrong = children.run([sys.executable, "-c", _PARSE_ALONE, script, *words, "--no-such-flag"], cwd=ROOT)
    assert wrong.returncode == 2 and "--no-such-flag" in wrong.stderr


@pytest.mark.matrix
@pytest.mark.parametrize("snippet", by_key("doctor"))
def test_doctor(snippet: Snippet, tmp_path: Path) -> None:
    assert cli.main(["make-checkpoint", str(tmp_path / "toy")]) == 0
    done = shell(re.sub(r"\[?MODEL\]?", "toy", snippet.key), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    if "--json" in snippet.key:
        assert json.loads(done.stdout)["ok"] is True
    else:
        of_what = "toy" if "MODEL" in snippet.key else "Nemotron 3 Nano"
        assert done.stdout.rstrip().splitlines()[-1] == f"a server of {of_what} starts here"


@pytest.mark.matrix
@pytest.mark.parametrize("snippet", by_key("hook"))
def test_the_hook_is_installed(snippet: Snippet, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    done = shell(adapted(snippet.key, {".venv/bin/": ""}), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.access(tmp_path / ".git" / "hooks" / "pre-commit", os.X_OK)


@pytest.mark.matrix
@pytest.mark.parametrize("target", ["lint", "demo"])
def test_make_does_it(target: str) -> None:
    """As in a clone whose environment is this one; GNU make takes a file after `-o` for up to date."""
    venv = BIN.parent
    done = shell(f"make {target} VENV={venv} -o {venv}/.ready", ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if target == "demo":
        assert done.stdout.count("3. requests, with the openai client") == 2 and "all as promised" in done.stdout


@pytest.mark.matrix
@pytest.mark.parametrize("printed", by_key("printed"))
def test_evidence_is_as_it_was(printed: Snippet, tmp_path: Path) -> None:
    """SGLang's own part, with this package turned off in place of an environment without it."""
    env = {"SGLANG_NEMOTRON_DISABLE": "1"}
    programs = {("arch" if "sys.argv" in snippet.text else "cache"): snippet.text for snippet in of("program")}
    assert len(programs) == 2
    for name, flags in (("omni", ["--omni"]), ("text", [])):
        assert cli.main(["make-checkpoint", str(tmp_path / name), *flags]) == 0
    for command, shown in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)+)", printed.text, re.M):
        _, file, *words = command.split()
        (tmp_path / file).write_text(programs[file.partition("_")[0].removesuffix(".py")])
        done = children.run([sys.executable, file, *words], {**os.environ, **env}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        # a page breaks lines
        assert " ".join(shown.split()) in " ".join(done.stdout.split())
