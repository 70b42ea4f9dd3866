"""An OpenAI-compatible server over HTTP: JSON goes out and comes in, and what is wrong is told with its remedy.

Must never know what is asked, or what for.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any


class Unfit(RuntimeError):
    """The server cannot be asked or does not tell what is needed; the message is for the user, remedy included."""


class OpenAIServer:
    """One server. url: http://HOST:PORT, with /v1 or without; ValueError for any other. Every question raises Unfit if
    it is away or foreign.
    """

    def __init__(self, url: str, *, key: str | None, timeout_s: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address of a server\n  remedy: give http://HOST:PORT")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.timeout_s = timeout_s

    def first_model(self) -> dict[str, Any]:
        """What it says of the first model that it serves; `id` is there."""
        said = self._parsed("/v1/models", self.request("/v1/models"))
        models = said.get("data") if isinstance(said, dict) else None
        if not models or "id" not in models[0]:
            raise self.foreign("/v1/models")
        return models[0]

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """JSON in, JSON out."""
        return self._parsed(path, self.request(path, json.dumps(body).encode()))

    def optional(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """JSON of what a server need not have; None if it refuses."""
        try:
            return json.loads(self.request(path, None if body is None else json.dumps(body).encode()))
        except (Unfit, ValueError):
            return None

    def foreign(self, path: str) -> Unfit:
        """What to raise for an answer that says something else than OpenAI's would."""
        return Unfit(
            f"{self.url}{path} answers in a form that is not OpenAI's"
            "\n  remedy: give the root of an OpenAI-compatible server, http://HOST:PORT"
        )

    def request(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST if there is a body."""
        try:
            asked = urllib.request.Request(self.url + path, body, self.headers)
            with urllib.request.urlopen(asked, timeout=self.timeout_s) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            text = " ".join(error.read().decode(errors="replace")[:300].split())
            raise Unfit(f"{self.url}{path} answered {error.code}: {text}\n  remedy: {_remedy(error.code)}") from error
        # HTTPException: an address with a space in it, an answer that is no HTTP
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unfit(
                f"{self.url}{path} does not answer: {error}"
                "\n  remedy: start the server, or give the address it listens on, as http://HOST:PORT"
            ) from error

    def _parsed(self, path: str, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise self.foreign(path) from error


def _remedy(code: int) -> str:
    if code == 404:
        return "give the root of an OpenAI-compatible server, http://HOST:PORT, and --model if it serves several"
    return "give its key with --api-key" if code in (401, 403) else "see what the server's log says of this request"
