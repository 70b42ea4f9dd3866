"""What the commands print: errors of two lines, plain tables where they are piped, nothing loaded for a mistake."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_nemotron import cli
from sglang_nemotron.cli import console, demo
from support.children import run
from support.waiting import NET_S

PROGRAM = [sys.executable, "-m", "sglang_nemotron"]
TWO_LINES = re.compile(r"sglang-nemotron[^\n]*: [^\n]+\n  remedy: [^\n]+\n")
# what takes seconds to import, or is needed later alone
HEAVY = ("torch", "transformers", "sglang", "openai", "numpy", "rich", "huggingface_hub", "PIL")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "nonsense",
        "make-checkpoint",
        "make-checkpoint OUT --size huge",
        "make-checkpoint OUT --n-groups 3",
        "make-checkpoint OUT --max-shard-bytes lots",
        "make-checkpoint /proc/none/x",
        "demo --port 99999",
        "demo --port http",
        "demo --size full",
        "plan",
        "plan no/such/folder --gpu h200",
        "plan nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --gpu h42",
        "plan nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --gpu h100 --count 3",
        "plan nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --gpu h100 --image-size big",
        "parity",
        "parity no/such/folder",
        "parity OUT --modes other",
        "parity OUT --new-tokens 0",
        "parity nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --url http://127.0.0.1:9",
        "verify",
        "verify 127.0.0.1:30000",
        "verify http://127.0.0.1:9",
        "verify http://127.0.0.1:9 --longest 0",
        "doctor --nonsense",
        "command --model",
        "command --model other",
        "command --tp 3",
        "command --variant reasoning",
        "command --port 70000",
        "command --host a;b",
        "command --model omni --hardware l40s --tp 1",
        "command --variant fp8 --hardware a100",
        "command --page OUT --tp 2",
        "command --page /proc/none/x",
        "plan nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 --gpu h100 --nonsense",
        "bench speed http://127.0.0.1:9 --nonsense",
        "bench accuracy http://127.0.0.1:9 --temperature nan",
        "bench compare OUT.json",
        "bench speed http://127.0.0.1:9 --against=",
        "bench speed http://127.0.0.1:9 --images 1 --image-size big",
    ],
)
def test_errors_are_two_lines(words: str, tmp_path: Path) -> None:
    words = words.replace("OUT", str(tmp_path / "out"))
    done = run([*PROGRAM, *words.split()], {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)})
    assert done.returncode != 0 and done.stdout == "" and TWO_LINES.fullmatch(done.stderr.lstrip("\n")), done.stderr


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("plan x --gpu h100 --nonsense 3", "sglang-nemotron plan"),
        ("bench speed http://x --nonsense 3", "sglang-nemotron bench speed"),
        ("bench compare a b c --nonsense", "sglang-nemotron bench compare"),
        ("command --nonsense=3", "sglang-nemotron command"),
        ("--nonsense plan x", "sglang-nemotron"),
    ],
)
def test_an_unknown_flag_is_told_by_who_got_it(words: str, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    said, remedy = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and said.startswith(f"{program}: unrecognized arguments: ") and "--nonsense" in said
    assert remedy == f"  remedy: `{program} --help` says what it takes"


def every_parser(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from every_parser(inner)


def test_every_float_is_read_as_a_finite_number() -> None:
    """nan passes every comparison with a bound, so no flag may take it."""
    actions = [action for parser in every_parser(cli._parser()) for action in parser._actions]
    assert sum(action.type is console.finite for action in actions) >= 15
    assert [action.dest for action in actions if action.type is float] == []
    for text in ("nan", "inf", "-inf", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is no finite number"):
            console.finite(text)
    assert console.finite("-1e3") == -1000


@pytest.mark.parametrize("text", ["1920", "0x4", "axb", "10x0", "00x5", "", "1x2x3", "-1x2", "1920 x 1080"])
def test_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no size; write WIDTHxHEIGHT in pixels"):
        console.size(text)
    assert console.size("1920x1080") == (1920, 1080)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("none/out.json", r"--json \S*none/out.json: \S*none is no folder\n  remedy: make it, or name another file"),
        (".", r"--json \S+ is a folder\n  remedy: name a file in it"),
    ],
)
def test_a_file_that_cannot_be_written(where: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        console.check_file("--json", tmp_path / where)
    console.check_file("--json", tmp_path / "out.json")
    console.check_file("--json", None)


def loaded(words: list[str]) -> set[str]:
    """Of HEAVY, what a command imports until it ends."""
    code = (
        "import json, sys\nfrom sglang_nemotron.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=NET_S)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in cli.COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    assert loaded(words) == set()


def test_a_mistake_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded(["make-checkpoint", str(tmp_path / "out"), "--n-groups", "3"]) == set()
    # what does the work does
    assert {"torch", "rich"} <= loaded(["make-checkpoint", str(tmp_path / "out")])


# ---- two lines


def test_an_error_may_bring_its_remedy_and_details() -> None:
    assert console.two_lines("x", "bad", "mend it") == "x: bad\n  remedy: mend it\n"
    assert console.two_lines("x", "bad\n  remedy: own\n way", "mend it") == "x: bad\n  remedy: own way\n"
    assert console.two_lines("x", "bad\nlog 1\nlog 2", "mend it") == "log 1\nlog 2\n\nx: bad\n  remedy: mend it\n"


@pytest.mark.parametrize(("text", "fits"), [("1", True), ("65535", True), ("0", False), ("65536", False), ("x", False)])
def test_ports(text: str, fits: bool) -> None:
    if fits:
        assert demo._port(text) == int(text)
    else:
        with pytest.raises(Exception, match="from 1 to 65535"):
            demo._port(text)


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sglang_nemotron.cli import doctor

    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "\nsglang-nemotron doctor: interrupted\n"


# ---- tables


ROWS = [("a", 1, "word " * 60), ("bbb", 22, "[red]x[/red] :smile:")]


def test_a_piped_table_is_plain_and_whole() -> None:
    lines = [line.rstrip() for line in console.as_text(console.table(None, ("name", ">n", "said"), ROWS)).splitlines()]
    assert lines[0].split() == ["name", "n", "said"]
    assert lines[1] == "a      1  " + ("word " * 60).rstrip()
    assert lines[2] == "bbb   22  [red]x[/red] :smile:"


def test_a_terminals_table_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    main, other = pty.openpty()
    with os.fdopen(other, "w") as terminal:
        console.console(terminal).print(console.table(None, ("name", ">n", "said"), ROWS))
        terminal.flush()
        text = os.read(main, 65536).decode()
    os.close(main)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    assert len(lines) > 8 and max(map(len, lines)) <= 40


# ---- progress


def test_quick_work_says_nothing_and_long_work_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Bar("work") as bar:
        bar(1, 4)
        assert capsys.readouterr().err == ""
        now[0] += 10
        bar(2, 4)
        bar(3, 4)
    assert re.fullmatch(r"  work: 50 %(, \d+ s to go)?\n", capsys.readouterr().err)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with console.Bar("work") as bar:
        bar(2, 4)
    assert "work" in stream.getvalue() and "2/4" in stream.getvalue()
