"""Which (token, expert) pairs each expert gets: pairs sorted by expert and cut into blocks, one pair at a time.

In: the router's ids; out: the order and the blocks that a grouped product walks. Knows no weights.

Shapes: T tokens, k experts per token, n = T * k pairs, b blocks, D hidden.
"""

from __future__ import annotations

import torch

__all__ = ["sort_pairs", "sort_pairs_quantising"]


def sort_pairs(ids_Tk: torch.Tensor, *, num_experts: int, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(pairs_n, blocks_b3), both int32.

    `pairs_n` holds the pairs t * k + j whose id is in [0, num_experts), sorted by id and then by pair; what follows
    them is undefined. A row of `blocks_b3` is (expert, first, end): rows first to end - 1 of `pairs_n` belong to the
    expert, `block_rows` of them at most. Blocks follow the experts; unused rows at the tail have expert -1. There are
    min(n, num_experts + n // block_rows) rows, enough for any ids.
    """
    ids_n = ids_Tk.flatten().tolist()
    num_pairs = len(ids_n)
    pairs: list[int] = []
    blocks: list[tuple[int, int, int]] = []
    for expert in range(num_experts):
        own = [pair for pair in range(num_pairs) if ids_n[pair] == expert]
        for begin in range(0, len(own), block_rows):
            block = own[begin : begin + block_rows]
            blocks.append((expert, len(pairs), len(pairs) + len(block)))
            pairs += block
    pairs += [-1] * (num_pairs - len(pairs))
    blocks += [(-1, 0, 0)] * (min(num_pairs, num_experts + num_pairs // block_rows) - len(blocks))
    return (
        torch.tensor(pairs, dtype=torch.int32, device=ids_Tk.device),
        torch.tensor(blocks, dtype=torch.int32, device=ids_Tk.device).view(-1, 3),
    )


def sort_pairs_quantising(
    ids_Tk: torch.Tensor, x_TD: torch.Tensor, scale: torch.Tensor, *, num_experts: int, block_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(pairs, blocks, x_TD): `sort_pairs`, and x times 1 / scale, clamped to what float8_e4m3fn holds and rounded."""
    pairs_n, blocks_b3 = sort_pairs(ids_Tk, num_experts=num_experts, block_rows=block_rows)
    largest = torch.finfo(torch.float8_e4m3fn).max
    quantised_TD = (x_TD.float() * (1 / scale)).clamp(-largest, largest).to(torch.float8_e4m3fn)
    return pairs_n, blocks_b3, quantised_TD
