"""Which form of an op serves a call: one table, asked for every call; each choice is said once in the log.

A row is (op, form, devices, serves). The rows of an op stand in order of preference: the first one that serves a call
is taken. A new form is a file `{op}_{form}.py` beside this one and a row here; the tests of tests/ops then run it too.
Choosing is not falling back: a form that fails raises. Knows no numbers, and imports a form only when it is chosen.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch

logger = logging.getLogger(__name__)

# "ssm_step=torch,experts=layer" makes those forms serve their ops, for comparing two runs; see docs/development.md
OVERRIDE = "SGLANG_NEMOTRON_OPS"
# forms that are no files of this room: SGLang's own layer computes, and `decoder/` calls it; or the ops that a fused
# one stands for are called one after the other
LAYER = "layer"
APART = "apart"
REFERENCE = "reference"
# rows of decode up to which two launches instead of three beat what SGLang's kernels read faster
_FUSED_ROWS = 16
# rows of decode up to which `few_rows` has a form of its own
MOST_FEW_ROWS = 2


class Case(NamedTuple):
    """What a choice may look at: facts about one call, as plain values.

    device: torch's type, "cpu" or "cuda". capability: of a CUDA device, (9, 0) for Hopper; (0, 0) elsewhere.
    dtype: of the activations. stored: of the weights or states that the op reads, None where it has neither.
    rows: tokens of this call. sizes: the other sides of the shapes, by the letters of the op's file.
    traits: what is true of this call alone, one word each.
    """

    op: str
    device: str
    capability: tuple[int, int]
    dtype: torch.dtype
    stored: torch.dtype | None
    rows: int
    sizes: tuple[tuple[str, int], ...]
    traits: tuple[str, ...] = ()

    def size(self, letter: str) -> int:
        return dict(self.sizes)[letter]


def case(
    op: str, x: torch.Tensor, stored: torch.Tensor | None, sizes: Mapping[str, int], traits: tuple[str, ...] = ()
) -> Case:
    """The facts of one call: `x` are its activations, rows first; `stored` its weights or states."""
    kept = stored.dtype if stored is not None else None
    return Case(op, x.device.type, _capability(x.device), x.dtype, kept, x.shape[0], tuple(sizes.items()), traits)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def always(case: Case) -> bool:
    return True


@dataclass(frozen=True)
class Form:
    """One way to compute an op: `serves` says for which calls on its devices it is right, `pays` where it is worth it.

    An override takes a form where it serves, whether or not it pays. `on_request`: only an override takes it; it waits
    for its proof against a running server.
    """

    op: str
    name: str
    devices: tuple[str, ...]
    serves: Callable[[Case], bool] = always
    pays: Callable[[Case], bool] = always
    on_request: bool = False

    @property
    def module(self) -> ModuleType:
        assert self.name not in (LAYER, APART), self
        return importlib.import_module(f"sglang_nemotron.ops.{self.op}_{self.name}")

    def takes(self, case: Case) -> bool:
        return case.device in self.devices and self.serves(case)


def _flash_is_built(case: Case) -> bool:
    """SGLang's FlashAttention 3: 16-bit values, on Ampere, Ada and Hopper."""
    return case.dtype in (torch.bfloat16, torch.float16) and case.capability[0] in (8, 9)


def _group_on_one_rank(case: Case) -> bool:
    """A group that spans ranks needs its sum in the middle, which SGLang's kernel cannot do."""
    return "spans_ranks" not in case.traits


def _one_group_of_experts(case: Case) -> bool:
    """Our router chooses among all experts at once."""
    return case.capability >= (8, 0) and case.size("Q") == 1


def _from_ampere_on(case: Case) -> bool:
    return case.capability >= (8, 0)


def _one_or_two_rows(case: Case) -> bool:
    """More rows read the weights from the cache as often, and matrix units serve them better."""
    return case.capability >= (8, 0) and case.rows <= MOST_FEW_ROWS


def _tuned_for_few_rows(case: Case) -> bool:
    """Where a server has shown that it is faster; no other card was at hand."""
    return case.capability == (9, 0)


def _asked_by_a_layer(case: Case) -> bool:
    """A call of `ops.experts` has no layer that could compute it."""
    return "called" not in case.traits


def _ours_to_compute(case: Case) -> bool:
    """Weights as [E, I, D] that stay where they are, and nobody who asks the layer what it routed."""
    return not {"packed", "managed"} & set(case.traits)


def _half_weights(case: Case) -> bool:
    """Our kernels for experts: activations and weights of one 16-bit type."""
    return (
        case.capability >= (8, 0)
        and case.dtype in (torch.bfloat16, torch.float16)
        and case.stored == case.dtype
        and _ours_to_compute(case)
    )


def _float8_is_built(case: Case) -> bool:
    """Matrix units for FP8: Ada, Hopper and later."""
    return case.capability >= (8, 9) and case.dtype in (torch.bfloat16, torch.float16) and _ours_to_compute(case)


def _parts_can_serve(case: Case) -> bool:
    """A call of the fused op has no parts, and only the fused forms draw at random."""
    return not {"called", "rounded_at_random"} & set(case.traits)


def _parts_are_as_fast(case: Case) -> bool:
    """Where the fused step gains nothing: on a CPU, and with fp32 states at many rows, where the bytes decide."""
    wide = case.stored is not None and case.stored.itemsize > 2
    return case.capability < (8, 0) or (wide and case.rows > _FUSED_ROWS)


