"""What mkdocs does not do by itself for this repository: README and its neighbours become pages, examples become pages,
links lead where they lead on GitHub, and links out of the site are listed in `.site/external-links.txt`. It fetches
nothing.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# files of the root, and the page that each becomes
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
# with `strict`, a warning of this logger ends the build
log = logging.getLogger("mkdocs.plugins.site")

_FENCE = re.compile(r"^( *)(`{3,})[^\n]*\n.*?^ *\2`*$", re.M | re.S)
_LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^()\s]+)\)")
_external: dict[str, set[str]] = {}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that do not lie in docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.suffix in (".md", ".py", ".json"):
            source = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, page_of(source), content=_shown(path)))
    return files


def page_of(source: str) -> str:
    """The page, named as mkdocs names it, of a file of the repository; "" for one that is none."""
    if source in PAGES:
        return PAGES[source]
    if source.startswith("examples/"):
        return source if source.endswith(".md") else source + ".md"
    return source.removeprefix("docs/") if source.startswith("docs/") else ""


def source_of(page: str) -> str:
    """The file of the repository that a page is made of."""
    for name, made in PAGES.items():
        if page == made:
            return name
    if page.startswith("examples/"):
        return page if (ROOT / page).exists() else page.removesuffix(".md")
    return f"docs/{page}"


def _shown(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".md":
        return text
    return f"# `{path.relative_to(ROOT).as_posix()}`\n\n```{path.suffix[1:].replace('py', 'python')}\n{text}```\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrites links between files of the repository to links between pages; not inside code."""
    source = source_of(page.file.src_uri)
    if page.file.src_uri.startswith("examples/") and not source.endswith(".md"):
        return markdown
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_linked(markdown[end : fence.start()], source, page.file.src_uri), fence[0]]
        end = fence.end()
    return "".join([*parts, _linked(markdown[end:], source, page.file.src_uri)])


def _linked(text: str, source: str, page: str) -> str:
    def rewritten(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", link["target"]):
            _external.setdefault(link["target"], set()).add(source)
            return link[0]
        if not target:
            return link[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if (ROOT / wanted).is_dir():
            wanted += "/README.md"
        made = page_of(wanted)
        if not made or not (ROOT / wanted).is_file():
            log.warning("%s links %s, which is no page of the site", source, link["target"])
            return link[0]
        there = posixpath.relpath(made, posixpath.dirname(page) or ".")
        return f"{link['text']}({there}{'#' + anchor if anchor else ''})"

    return _LINK.sub(rewritten, text)


def on_post_build(config: Any) -> None:
    """Lists what leads out of the site: it is not fetched, so nobody knows whether it is there."""
    lines = [f"{target}  {' '.join(sorted(sources))}" for target, sources in sorted(_external.items())]
    (Path(config.site_dir) / "external-links.txt").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} links lead out of the site and were not followed: {config.site_dir}/external-links.txt")
