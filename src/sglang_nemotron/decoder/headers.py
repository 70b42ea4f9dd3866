"""Names, dtypes and shapes of a checkpoint folder's tensors, read from file headers; no weight is touched.

A folder comes in, `{name: (dtype, shape)}` goes out, or a ValueError that names the file: truncated, unreadable,
absent though the index names it. What the names mean is `weights.py`'s business.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

Headers = dict[str, tuple[str, tuple[int, ...]]]

INDEX = "model.safetensors.index.json"
# the format's first eight bytes are the header's length; a longer header than this is damage, not a checkpoint
_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100_000_000
# bytes of an element, by the format's dtype names; a newer one is taken on trust
_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


def read_headers(folder: Path) -> Headers:
    """Every tensor of the safetensors files in `folder`; where an index is, of the files that it names.

    A name that two files hold, or that the index promises and its file lacks, is a ValueError.
    """
    index = _index(folder)
    files = sorted(set(index.values())) if index is not None else sorted(p.name for p in folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors file; is the download complete?")
    found: Headers = {}
    owner: dict[str, str] = {}
    for file in files:
        for name, entry in _file_headers(folder / file).items():
            if name in found:
                raise ValueError(f"{name} is in {owner[name]} and in {file} of {folder}; remove the stale file")
            found[name], owner[name] = entry, file
    absent = [f"{name} (in {file})" for name, file in (index or {}).items() if owner.get(name) != file]
    if absent:
        raise ValueError(f"{folder / INDEX} names {len(absent)} tensors that their files lack: {_some(absent)}")
    return found


def _index(folder: Path) -> dict[str, str] | None:
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        files = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); download it again") from None
    missing = sorted({file for file in files.values() if not (folder / file).is_file()})
    if missing:
        raise ValueError(f"{path} names files that are not there: {_some(missing)}; is the download complete?")
    return files


def _file_headers(path: Path) -> Headers:
    header, data_bytes = _parse(path)
    headers: Headers = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: the header's entry of {name} is damaged; download the file again") from None
        if end > data_bytes:
            raise ValueError(
                f"{path} is truncated: {name} ends at byte {end} of its data, the file has {data_bytes}; "
                "download it again"
            )
        if dtype in _BYTES and math.prod(shape) * _BYTES[dtype] != end - begin:
            raise ValueError(f"{path}: {name} is {dtype} {list(shape)} in {end - begin} bytes; the file is damaged")
        headers[name] = (dtype, shape)
    return headers


def _parse(path: Path) -> tuple[dict[str, Any], int]:
    """The file's JSON header, and the bytes of data that follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(_LENGTH.size)
        if len(first) < _LENGTH.size:
            raise ValueError(f"{path} is truncated: {size} bytes; download it again")
        (length,) = _LENGTH.unpack(first)
        if length > min(size - _LENGTH.size, _LONGEST_HEADER):
            raise ValueError(f"{path} is truncated or no safetensors file: a header of {length} bytes in {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file: its header is not a table of tensors")
    return header, size - _LENGTH.size - length


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
