"""What the examples share and yours need not: media where no file is given, and errors in two lines.

To copy an example, drop its lines that say `sample` and put a path of yours in their place.
"""

from __future__ import annotations

import os
import sys
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import openai


def file(name: str) -> Path:
    """The file that the command line gives, or else the package's own of this name: photo.jpg, clip.mp4, speech.mp3."""
    return files(name)[0]


def files(*names: str) -> list[Path]:
    """The files that the command line gives, or else these of the package's own."""
    if given := [Path(name) for name in sys.argv[1:]]:
        return given
    if find_spec("sglang_nemotron") is None:
        sys.exit(_two_lines("no file was given, and sglang-nemotron, which has some, is not installed", "give a FILE"))
    return [Path(str(resources.files("sglang_nemotron") / "cli" / "media" / name)) for name in names]


def plain_errors() -> None:
    """From now on a server or file that is not there ends the program in two lines instead of a traceback."""
    sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, openai.APIConnectionError):
        address = os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1")
        remedy = "`sglang serve --model-path MODEL` starts one; OPENAI_BASE_URL names another address"
        said = _two_lines(f"no server answers at {address}", remedy)
    elif isinstance(error, openai.APIStatusError):
        remedy = "omni_*.py need an Omni model, others any; the server's log says more"
        said = _two_lines(f"the server refused: {' '.join(error.message.split())}", remedy)
    elif isinstance(error, OSError) and error.filename:
        remedy = "give a file that is there, or none: the package ships one"
        said = _two_lines(f"{error.filename}: {error.strerror}", remedy)
    else:
        sys.__excepthook__(kind, error, trace)
        return
    print(said, file=sys.stderr)


def _two_lines(reason: str, remedy: str) -> str:
    return f"{Path(sys.argv[0]).name}: {reason}\n  remedy: {remedy}"
