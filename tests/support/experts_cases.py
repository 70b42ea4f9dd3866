"""Random and hand-made inputs for the routed experts' Triton kernels, and the schedules they are tried with."""

from __future__ import annotations

import os

import pytest
import torch

from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.schedules import ExpertSchedule, Tile

NAN = float("nan")
# read before Triton is imported, as Triton does
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
# the interpreter truncates bfloat16 and multiplies its bits as integers; a card is tried with what it serves
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16

# Nano's own sizes, and sizes that no tile divides; (experts, k, hidden, width)
SHAPES = (
    [(8, 3, 96, 80), (5, 2, 72, 40)] if INTERPRETED else [(128, 6, 2688, 1856), (128, 6, 2688, 232), (5, 2, 72, 40)]
)
TOKENS = [1, 2, 33] if INTERPRETED else [1, 2, 7, 16, 33, 129, 700]

_SMALL, _WIDE = Tile(16, 32, 4, 2), Tile(32, 64, 4, 2)
_PAIRS = [ExpertSchedule("pairs", _SMALL, _WIDE)]
_BLOCKS = [
    ExpertSchedule("blocks", _WIDE, _SMALL, rows=16),
    ExpertSchedule("blocks", _SMALL, _WIDE, rows=16 if INTERPRETED else 32, swap=True, tma=True),
]
_CARD = [
    ExpertSchedule("pairs", Tile(8, 1024, 4, 1), Tile(4, 1024, 4, 1)),
    ExpertSchedule("blocks", Tile(64, 128, 4, 4), Tile(64, 128, 4, 4), rows=16, swap=True, tma=True),
    ExpertSchedule("blocks", Tile(128, 128, 8, 3), Tile(64, 128, 4, 3), rows=32, swap=True),
    ExpertSchedule("blocks", Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), rows=128, tma=True, promote=0),
    ExpertSchedule("blocks", Tile(64, 64, 4, 3), Tile(64, 64, 4, 3), rows=16),
]
SCHEDULES = [*_PAIRS, *_BLOCKS] if INTERPRETED else _CARD

Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def name(schedule: ExpertSchedule) -> str:
    """A schedule as a test id."""
    if schedule.form == "pairs":
        return f"pairs-{schedule.up.out}x{schedule.up.inner}"
    kind = ("swap" if schedule.swap else "plain") + ("-tma" if schedule.tma else "")
    return f"blocks{schedule.rows}-{kind}-{schedule.up.out}x{schedule.up.inner}"


def random_ids(tokens: int, num_experts: int, top_k: int) -> torch.Tensor:
    """Distinct ids per token, every expert as likely."""
    return torch.rand(tokens, num_experts).topk(top_k, dim=1)[1]


def inputs(tokens: int, shape: tuple[int, int, int, int], device: str, dtype: torch.dtype = DTYPE) -> Given:
    """Hidden states of size 1 and weights that keep them so."""
    num_experts, top_k, hidden, width = shape
    return (
        torch.randn(tokens, hidden).to(device, dtype),
        (torch.randn(num_experts, width, hidden, device=device) * hidden**-0.5).to(dtype),
        (torch.randn(num_experts, hidden, width, device=device) * width**-0.5).to(dtype),
        (torch.rand(tokens, top_k) * 2).to(device),
        random_ids(tokens, num_experts, top_k).to(device),
    )


def skip_some(given: Given) -> Given:
    """A third of the pairs belong to another rank; their weights are NaN, so that a product would show."""
    weights_Tk, ids_Tk = given[3].clone(), given[4].clone()
    away = torch.rand(ids_Tk.shape).to(ids_Tk.device) < 0.33
    away[0] = True
    weights_Tk[away], ids_Tk[away] = NAN, -1
    return *given[:3], weights_Tk, ids_Tk


def with_ids(given: Given, ids_Tk: torch.Tensor) -> Given:
    """The same with other ids."""
    return *given[:4], ids_Tk.to(given[4])


def quantised(given: Given) -> tuple[Given, Float8Scales]:
    """The same inputs with weights in FP8, one scale per expert, and static scales that clamp a few values."""
    x_TD, up_EID, down_EDI, weights_Tk, ids_Tk = given
    up_E = up_EID.abs().amax((1, 2)).float() / 448
    down_E = down_EDI.abs().amax((1, 2)).float() / 448
    up8_EID = (up_EID.float() / up_E[:, None, None]).to(torch.float8_e4m3fn)
    down8_EDI = (down_EDI.float() / down_E[:, None, None]).to(torch.float8_e4m3fn)
    number = {"dtype": torch.float32, "device": x_TD.device}
    scales = Float8Scales(torch.tensor(3 / 448, **number), up_E, torch.tensor(8 / 448, **number), down_E)
    return (x_TD, up8_EID, down8_EDI, weights_Tk, ids_Tk), scales


def whole_numbers(tokens: int, shape: tuple[int, int, int, int], device: str) -> tuple[Given, Float8Scales]:
    """Inputs whose every intermediate is a small whole number, which FP8 holds exactly.

    The interpreter does not round FP8 as a card does; here there is nothing to round. A row of up has four entries of
    +-1 and x is -1, 0 or 1, so that relu2 is at most 16; scales are powers of two.
    """
    num_experts, top_k, hidden, width = shape
    up_EID = torch.zeros(num_experts, width, hidden)
    places = torch.rand(num_experts, width, hidden).topk(4, dim=2)[1]
    up_EID.scatter_(2, places, torch.randint(0, 2, places.shape) * 2.0 - 1)
    down_EDI = torch.randint(-1, 2, (num_experts, hidden, width)).float()
    weights_Tk = torch.randint(1, 4, (tokens, top_k)).float()
    x_TD = torch.randint(-1, 2, (tokens, hidden)).to(DTYPE) / 2
    up_E, down_E = 2.0 ** torch.randint(0, 2, (num_experts,)), 2.0 ** torch.randint(-3, 1, (num_experts,))
    # an expert whose weights are scaled by two has half as large a product to begin with
    half = torch.where(up_E > 1, 0.5, 1.0)[:, None, None]
    up8_EID, down8_EDI = (up_EID * half).to(torch.float8_e4m3fn), down_EDI.to(torch.float8_e4m3fn)
    ids_Tk = random_ids(tokens, num_experts, top_k)
    scales = (torch.tensor(0.5), up_E, torch.tensor(0.25), down_E)
    given = (x_TD.to(device), up8_EID.to(device), down8_EDI.to(device), weights_Tk.to(device), ids_Tk.to(device))
    return given, Float8Scales(*(scale.to(device) for scale in scales))
