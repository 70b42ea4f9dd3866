"""`sglang-nemotron command`: the command on stdout, its reasons beside it, refusals of two lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_nemotron.cli import main
from sglang_nemotron.launch.choose import launch
from sglang_nemotron.launch.page import page
from sglang_nemotron.launch.table import TABLE


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["command", *words])
    return (code, *capsys.readouterr())


def test_on_stdout_there_is_the_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys)
    assert code == 0 and out == launch({}).command + "\n"
    assert err == "".join(f"  {text}\n" for text in (*launch({}).changed, launch({}).evidence))


def test_every_choice_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {
        **{"model": "omni", "hardware": "b200", "variant": "fp8", "tp": "2", "kv-cache-dtype": "fp8_e4m3"},
        **{"reasoning-parser": "off", "tool-call-parser": "off", "host": "::1", "port": "8000"},
        **{"max-running-requests": "64", "format": "line"},
    }
    assert list(asked) == [choice.id for choice in TABLE.choices]
    code, out, _ = said(capsys, *(word for name, value in asked.items() for word in (f"--{name}", value)))
    assert code == 0 and out == launch(asked).command + "\n"
    assert out == (
        "sglang serve --model-path nvidia/Nemotron-3-Nano-Omni-30B-A3B-FP8 --host ::1 --port 8000 --tp 2 "
        "--attention-backend flashinfer --kv-cache-dtype fp8_e4m3 --max-running-requests 64\n"
    )


def test_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = said(capsys, "--model", "omni", "--explain")
    ours = launch({"model": "omni"})
    assert out == ours.command + "\n"
    lines = err.splitlines()
    for one, line in zip(ours.flags, lines, strict=False):
        assert line.split() == [one.flag, one.value, *one.why.split()]
    assert len(lines) == len(ours.flags) + len(ours.changed) + 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "--json", "--tp", "2")
    report, ours = json.loads(out), launch({"tp": "2"})
    assert code == 0 and err == "" and report["refused"] is None
    assert (report["command"], report["words"], report["choices"]) == (ours.command, ours.words, ours.values)
    assert [(one["flag"], one["value"], one["why"]) for one in report["flags"]] == [
        (one.flag, one.value, one.why) for one in ours.flags
    ]
    assert report["page"].startswith("command.html#model=nano&hardware=h200&variant=fp8&tp=2&")


def test_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "omni", "--hardware", "l40s", "--tp", "1")
    code, out, err = said(capsys, *words)
    reason, remedy = "TP 1 is not supported on L40S for this model, says the Omni page", "choose TP 2 or more"
    assert (code, out, err) == (1, "", f"sglang-nemotron command: {reason}\n  remedy: {remedy}\n")
    code, out, err = said(capsys, *words, "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == {"command": None, "refused": {"reason": reason, "remedy": remedy}}


def test_what_is_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "--tp", "3", "--json")
    assert (code, out, err) == (2, "", "sglang-nemotron command: --tp is '3'\n  remedy: give 1, 2, 4, 8\n")


def test_the_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.html"
    code, out, err = said(capsys, "--page", str(file))
    assert (code, out, err) == (0, "", f"  wrote {file}\n") and file.read_text() == page()
    file.unlink()
    for where, reason in ((tmp_path / "none" / "x", f"{tmp_path / 'none'} is no folder"), (tmp_path, "is a folder")):
        code, _, err = said(capsys, "--page", str(where))
        assert code == 2 and err.startswith(f"sglang-nemotron command: --page {where}") and reason in err
    code, _, err = said(capsys, "--page", str(file), "--tp", "2")
    assert code == 2 and not file.exists() and "--page writes every choice, and --tp makes one" in err