# an op's forms stand in order of preference. CUDA borrows SGLang's kernels until ours replace them one by one
FORMS: tuple[Form, ...] = (
    Form("conv1d", "sglang", ("cuda",)),
    Form("conv1d", "torch", ("cpu",)),
    Form("ssd", "sglang", ("cuda",)),
    Form("ssd", "torch", ("cpu",)),
    Form("ssm_step", "sglang", ("cuda",)),
    Form("ssm_step", "torch", ("cpu",)),
    Form("gated_norm", "sglang", ("cuda",), _group_on_one_rank),
    Form("gated_norm", "torch", ("cpu", "cuda")),
    Form("full_attention", "sglang", ("cuda",), _flash_is_built),
    Form("full_attention", "torch", ("cpu", "cuda")),
    # SGLang's FusedMoE brings its own router, so `route` is called where another form of the experts serves
    Form("experts", "triton", ("cuda",), _half_weights),
    Form("experts", LAYER, ("cuda",), _asked_by_a_layer),
    Form("experts", "torch", ("cpu",)),
    Form("experts_fp8", "triton", ("cuda",), _float8_is_built),
    Form("experts_fp8", LAYER, ("cuda",), _asked_by_a_layer),
    Form("experts_fp8", "torch", ("cpu", "cuda")),
    Form("router", "triton", ("cuda",), _one_group_of_experts),
    Form("router", "torch", ("cpu", "cuda")),
    # apart: conv1d, ssm_step and gated_norm one after the other
    Form("mamba_step", APART, ("cpu", "cuda"), _parts_can_serve, _parts_are_as_fast),
    Form("mamba_step", "triton", ("cuda",), _from_ampere_on),
    Form("mamba_step", "torch", ("cpu", "cuda")),
    # whole layers of a step of one or two rows; apart: norm, mixer and residual one after the other
    Form("few_rows", "triton", ("cuda",), _one_or_two_rows, _tuned_for_few_rows),
    Form("few_rows", APART, ("cpu", "cuda"), _parts_can_serve),
    Form("track", "triton", ("cuda",), _from_ampere_on, on_request=True),
    Form("track", "sglang", ("cuda",)),
    Form("track", "torch", ("cpu",)),
)
OPS = tuple(dict.fromkeys(form.op for form in FORMS))


def forms_of(op: str) -> tuple[Form, ...]:
    """The rows of an op, best first."""
    return tuple(form for form in FORMS if form.op == op)


def choose(case: Case) -> Form:
    """The form that serves a call; ValueError where none does, or where the user's own choice does not."""
    op = case.op
    wanted = _overrides().get(op)
    if wanted is None:
        rows = (form for form in _rows(op) if not form.on_request and form.pays(case))
    else:
        rows = (form for form in _rows(op) if form.name == wanted)
    form = next((form for form in rows if form.takes(case)), None)
    if form is None and wanted == REFERENCE:
        form = _reference(op)
    if form is None:
        raise ValueError(_none_serves(case, wanted))
    _say(op, form.name, case.device, case.capability, case.dtype, case.stored, case.sizes, case.traits)
    return form


def module_for(case: Case) -> ModuleType:
    """The file that serves a call."""
    form = choose(case)
    return _module(form.op, form.name)


def parse_overrides(text: str) -> dict[str, str]:
    """{op: form} from "op=form,op=form"; ValueError for a name that the table lacks."""
    chosen: dict[str, str] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        op, equals, name = word.partition("=")
        known = [form.name for form in forms_of(op)] + [REFERENCE] * (op in OPS)
        if not equals or name not in known:
            allowed = f"{op}={'|'.join(known)}" if known else f"one of {', '.join(OPS)}, and =FORM"
            raise ValueError(f"{OVERRIDE} holds {word!r}; allowed: {allowed}")
        chosen[op] = name
    return chosen


def check_overrides(environment: Mapping[str, str]) -> None:
    """ValueError for an override that names what is not there; for a server that starts."""
    parse_overrides(environment.get(OVERRIDE, ""))


@functools.cache
def _overrides() -> dict[str, str]:
    return parse_overrides(os.environ.get(OVERRIDE, ""))


@functools.cache
def _rows(op: str) -> tuple[Form, ...]:
    return forms_of(op)


@functools.cache
def _reference(op: str) -> Form:
    return Form(op, REFERENCE, ("cpu", "cuda"))


@functools.cache
def _module(op: str, name: str) -> ModuleType:
    return Form(op, name, ()).module


@functools.cache
def _say(op: str, name: str, device: str, capability: tuple[int, int], *rest: object) -> None:
    """A line for each choice that differs in anything but the number of rows."""
    dtype, stored, sizes, traits = rest
    where = f"{device} {capability[0]}.{capability[1]}" if capability[0] else device
    logger.info(
        "op %s on %s: %s (%s, stored %s, %s)",
        op,
        where,
        name,
        dtype,
        stored,
        " ".join([*(f"{letter}={size}" for letter, size in sizes), *traits]),  # type: ignore[union-attr]
    )


def _none_serves(case: Case, wanted: str | None) -> str:
    rows = [f"{form.name} ({', '.join(form.devices)})" for form in _rows(case.op)]
    if wanted is not None:
        return f"{OVERRIDE} asks for {case.op}={wanted}, which does not serve {case}; it has {', '.join(rows)}"
    return f"no form of op {case.op!r} serves {case}; it has {', '.join(rows)}"
