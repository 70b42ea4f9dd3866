"""The servers that a soak starts: small pools, so that they fill, are evicted from and run out within minutes."""

from __future__ import annotations

from sglang_nemotron.cli.demo import SERVER_FLAGS

CONTEXT = {"text": 4096, "omni": 8192}
# room for a few prompts of the whole context at once
_ROOM = {"text": 8192, "omni": 16384}
FLAGS = {
    model: (
        *("--dtype", "float32", "--enable-metrics", "--context-length", str(CONTEXT[model])),
        *("--max-total-tokens", str(_ROOM[model]), "--max-mamba-cache-size", "96", "--max-running-requests", "16"),
        *("--chunked-prefill-size", "1024"),
        *SERVER_FLAGS,
    )
    for model in CONTEXT
}
# threads that wait do not spin; the server itself ends what runs or waits too long
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "SGLANG_REQ_RUNNING_TIMEOUT": "60",
    "SGLANG_REQ_WAITING_TIMEOUT": "90",
    # one that is killed now and then, and one that is not
    "SGLANG_NEMOTRON_MEDIA_WORKERS": "2",
}
