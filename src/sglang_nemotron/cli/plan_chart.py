"""A plan as a terminal shows it: bars of memory, requests at once, speed, flags and remarks."""

from __future__ import annotations

import sys

from sglang_nemotron.cli.console import show, table
from sglang_nemotron.plan.make import Plan
from sglang_nemotron.plan.server import Server
from sglang_nemotron.plan.speeds import Speed

# characters of the longest bar
_WIDTH = 32
_EIGHTHS = " ▏▎▍▌▋▊▉"
# a part of a server's memory -> what it is, for a reader
_SAID = {
    "CUDA and driver": "before the first weight",
    "weights": "of the language model",
    "towers": "vision, sound, projectors",
    "loading": "rounding and kernels, as measured on H200",
    "state slots": "",
    "KV pages": "",
    "request table": "places of the tokens of each request",
    "embedding cache": "of media",
    "workspace": "attention, as measured on H200",
    "CUDA graphs": "as measured on H200",
    "left for activations": "prefill chunks, sampling, encoders",
}


def show_plan(plan: Plan) -> None:
    """Print it on stdout."""
    gpu, server = plan.gpu, plan.advised
    each = f"{gpu.total_mib:,} MiB ({gpu.source})"
    many = f"{plan.count} x {gpu.label}, {each} each" if plan.count > 1 else f"{gpu.label}, {each}"
    print(f"{plan.model.name} on {many}")
    print(f"  weights: {_format(plan)}, {plan.model.source}")
    print(f"  a request: {_request(plan)}; {plan.workload.concurrency:,} at once; context {server.flags.context:,}\n")
    show(table(f"memory of {'each' if plan.count > 1 else 'the'} GPU, GiB", ("", ">", "", ""), _bars(plan)))
    print()
    columns = ("requests at once", ">of this workload", ">most", ">state slots", ">a request", ">KV tokens", "strategy")
    rows = [_row("with the flags below", server, plan.tokens), _row("without hint and limits", plan.plain, plan.tokens)]
    show(table(None, columns, rows))
    if plan.fits:
        print()
        _show_speed(plan)
        show(table("flags", ("", "", ""), [(choice.name, choice.value, choice.why) for choice in plan.choices]))
        print(f"\n  {plan.command}")
    if plan.remarks:
        print()
    for remark in plan.remarks:
        print(f"note: {remark}")


def bar(share: float, *, plain: bool) -> str:
    """A bar of a share from 0 to 1, in eighths of a character, or in whole ones where the terminal knows no others."""
    share = min(max(share, 0.0), 1.0)
    if plain:
        return "#" * round(share * _WIDTH)
    eighths = round(share * _WIDTH * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _bars(plan: Plan) -> list[tuple[str, str, str, str]]:
    server = plan.advised
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    whole = plan.gpu.total_mib / 1024
    said = _SAID | _pools_said(server)
    return [
        (part, f"{size:.2f}", bar(size / whole, plain=plain), said[part])
        for part, size in server.memory.items()
        # what this server does not have
        if abs(size) >= 0.005
    ]


def _pools_said(server: Server) -> dict[str, str]:
    pools, layout = server.pools, server.layout
    if pools is None:
        return {}
    slot, token = layout.bytes_per_slot / 2**20, layout.kv_bytes_per_token / 2**10
    slots = server.slots_by_use()
    return {
        "state slots": f"{pools.num_slots + 1:,} x {slot:.2f} MiB: {slots['running']:,} run, "
        f"{slots['tracking']:,} track, {slots['cached']:,} cached, 1 pad",
        "KV pages": f"{pools.num_tokens:,} tokens x {token:.2f} KiB, {layout.kv_dtype}",
    }


def _row(name: str, server: Server, tokens: int) -> tuple[str, ...]:
    pools = server.pools
    if pools is None:
        return (name, "0", "0", "0", str(server.slots_each), "0", server.strategy or "no prefix cache")
    return (
        name,
        f"{server.at_once(tokens):,}",
        f"{server.max_running_requests:,}",
        f"{pools.num_slots:,}",
        str(server.slots_each),
        f"{pools.num_tokens:,}",
        server.strategy or "no prefix cache",
    )


def _format(plan: Plan) -> str:
    quantization = plan.model.quantization
    return plan.model.dtype if quantization == "none" else f"{quantization} with {plan.model.dtype}"


def _request(plan: Plan) -> str:
    media = "".join(f" + {count:,} of {kind}" for kind, count in plan.media.items())
    return f"{plan.workload.prompt:,}{media} in, {plan.workload.answer:,} out, {plan.tokens:,} tokens"


def _show_speed(plan: Plan) -> None:
    speed = plan.speed
    if not isinstance(speed, Speed):
        print(f"tokens a second: {speed}\n")
        return
    low, high = speed.between
    how = f"measured at {low}" if low == high else f"between {low} and {high}, which were measured"
    rows = [
        ("decode", f"{speed.decode:,.0f}", _off(speed.decode_off), f"{speed.batch} requests at once, {how}"),
        ("prefill", f"{speed.prefill:,.0f}", _off(speed.prefill_off), "of prompts that come together"),
        (
            "answers",
            f"{speed.steady:,.0f}",
            _off(speed.steady_off),
            "prefills in turn, by arithmetic from these two",
        ),
    ]
    show(table("tokens a second, all requests together", ("", ">", ">", ""), rows))
    if low != high:
        print("  ±: how far off this was at most where a measured batch was left out")
    print(f"  source: {speed.source}\n  measured with {speed.measured_with}\n")


def _off(share: float) -> str:
    return f"±{share:.0%}" if share else ""
