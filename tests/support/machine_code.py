"""Reads a kernel's machine code: finds FP8 numbers that are packed with a register that holds something else.

In: a compiled kernel of Triton. Out: the instructions in question. Knows NVIDIA's listing, no kernel.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from triton import knobs

__all__ = ["stray_packs"]

# a pair of FP8 numbers, beside the pair that its last operand holds already
_PACK = re.compile(r"F2FP\.\S*E4M3\.F32\.PACK_AB_MERGE_C (R\d+), \S+, \S+, (R\d+|RZ)")
_WRITES = re.compile(r"(?:@!?U?P\d+ )?(?!ST|RED|BRA)[A-Z]\S* (R\d+)\b")


def stray_packs(kernel: Any, folder: Path) -> list[str]:
    """Packs whose last operand is neither zero nor written by a pack; read top to bottom, as if without branches."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    listing = subprocess.run(
        [knobs.nvidia.cuobjdump.path, "-sass", str(cubin)],
        env={"PATH": str(Path(knobs.nvidia.nvdisasm.path).parent)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", listing, re.MULTILINE)
    assert instructions, listing
    packed, stray = {"RZ"}, []
    for instruction in instructions:
        pack, write = _PACK.search(instruction), _WRITES.match(instruction)
        if pack and pack[2] not in packed:
            stray.append(instruction)
        if write:
            (packed.add if pack else packed.discard)(write[1])
    return stray
