"""A hub of models on this machine: folders served over HTTP as huggingface_hub asks for them, with refusals on demand.

What it is told to serve is fetched by huggingface_hub itself, so that a cache of the tests is laid out by its owner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from support.loopback import QuietHandler, listening

# the two families under the names of the cookbooks and of the hub
TEXT_IDS = tuple(f"nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-{kind}" for kind in ("BF16", "FP8"))
OMNI_IDS = tuple(f"nvidia/Nemotron-3-Nano-Omni-30B-A3B-{kind}" for kind in ("Reasoning", "BF16", "FP8", "NVFP4"))
OMNI_IDS += ("nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16",)


@dataclass
class Hub:
    """`models`: id -> revision -> folder. `gated`: ids that want a token. Ids it does not know get the hub's 401."""

    url: str = ""
    models: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    # the paths that came in
    asked: list[str] = field(default_factory=list)

    def environment(self, cache: Path) -> dict[str, str]:
        """For a program that fetches from here into this cache."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def download(self, model: str, cache: Path, revision: str | None = None, **patterns: list[str]) -> Path:
        """The snapshot, laid out by huggingface_hub. `patterns`: allow_patterns or ignore_patterns, for half of it."""
        from huggingface_hub import snapshot_download

        found = snapshot_download(model, revision=revision, cache_dir=cache, endpoint=self.url, **patterns)
        return Path(found)


def commit_of(folder: Path) -> str:
    """A commit hash for what a folder holds now; one folder is one commit here."""
    return hashlib.sha1(str(folder).encode()).hexdigest()


@contextmanager
def hub(**models: Path) -> Iterator[Hub]:
    """A running hub without models; the caller adds them to `models`."""
    state = Hub(models={name: {"main": folder} for name, folder in models.items()})

    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self._reply(body=False)

        def do_GET(self) -> None:
            self._reply(body=True)

        def _reply(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            state.asked.append(path)
            words = path.removeprefix("/api/models").strip("/").split("/")
            model, rest = "/".join(words[:2]), words[2:]
            if model not in state.models:
                self._refuse(401, "RepoNotFound", "Repository Not Found")
            elif model in state.gated and "Authorization" not in self.headers:
                self._refuse(401, "GatedRepo", f"Access to model {model} is restricted")
            elif (folder := self._folder(model, rest[1] if len(rest) > 1 else "main")) is None:
                self._refuse(404, "RevisionNotFound", "Invalid rev id")
            elif path.startswith("/api/"):
                self._answer_api(model, folder, rest)
            else:
                self._send_file(folder, "/".join(rest[2:]), body)

        def _folder(self, model: str, revision: str) -> Path | None:
            known = state.models[model]
            return known.get(revision) or next((f for f in known.values() if commit_of(f) == revision), None)

        def _answer_api(self, model: str, folder: Path, rest: list[str]) -> None:
            files = sorted(file for file in folder.iterdir() if file.is_file())
            if rest[:1] == ["tree"]:
                self.send_json(
                    [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
                )
            else:
                siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in files]
                self.send_json({"id": model, "sha": commit_of(folder), "siblings": siblings})

        def _send_file(self, folder: Path, name: str, body: bool) -> None:
            file = folder / name
            if not file.is_file():
                self._refuse(404, "EntryNotFound", f"no {name}", commit_of(folder))
                return
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit_of(folder))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _refuse(self, status: int, code: str, text: str, commit: str = "") -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", text)
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listening(Handler) as state.url:
        yield state
