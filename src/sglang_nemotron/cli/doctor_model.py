"""What the doctor says of one model: where it lies, whose it is, whether it would start here, and with what."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_nemotron.cli.doctor_host import WEIGHTS, gib
from sglang_nemotron.config import hub, modelscope

_LOOK = "look at the reason; `sglang serve` would end with it"


def examine_model(model: str, revision: str | None, flags: Sequence[str]) -> dict[str, Any]:
    """Plain values; `reason` and `remedy` are None where a server of it would start.

    A model that is still to be fetched is asked for at the hub, and starts if the hub gives it: what it holds is
    checked when SGLang has it.
    """
    report: dict[str, Any] = {"name": model, "revision": revision, "folder": None, "ours": None, "to_fetch": None}
    report |= {"weights_gib": None, "chosen": {}, "reason": None, "remedy": None}
    folder = hub.local_folder(model, revision)
    report["folder"] = str(folder) if folder else None
    if hub.is_id(model):
        report["to_fetch"] = hub.unfetched(folder)
    try:
        if report["to_fetch"]:
            _ask_the_hub(model, revision)
        if hub.is_id(model) and (folder is None or (report["to_fetch"] and modelscope.is_used())):
            # from ModelScope, SGLang fetches all of it while arguments resolve
            return report
        report["weights_gib"] = gib(sum(file.stat().st_size for file in (folder or Path()).glob("*.safetensors")))
        report["ours"] = whose(hub.config_folder(model, revision))
        report["chosen"] = _rehearsed(model, [*(["--revision", revision] if revision else []), *flags])
    # what ends a start: a check, a file or the hub, an assertion or a missing library of SGLang's
    except (ValueError, OSError, RuntimeError, AssertionError, ImportError) as error:
        said = hub.why_not(error, model, revision) or str(error) or type(error).__name__
        reason, _, remedy = said.partition("\n  remedy: ")
        report["reason"], report["remedy"] = " ".join(reason.split()), " ".join(remedy.split()) or _LOOK
    return report


def faults_of(report: dict[str, Any], host: dict[str, Any], device: dict[str, Any]) -> list[tuple[str, str]]:
    """(reason, remedy) of everything that keeps this model from starting here."""
    if report["reason"]:
        return [(report["reason"], report["remedy"])]
    found = []
    published = WEIGHTS.get(report["name"].partition("/")[2])
    if report["to_fetch"] and published and gib(published) > host["disk_free_gib"]:
        said = (
            f"{gib(published)} GiB of weights are to be fetched, {host['cache']} has {host['disk_free_gib']} GiB free"
        )
        found.append((said, f"free some, or set {host['cache_variable']} to another disk"))
    if report["to_fetch"] and not host["cache_writable"]:
        remedy = f"make it writable, or set {host['cache_variable']} to another folder"
        found.append((f"{host['cache']} cannot be written", remedy))
    weights = gib(published) if report["to_fetch"] and published else report["weights_gib"] or 0
    on_cpu = device["kind"] == "cpu"
    room = host["memory_available_gib"] if on_cpu else device["memory_gib"] * report["chosen"].get("tp_size", 1)
    if weights > room:
        where = "this host has free" if on_cpu else "its cards have"
        found.append((f"{weights} GiB of weights, {room} GiB is what {where}", "more memory, or more cards with --tp"))
    return found


def _ask_the_hub(model: str, revision: str | None) -> None:
    """Raises what keeps this user from fetching it. ModelScope is not asked: it has no such question."""
    if modelscope.is_used():
        return
    if hub.is_offline():
        raise ValueError(
            f"{model} is not whole in the cache, and HF_HUB_OFFLINE is set\n"
            f"  remedy: unset it, or {hub.fetch_first(model, revision)}"
        )
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # the one question that a gated model refuses; who may have the config may have the weights
    get_hf_file_metadata(hf_hub_url(model, "config.json", revision=revision), timeout=10)


def whose(folder: Path) -> str | None:
    """`text` or `omni` if a class of ours serves it, else why it is left to SGLang; ValueError for a broken config."""
    from sglang_nemotron.config.decoder import is_nano
    from sglang_nemotron.config.omni import is_nano_omni
    from sglang_nemotron.family import OMNI, TEXT

    config = hub.fields_of(folder / "config.json")
    names = config.get("architectures") or []
    if TEXT in names:
        return is_nano(config) or "text"
    if any(name in names for name in OMNI):
        return is_nano_omni(config) or "omni"
    return f"another family: {', '.join(map(str, names)) or 'no architecture named'}"


def _rehearsed(model: str, flags: Sequence[str]) -> dict[str, Any]:
    from sglang_nemotron.host.rehearsal import rehearse

    # SGLang's parser says why on stderr, and exits
    said = io.StringIO()
    try:
        # stdout is for the report alone
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return rehearse(model, flags)
    except SystemExit:
        raise ValueError(said.getvalue().strip().rpartition("\n")[2]) from None


def lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) for the table."""
    found = [("model", report["name"]), ("folder", report["folder"] or "not in the cache yet")]
    if report["to_fetch"]:
        found.append(("to fetch", report["to_fetch"]))
    if report["ours"]:
        ours = report["ours"]
        found.append(("served by", "sglang-nemotron, " + ours if ours in ("text", "omni") else f"SGLang ({ours})"))
    return found + [(name.replace("_", " "), str(value)) for name, value in report["chosen"].items()]
