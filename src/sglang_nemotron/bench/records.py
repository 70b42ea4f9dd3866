"""What was measured, as plain values: one `Timed` per request, one `Run` per server, concurrency and round.

They go into a JSON file and come out of it again; how they were measured and what they mean is for other files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# of the file; a reader refuses others
FORMAT = "sglang-nemotron bench speed 1"


@dataclass(frozen=True)
class Timed:
    """One request. Seconds throughout.

    prompt_tokens, output_tokens: by the server's own `usage`. start_s: on the clock of its run, None where the client
    does not tell. ttft_s: from sending to the first text. latency_s: to the last, None where the client does not tell.
    itl_s: times between tokens after the first. error: why it failed; its other numbers then mean nothing.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    start_s: float | None = None
    ttft_s: float = 0.0
    latency_s: float | None = None
    itl_s: tuple[float, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Summary:
    """The numbers of a benchmark, by the names of SGLang's `bench_serving`: tokens, tokens a second, milliseconds.

    total_input_text, total_input_vision: None where the client cannot tell them apart; total_output_retokenized: None
    where it has no tokenizer.
    """

    duration: float
    completed: int
    total_input: int
    total_input_text: int | None
    total_input_vision: int | None
    total_output: int
    total_output_retokenized: int | None
    request_throughput: float
    input_throughput: float
    output_throughput: float
    total_throughput: float
    max_output_tokens_per_s: float
    max_concurrent_requests: int
    concurrency: float
    mean_e2e_latency_ms: float
    median_e2e_latency_ms: float
    p90_e2e_latency_ms: float
    p99_e2e_latency_ms: float
    mean_ttft_ms: float
    median_ttft_ms: float
    p99_ttft_ms: float
    mean_tpot_ms: float
    median_tpot_ms: float
    p99_tpot_ms: float
    mean_itl_ms: float
    median_itl_ms: float
    p95_itl_ms: float
    p99_itl_ms: float
    max_itl_ms: float


@dataclass(frozen=True)
class Run:
    """One round at one concurrency against one server.

    server: its URL. client: what asked, `bench_serving` or `own`. asked: requests that were to be sent; fewer were
    answered if it was interrupted. summary: None where nothing was completed.
    """

    server: str
    concurrency: int
    round: int
    client: str
    asked: int
    requests: tuple[Timed, ...]
    summary: Summary | None

    @property
    def failed(self) -> int:
        """Requests that got no proper answer, those that were never sent aside."""
        return sum(one.error is not None for one in self.requests)

    @property
    def first_error(self) -> str | None:
        return next((one.error for one in self.requests if one.error is not None), None)


def raw(runs: Sequence[Run], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, ready for json.dumps. about: command, date, versions, what was asked and of whom."""
    return {"format": FORMAT, **about, "runs": [asdict(run) for run in runs]}


def read(path: Path) -> tuple[dict[str, Any], list[Run]]:
    """(what the file says of itself, its runs). Raises ValueError for a file that is none of ours."""
    try:
        said = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}\n  remedy: name a file that --json wrote") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}\n  remedy: name a file that --json wrote") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        found = said.get("format") if isinstance(said, dict) else type(said).__name__
        raise ValueError(
            f"{path} holds {found!r}, not {FORMAT!r}\n  remedy: name a file that `bench speed --json` wrote"
        )
    servers = said.get("servers")
    if not isinstance(said.get("date"), str) or not (
        isinstance(servers, list) and all(isinstance(one, dict) and {"url", "model"} <= one.keys() for one in servers)
    ):
        raise ValueError(f"{path} does not say when and of whom it is\n  remedy: measure again with this version")
    try:
        return {name: value for name, value in said.items() if name != "runs"}, [_run(one) for one in said["runs"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks a field: {error}\n  remedy: measure again with this version") from error


def _run(said: Mapping[str, Any]) -> Run:
    names = [field.name for field in fields(Run)]
    values = {name: said[name] for name in names}
    values["requests"] = tuple(Timed(**{**one, "itl_s": tuple(one["itl_s"])}) for one in said["requests"])
    values["summary"] = None if said["summary"] is None else Summary(**said["summary"])
    return Run(**values)
