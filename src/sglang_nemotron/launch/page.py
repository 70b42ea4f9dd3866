"""The launch table as one static page: no framework, no network, nothing beside the file.

In: the table, and three files beside this one (`page.html`, `page.css`, `page.js`); out: the text of the page, the same
for the same table. `docs/command.html` is this text, and a test holds the two together.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sglang_nemotron.launch.table import TABLE

_HERE = Path(__file__).parent


def page() -> str:
    """The whole page."""
    text = _read("page.html")
    for place, content in (
        ("/* STYLE */", _read("page.css")),
        ("/* TABLE */", _table()),
        ("/* SCRIPT */", _read("page.js")),
    ):
        assert text.count(place) == 1, f"{place} stands once in page.html"
        text = text.replace(place, content.rstrip("\n"))
    return text


def _table() -> str:
    # no tag may begin within a script element
    return json.dumps(asdict(TABLE), indent=1).replace("<", "\\u003c")


def _read(name: str) -> str:
    return (_HERE / name).read_text()
