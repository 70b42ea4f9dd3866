"""The launch table: whole, without dead rows, and equal to both published pages but for what is named here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from sglang_nemotron.cli.doctor_host import WEIGHTS
from sglang_nemotron.launch import choose
from sglang_nemotron.launch.choose import Launch, Refused, fits, launch
from sglang_nemotron.launch.table import CHECKPOINTS, TABLE
from support.hub import OMNI_IDS, TEXT_IDS

DATA = Path(__file__).parents[1] / "data"
ALL = list(choose.combinations())
BY_ID = {choice.id: choice for choice in TABLE.choices}


def found(asked: Mapping[str, str]) -> Launch | None:
    try:
        return launch(asked)
    except Refused:
        return None


# ---- the published pages, as their generators have it (shared in neither code nor data with the table)


def of_nano_page(hardware: str, variant: str, reasoning: bool, tools: bool) -> list[str]:
    """What the Nano page writes, whatever TP is chosen."""
    return [
        *("python3 -m sglang.launch_server", f"--model-path nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-{variant.upper()}"),
        *("--trust-remote-code", "--tp 1"),
        *(["--attention-backend flashinfer"] if hardware == "b200" else []),
        *(["--tool-call-parser qwen3_coder"] if tools else []),
        *(["--reasoning-parser nano_v3"] if reasoning else []),
        *("--host 0.0.0.0", "--port 30000"),
    ]


def of_omni_page(hardware: str, variant: str, tp: str, kv: str, reasoning: bool, tools: bool) -> list[str] | None:
    """What the Omni page writes; None where it refuses."""
    if (variant == "nvfp4" and hardware != "b200") or (hardware == "l40s" and tp == "1"):
        return None
    name = {"reasoning": "Reasoning"}.get(variant, variant.upper())
    return [
        *("sglang serve", f"--model-path nvidia/Nemotron-3-Nano-Omni-30B-A3B-{name}"),
        *("--host 0.0.0.0", "--port 30000", "--trust-remote-code", f"--tp {tp}"),
        *([f"--kv-cache-dtype {kv}"] if kv != "auto" else []),
        *(["--reasoning-parser deepseek-r1"] if reasoning else []),
        *(["--tool-call-parser qwen3_coder"] if tools else []),
    ]


def parts(command: Launch) -> set[str]:
    return {TABLE.program, *(f"{one.flag} {one.value}" for one in command.flags)}


def test_every_choice_of_the_nano_page() -> None:
    compared = 0
    for values in ALL:
        offered = values["hardware"] in ("h200", "b200") and values["kv-cache-dtype"] == "auto"
        if values["model"] != "nano" or not offered:
            continue
        on = {name: values[name] == "on" for name in ("reasoning-parser", "tool-call-parser")}
        page = of_nano_page(values["hardware"], values["variant"], on["reasoning-parser"], on["tool-call-parser"])
        changed = {"python3 -m sglang.launch_server", "--trust-remote-code", "--tp 1"}
        assert parts(launch(values)) == {*page} - changed | {"sglang serve", f"--tp {values['tp']}"}
        compared += 1
    assert compared == 2 * 2 * 4 * 2 * 2


# GPUs that the Omni page names in its text alone
LISTED = ("rtx-pro-6000", "dgx-spark")
# (variant, hardware, TP) where SGLang's share of memory is below the weights (tests/plan/test_plan_offers.py)
SHARED_OUT_OTHERWISE = {(variant, card, "1") for variant in ("reasoning", "bf16") for card in ("h100", "a100")}


def test_every_gpu_of_the_pages_is_offered() -> None:
    """The Omni page's "Supported GPUs", and what both generators offer, which is part of it."""
    pages = {"B200": "b200", "H100": "h100", "H200": "h200", "A100": "a100", "L40S": "l40s"}
    pages |= {"DGX Spark": "dgx-spark", "RTX 6000": "rtx-pro-6000"}
    assert {option.id for option in BY_ID["hardware"].options} == set(pages.values())
    for card in LISTED:
        for variant in ("bf16", "fp8", "nvfp4"):
            ours = launch({"model": "omni", "variant": variant, "hardware": card, "tp": "1"})
            assert any("its choices lack both" in text for text in ours.changed) and "Never run" in ours.evidence


