"""Asks any OpenAI-compatible server what it serves, and single questions; JSON goes out and comes in.

What SGLang offers beside the OpenAI API (/model_info, /server_info, /tokenize) is used where it is there.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any

from sglang_nemotron.verify.server import OpenAIServer

# of what a server says of itself, what a reader of a measurement wants to know; keys and tokens are none of it
_TELLING = (
    *("version", "model_path", "dtype", "quantization", "kv_cache_dtype", "tp_size", "dp_size", "context_length"),
    *("max_running_requests", "max_total_num_tokens", "chunked_prefill_size", "attention_backend", "mamba_ssm_dtype"),
    *("moe_runner_backend", "disable_radix_cache", "disable_cuda_graph", "reasoning_parser", "device"),
)


# what a process holds open beside its connections, at most
_OTHER_FILES = 256


class Server(OpenAIServer):
    """One server, asked for one of its models."""

    def __init__(
        self, url: str, *, model: str | None = None, key: str | None = None, timeout_s: float = 3600.0
    ) -> None:
        """url: http://HOST:PORT, with /v1 or without. model: where it serves several; its first else."""
        super().__init__(url, key=key, timeout_s=timeout_s)
        served = self.first_model()
        self.model: str = model or served["id"]
        self.info: dict[str, Any] = self.optional("/model_info") or {}
        # what bench_serving needs is asked of SGLang alone
        self.is_sglang = "model_path" in self.info

    @property
    def tokenizer(self) -> str | None:
        """Where SGLang has its tokenizer from, a folder or an id of the hub; None for another server."""
        return self.info.get("tokenizer_path") or self.info.get("model_path")

    def about(self) -> dict[str, Any]:
        """What it says of itself, for a record; nothing secret."""
        said = self.optional("/server_info") or {}
        told = {name: said[name] for name in _TELLING if said.get(name) is not None}
        return {"url": self.url, "model": self.model, **told}

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """As any server's, with the model's name."""
        return super().post(path, {"model": self.model, **body})

    def words_per_token(self, text: str) -> float:
        """Of a text of many words, by the server's count of a chat with it and of one without."""
        counts = []
        for content in (text, "x"):
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0.0}
            usage = self.post("/v1/chat/completions", body).get("usage") or {}
            if not usage.get("prompt_tokens"):
                raise self.foreign("/v1/chat/completions")
            counts.append(usage["prompt_tokens"])
        return len(text.split()) / max(1, counts[0] - counts[1] + 1)

    def count(self, text: str) -> int | None:
        """Tokens of a bare text; None where the server cannot only count (SGLang and vLLM can)."""
        said = self.optional("/tokenize", {"model": self.model, "prompt": text})
        count = said.get("count") if isinstance(said, dict) else None
        return count if isinstance(count, int) else None


def make_room(connections: int) -> None:
    """Lets this process hold so many connections open. Raises ValueError if the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ValueError(
                f"{connections} requests at once need {wanted} open files, and the system allows {hard}"
                "\n  remedy: ask for fewer at once, or raise the hard limit (ulimit -Hn)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
