"""Print the command that serves Nemotron 3 Nano or Nano Omni on your GPU, with the reason of each flag.

Every choice that SGLang's two pages about these models offer; what they refuse is refused with its reason, except
where SGLang serves it by now. Nothing is started, and neither SGLang nor a GPU is looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from sglang_nemotron.cli.console import check_file, fail
from sglang_nemotron.launch import choose, page
from sglang_nemotron.launch.choose import Launch, Refused
from sglang_nemotron.launch.kinds import Choice
from sglang_nemotron.launch.table import TABLE

_PROGRAM = "sglang-nemotron command"

_EPILOG = """\
What is not chosen is as the model's page has it. On stdout there is the command alone; on stderr what differs from
the page and what was tried, with --explain also the reason of each flag. docs/command.html offers the same choices in
a browser; --page writes it anew.

examples:
  sglang-nemotron command
  sglang-nemotron command --model nano --variant fp8 --hardware h200 --tp 2 --kv-cache-dtype fp8_e4m3 --explain
  sglang-nemotron command --model omni --variant nvfp4 --hardware h100 --tp 1 --host 127.0.0.1 --json
  sglang-nemotron command --page command.html

Exit code: 0 with a command, 1 if these choices are refused, 2 for a value that is not offered.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`, one for each choice of the launch table."""
    parser.epilog = _EPILOG
    for choice in TABLE.choices:
        # values are judged by the table, which says the same on the page
        parser.add_argument(choice.flag, metavar=_metavar(choice), help=_help(choice))
    parser.add_argument("--explain", action="store_true", help="say on stderr why each flag is there")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout: command, reasons, what was tried"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page that offers all of this, and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """Print the command. Returns 0, 1 if it is refused, 2 for what is not offered."""
    given = vars(args)
    asked = {c.id: given[name] for c in TABLE.choices if given[name := c.id.replace("-", "_")] is not None}
    try:
        if args.page is not None:
            _write_page(args.page, asked)
        else:
            _print(choose.launch(asked), args)
    except Refused as refused:
        if args.json:
            print(
                json.dumps({"command": None, "refused": {"reason": refused.reason, "remedy": refused.remedy}}, indent=2)
            )
        else:
            fail(_PROGRAM, refused, refused.remedy)
        return 1
    except (ValueError, OSError) as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what there is")
        return 2
    return 0


def _write_page(file: Path, asked: dict[str, str]) -> None:
    if asked:
        flag = next(choice.flag for choice in TABLE.choices if choice.id in asked)
        raise ValueError(f"--page writes every choice, and {flag} makes one\n  remedy: leave one of the two out")
    check_file("--page", file)
    file.write_text(page.page())
    print(f"  wrote {file}", file=sys.stderr)


def _print(found: Launch, args: argparse.Namespace) -> None:
    if args.json:
        report = {
            "command": found.command,
            "words": found.words,
            "choices": dict(found.values),
            "flags": [asdict(one) for one in found.flags],
            "changed": list(found.changed),
            "evidence": found.evidence,
            "page": f"command.html{choose.fragment(found.values)}",
            "refused": None,
        }
        print(json.dumps(report, indent=2))
        return
    print(found.command, flush=True)
    width = max(len(f"{one.flag} {one.value}") for one in found.flags if one.flag != "--model-path")
    for one in found.flags if args.explain else ():
        print(f"  {f'{one.flag} {one.value}':<{width}}  {one.why}", file=sys.stderr)
    for text in (*found.changed, found.evidence):
        print(f"  {text}", file=sys.stderr)


def _metavar(choice: Choice) -> str:
    return "|".join(option.id for option in choice.options) if choice.options else choice.id.split("-")[-1].upper()


def _help(choice: Choice) -> str:
    defaults = dict.fromkeys(choose.default(choice, {"model": model.id}) for model in TABLE.choices[0].options)
    said = " for Nano, ".join(value or "none" for value in defaults) + (" for Omni" if len(defaults) > 1 else "")
    return f"{choice.help} (default: {said})".replace("%", "%%")