def test_every_choice_of_the_omni_page() -> None:
    refused, served = set(), set()
    # what its generator offers; its text lists two GPUs more
    omni = [values for values in ALL if values["model"] == "omni" and values["hardware"] not in LISTED]
    assert len(omni) == 4 * 5 * 4 * 2 * 2 * 2
    for values in omni:
        on = {name: values[name] == "on" for name in ("reasoning-parser", "tool-call-parser")}
        page = of_omni_page(
            *(values[name] for name in ("hardware", "variant", "tp", "kv-cache-dtype")),
            reasoning=on["reasoning-parser"],
            tools=on["tool-call-parser"],
        )
        ours = found(values)
        what = (values["variant"], values["hardware"], values["tp"])
        if page is None or ours is None:
            if page is None and ours is not None:
                served.add(what)
            if page is not None and ours is None:
                refused.add(what)
            continue
        added = {"--attention-backend flashinfer"} if values["hardware"] == "b200" else set()
        if what in SHARED_OUT_OTHERWISE:
            added.add("--mem-fraction-static 0.83")
        assert parts(ours) == {*page} - {"--trust-remote-code"} | added
    # what has changed since
    assert served == {("nvfp4", card, tp) for card in ("h100", "h200") for tp in ("1", "2", "4")}
    assert refused == {("fp8", "a100", tp) for tp in "1248"} | {("nvfp4", "b200", "8")}


@pytest.mark.parametrize(
    ("published", "asked"),
    [
        (
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8 --tp 1 --attention-backend flashinfer "
            "--max-running-requests 1024 --host 0.0.0.0 --port 30000",
            {"model": "nano", "hardware": "b200", "max-running-requests": "1024"},
        ),
        (
            "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning --tp 4 --max-running-requests 1024 --host 0.0.0.0 "
            "--attention-backend flashinfer --port 30000",
            {
                **{"model": "omni", "hardware": "b200", "max-running-requests": "1024"},
                **{"reasoning-parser": "off", "tool-call-parser": "off"},
            },
        ),
        (
            "nvidia/Nemotron-3-Nano-Omni-30B-A3B-NVFP4 --host 0.0.0.0 --port 30000 --tp 2 "
            "--tool-call-parser qwen3_coder --reasoning-parser deepseek-r1 --attention-backend flashinfer",
            {"model": "omni", "hardware": "b200", "variant": "nvfp4", "tp": "2"},
        ),
    ],
    ids=["nano benchmark", "omni benchmark", "omni 4.8"],
)
def test_commands_that_stand_on_the_pages(published: str, asked: dict[str, str]) -> None:
    words = published.split()
    pairs = {"--model-path": words[0], **dict(zip(words[1::2], words[2::2], strict=True))}
    assert {one.flag: one.value for one in launch(asked).flags} == pairs


def test_unasked_it_is_the_page() -> None:
    assert launch({}).values == launch({"model": "nano", "hardware": "h200", "variant": "fp8", "tp": "1"}).values
    omni = launch({"model": "omni"})
    assert parts(omni) == {*(of_omni_page("h100", "reasoning", "4", "auto", True, True) or ())} - {
        "--trust-remote-code"
    }


# ---- the table by itself


def test_every_combination_has_an_end() -> None:
    refused = [values for values in ALL if found(values) is None]
    assert len(ALL) == (2 + 4) * 7 * 4 * 2 * 2 * 2
    for values in refused:
        with pytest.raises(Refused) as error:
            launch(values)
        assert error.value.reason and error.value.remedy
        assert str(error.value) == f"{error.value.reason}\n  remedy: {error.value.remedy}"
    for values in ALL:
        if (ours := found(values)) is not None:
            assert ours.evidence and all(one.why and "{" not in one.why for one in ours.flags)
    assert 0 < len(refused) < len(ALL) / 3


def test_no_row_is_dead() -> None:
    asked = [{**values, "host": host, "max-running-requests": "7"} for values in ALL for host in ("0.0.0.0", "me")]
    reached = {one for values in asked if (ours := found(values)) for one in (*ours.changed, ours.evidence)}
    assert {note.text for note in (*TABLE.changed, *TABLE.evidence)} == reached
    firsts = set()
    for values in (choose.answers(one) for one in asked):
        refusal = next((one for one in TABLE.refusals if fits(one.when, values)), None)
        if refusal is not None:
            firsts.add(refusal.reason)
            continue
        for name in {row.flag for row in TABLE.flags}:
            firsts.add(next((row.why for row in TABLE.flags if row.flag == name and fits(row.when, values)), None))
    assert {row.why for row in TABLE.flags} | {one.reason for one in TABLE.refusals} <= firsts


