"""Where the numbers of `counts.py` come from in SGLang: its scheduler's reports and matches, and the start of a process
that answers HTTP. Only servers of ours with `--enable-metrics` count; elsewhere each wrapper asks once, and passes on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sglang_nemotron.host import counts
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.http.requests import is_ours
from sglang_nemotron.sglang_api.wrapping import Wrap

# on a request of the scheduler: cached keys and values that it cannot use, from its match until its prefill is reported
_UNUSED = "nemotron_unused_tokens"

_SCHEDULER = "sglang.srt.managers.scheduler"
_BATCH = "sglang.srt.managers.schedule_batch"
_REPORTER = "sglang.srt.managers.scheduler_components.metrics_reporter"
_COLLECTOR = "sglang.srt.observability.metrics_collector"
_MANAGER = "sglang.srt.managers.tokenizer_manager"


# ---- the scheduler


def _reports_here(scheduler: Any) -> bool:
    """Whether this rank speaks for its pool: ranks that share a request's tokens have the same numbers."""
    from sglang_nemotron.sglang_api.engine import get_parallel

    parallel = get_parallel()
    first = parallel.attn_tp_rank == parallel.attn_cp_rank == parallel.pp_rank == 0
    return first and scheduler.metrics_reporter.current_scheduler_metrics_enabled and is_ours(scheduler)


def _then_begin(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(self: Any) -> None:
        original(self)
        if _reports_here(self):
            counts.begin(counts.OF_SCHEDULER)
            # the other gauges begin at 0, as they are
            counts.put(counts.SLOTS, self.req_to_token_pool.mamba_pool.size)

    return init


def _match(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def match(req: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(req, *args, **kwargs)
        if counts.counts(counts.RECOMPUTED_TOKENS):
            # a request is matched until it is admitted: the last match is the one that it runs with
            setattr(req, _UNUSED, max(0, result.full_kv_hit_length - req.prefix_len - req.host_hit_length))
        return result

    return match


def _report(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def report(self: Any, batch: Any, prefill_stats: Any, *args: Any, **kwargs: Any) -> Any:
        if counts.counts(counts.HIT_TOKENS):
            counts.add(counts.HIT_TOKENS, prefill_stats.log_hit_tokens)
            counts.add(counts.COMPUTED_TOKENS, prefill_stats.log_input_tokens)
            reqs = batch.reqs if batch is not None else ()
            # the first chunk of a prompt tells of its match
            counts.add(counts.RECOMPUTED_TOKENS, sum(vars(req).pop(_UNUSED, 0) for req in reqs))
        return original(self, batch, prefill_stats, *args, **kwargs)

    return report


def _log_stats(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log(self: Any, stats: Any) -> None:
        original(self, stats)
        counts.put(counts.SLOTS_USED, stats.mamba_used_tokens)
        counts.put(counts.STATES_KEPT, stats.mamba_evictable_tokens)

    return log


IN_SCHEDULER = Door(
    "scheduler metrics",
    "engine",
    "metrics of states, prompts and budgets",
    needs=(_SCHEDULER, _BATCH, _REPORTER, _COLLECTOR),
    wraps=(
        Wrap(_SCHEDULER, "Scheduler", "init_metrics_reporter", _then_begin),
        # of the name by which a request asks for its match
        Wrap(_BATCH, "", "match_kv_cache", _match, takes=("req",)),
        Wrap(_REPORTER, "SchedulerMetricsReporter", "report_prefill_stats", _report, takes=("batch", "prefill_stats")),
        Wrap(_COLLECTOR, "SchedulerMetricsCollector", "log_stats", _log_stats, takes=("stats",)),
    ),
    without="does not show us what its scheduler reports",
)


# ---- processes that answer HTTP


def _begin_first(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(self: Any) -> Any:
        # before the media processor gets its workers, which are counted
        if self.enable_metrics and is_ours(self):
            counts.begin(counts.OF_HTTP)
        return original(self)

    return init


IN_HTTP = Door(
    "metrics",
    "http",
    "metrics of media and refusals",
    needs=(_MANAGER,),
    wraps=(Wrap(_MANAGER, "TokenizerManager", "init_tokenizer_and_processor", _begin_first),),
    without="starts without our metrics",
)
