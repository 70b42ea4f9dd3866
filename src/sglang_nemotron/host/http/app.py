"""SGLang's HTTP application for worker processes (`--tokenizer-worker-num`), which do not load plugins by themselves.

The workers' door in `doors.py` names this module to SGLang. Whatever model is served, the application is SGLang's own.
"""

from __future__ import annotations

from sglang.srt.plugins import load_plugins

# before the application's own imports, as in every process that SGLang starts with plugins
load_plugins()

from sglang.srt.entrypoints.http_server import app  # noqa: E402

from sglang_nemotron.host import refusal  # noqa: E402

refusal.guarded("requests", "sglang_nemotron.host.doors", "open_http")

__all__ = ["app"]