def test_rows_ask_for_what_there_is() -> None:
    rows = [*TABLE.refusals, *TABLE.flags, *TABLE.changed, *TABLE.evidence]
    whens = [row.when for row in rows]
    for at, choice in enumerate(TABLE.choices):
        before = {one.id for one in TABLE.choices[:at]}
        of_choice = [one.when for one in (*choice.options, *choice.defaults)]
        assert all(set(when) <= before for when in of_choice)
        whens += of_choice
        assert bool(choice.options) != bool(choice.pattern)
        assert choice.defaults[-1].when == {}
    for when in whens:
        for name, allowed in when.items():
            options = {option.id for option in BY_ID[name].options}
            assert not options or set(allowed) <= options, (name, allowed)
    # a refusal's way out is one
    for refusal in TABLE.refusals:
        assert refusal.remedy.startswith("choose ")


def test_checkpoints_are_the_published_ones() -> None:
    # the same weights under a second name
    alias = "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16"
    assert {f"nvidia/{name}" for _, _, name, _ in CHECKPOINTS} == {*TEXT_IDS, *OMNI_IDS} - {alias}
    for _, _, name, gib in CHECKPOINTS:
        weights = WEIGHTS[name.replace("-Reasoning", "-BF16")]
        assert f"{weights / 2**30:.1f}" == gib
    offered = [(model, variant) for model, variant, _, _ in CHECKPOINTS]
    assert {*offered} == {(values["model"], values["variant"]) for values in ALL} and len({*offered}) == len(offered)


def test_what_is_refused_by_size() -> None:
    config = json.loads((DATA / "nano-30b-a3b.config.json").read_text())
    columns = config["moe_intermediate_size"]
    (by_groups,) = [one for one in TABLE.refusals if "groups of 16" in one.reason]
    assert f"{columns} / 8 = {columns // 8}" in by_groups.reason
    for tp in BY_ID["tp"].options:
        uneven = columns % (16 * int(tp.id)) != 0
        assert uneven == (found({"model": "omni", "hardware": "b200", "variant": "nvfp4", "tp": tp.id}) is None)
    (by_memory,) = [one for one in TABLE.refusals if "do not fit" in one.reason]
    weights = WEIGHTS["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"]
    assert f"{weights / 2**30:.1f} GiB" in by_memory.reason and weights > 48e9 > weights / 2


# ---- how it is written


def test_words_need_no_quotes() -> None:
    asked = {"host": "my-host.example", "port": "8000", "max-running-requests": "64"}
    for values in ALL:
        for form in ("lines", "line"):
            if ours := found({**values, **asked, "format": form}):
                # a shell joins continued lines before it looks for words
                assert shlex.split(ours.command.replace("\\\n", "")) == ours.words
                assert ("\n" in ours.command) == (form == "lines")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tp": "3"}, "--tp is '3'\n  remedy: give 1, 2, 4, 8"),
        ({"variant": "nvfp4"}, "--variant is 'nvfp4', which nano does not have\n  remedy: give bf16, fp8"),
        ({"hardware": ""}, "--hardware is ''\n  remedy: give h100, h200, b200, a100, l40s, rtx-pro-6000, dgx-spark"),
        ({"port": "65536"}, "--port is '65536'\n  remedy: give a number from 1 to 65535"),
        ({"port": "0x10"}, "--port is '0x10'\n  remedy: give a number from 1 to 65535"),
        ({"port": ""}, "--port is ''\n  remedy: give a number from 1 to 65535"),
        ({"host": "a; rm -r b"}, "--host is 'a; rm -r b'\n  remedy: give a name or an address, such as 127.0.0.1"),
        ({"host": "-h"}, "--host is '-h'\n  remedy: give a name or an address, such as 127.0.0.1"),
        ({"host": "a\nb"}, "--host is 'a b'\n  remedy: give a name or an address, such as 127.0.0.1"),
        (
            {"max-running-requests": "-1"},
            "--max-running-requests is '-1'\n  remedy: give a number from 1 to 999999, or",
        ),
        ({"colour": "red"}, "there is no choice 'colour'"),
    ],
)
def test_what_is_not_offered(asked: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError) as error:
        launch(asked)
    assert not isinstance(error.value, Refused) and str(error.value).startswith(said)


def test_the_document_lists_every_refusal() -> None:
    text = (DATA.parents[1] / "docs" / "command.md").read_text()
    section = text.partition("## What is refused")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ")][1:]
    labels = {option.id: option.label for choice in TABLE.choices for option in choice.options}
    labels["omni"] = "Omni"
    assert len(rows) == len(TABLE.refusals)
    for refusal, row in zip(TABLE.refusals, rows, strict=True):
        # a row says "one" for TP 1
        assert [word for words in refusal.when.values() for word in words if labels[word] not in row] in ([], ["1"])
