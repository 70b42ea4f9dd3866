"""`plan` and `sglang-nemotron command` say the same of every GPU, published checkpoint and split."""

from __future__ import annotations

import pytest

from sglang_nemotron.launch import choose
from sglang_nemotron.launch.choose import Launch, Refused, launch
from sglang_nemotron.launch.table import CHECKPOINTS, TABLE
from sglang_nemotron.plan import gpus, models
from sglang_nemotron.plan.make import Plan, Workload, make
from sglang_nemotron.plan.server import Flags, start

OPTIONS = {choice.id: [option.id for option in choice.options] for choice in TABLE.choices}
# the table offers the larger A100
GPUS = {name: "a100-80" if name == "a100" else name for name in OPTIONS["hardware"]}
COMBINATIONS = [
    (name, model, variant, hardware, tp)
    for model, variant, name, _ in CHECKPOINTS
    for hardware in OPTIONS["hardware"]
    for tp in OPTIONS["tp"]
]


def commanded(model: str, variant: str, hardware: str, tp: str) -> Launch | Refused:
    asked = {"model": model, "variant": variant, "hardware": hardware, "tp": tp}
    try:
        return launch({**asked, "reasoning-parser": "on", "tool-call-parser": "on"})
    except Refused as refused:
        return refused


def planned(name: str, gpu: str, tp: str) -> Plan | str:
    """A plan, or the reason and the remedy of a refusal."""
    model = models.of_published(name)
    flags = Flags(tp_size=int(tp), context=model.decoder.max_positions)
    try:
        return make(gpus.GPUS[gpu], int(tp), model, Workload(1024, 1024, 8), flags)
    except ValueError as error:
        return str(error)


def test_every_gpu_of_the_table_is_planned_for() -> None:
    assert set(GPUS.values()) | {"a100-40"} == set(gpus.GPUS)
    assert {name for name, *_ in COMBINATIONS} == {
        name for name in models.PUBLISHED if not name.endswith("Reasoning-BF16")
    }


@pytest.mark.parametrize("hardware", OPTIONS["hardware"])
def test_every_checkpoint_and_split_is_offered_by_both_or_by_neither(hardware: str) -> None:
    seen = {"offered": 0, "refused": 0}
    for name, model, variant, _, tp in (one for one in COMBINATIONS if one[3] == hardware):
        command, plan = commanded(model, variant, hardware, tp), planned(name, GPUS[hardware], tp)
        where = (name, hardware, tp)
        if isinstance(command, Refused):
            seen["refused"] += 1
            assert isinstance(plan, str) or not plan.fits, where
            # where weights do not fit, or an expert does not divide, the plan has figures of its own
            own = isinstance(plan, Plan) or "columns" in plan
            assert own or plan == f"{command.reason}\n  remedy: {command.remedy}", where
            continue
        seen["offered"] += 1
        assert isinstance(plan, Plan) and plan.fits, (where, plan)
        of_command = {one.flag: one.value for one in command.flags}
        of_plan = {one.name: one.value for one in plan.choices}
        for flag in ("--attention-backend", "--reasoning-parser", "--tool-call-parser", "--mem-fraction-static"):
            assert of_plan.get(flag) == of_command.get(flag), (where, flag)
        assert of_plan.get("--tp", "1") == of_command["--tp"]
        # and the command's own flags start a server
        share = of_command.get("--mem-fraction-static")
        flags = Flags(tp_size=int(tp), context=262_144, mem_fraction=float(share) if share else None)
        assert start(plan.gpu, plan.model, flags).starts, where
    assert seen["offered"] + seen["refused"] == 24 and seen["offered"]


def test_a_share_is_named_where_it_is_needed_alone() -> None:
    """The table's --mem-fraction-static: SGLang's own share would start nothing there, and everywhere else it does."""
    for name, model, variant, hardware, tp in COMBINATIONS:
        command = commanded(model, variant, hardware, tp)
        if isinstance(command, Launch):
            flags = Flags(tp_size=int(tp), context=262_144)
            alone = start(gpus.GPUS[GPUS[hardware]], models.of_published(name), flags)
            assert alone.starts == all(one.flag != "--mem-fraction-static" for one in command.flags), (
                name,
                hardware,
                tp,
            )


def test_a_checkpoint_of_another_size_is_judged_by_its_format_alone() -> None:
    """What the pages refuse for their sizes does not hold for a small one; what a card cannot compute does."""
    from dataclasses import replace

    from sglang_nemotron.plan import offers

    published = models.of_published("Nemotron-3-Nano-Omni-30B-A3B-FP8")
    own = replace(published, name="a-folder", variant=None)
    assert offers.refusal_of_published(gpus.GPUS["l40s"], published, 1) is not None
    assert offers.refusal_of_published(gpus.GPUS["l40s"], own, 1) is None
    assert offers.refusal_of_format(gpus.GPUS["l40s"], own, 1) is None
    assert offers.refusal_of_format(gpus.GPUS["a100-40"], own, 1) is not None
    # a GPU of which nothing but its memory is known is in no row
    assert offers.refusal_of_format(gpus.other(40_960), own, 1) is None


def test_answers_that_are_not_given_refuse_nothing() -> None:
    assert choose.refusal_of({}) is None and choose.refusal_of({"variant": "nvfp4"}) is None
    assert choose.refusal_of({"variant": "nvfp4", "hardware": "l40s"}) is not None
    assert choose.flag_of("--attention-backend", {"hardware": "other"}) is None
