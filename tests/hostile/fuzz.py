"""`python -m tests.hostile.fuzz --seed 0 --count 10000`: damaged media files, one a seed, through a media worker.

Ends with 0 if each was refused by name or read, by one worker within its memory; else with 1, the seed and the file,
which is kept. `--file` reads one again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile.files import Kind, whole_files  # noqa: E402
from hostile.mutations import mutated  # noqa: E402
from hostile.reading import MEMORY, Reading, reading  # noqa: E402

SLACK = 512 << 20
EVERY = 1000


def made(seed: int) -> tuple[str, Kind, bytes]:
    """(name of the whole file, what it is sent as, the damaged file) of a seed."""
    files = whole_files()
    name = random.Random(seed).choice(sorted(files))
    kind, data = files[name]
    return name, kind, mutated(data, [other for _, other in files.values()], seed)


def one(reader: Reading, seed: int, most: int) -> bool:
    """Whether the file of a seed was read; SystemExit with 1 for what may not happen."""
    name, kind, data = made(seed)
    try:
        said = reader.read(kind, data)
        assert reader.peak_bytes() < most, f"the worker has had {reader.peak_bytes() >> 20} MB"
    except AssertionError as error:
        kept = Path(tempfile.gettempdir()) / f"hostile-{seed}"
        kept.write_bytes(data)
        print(f"seed {seed}, of {name!r}, sent as {kind}, kept in {kept}: {error}", flush=True)
        raise SystemExit(1) from error
    return said is None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--count", type=int, default=10_000, help="seeds, one file each")
    parser.add_argument("--file", type=Path, help="reads this file instead, as --kind")
    parser.add_argument("--kind", choices=("image", "video", "sound"), default="image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, reading(Path(folder), "fuzz") as reader:
        if options.file is not None:
            print(reader.read(options.kind, options.file.read_bytes()) or "read")
            return 0
        most = reader.peak_bytes() + MEMORY + SLACK
        print(f"seeds {options.seed} to {options.seed + options.count - 1}", flush=True)
        num_read = 0
        for number in range(options.count):
            num_read += one(reader, options.seed + number, most)
            if (number + 1) % EVERY == 0:
                print(f"{number + 1} files, {num_read} of them read", flush=True)
        print(f"clean: {options.count} files, {num_read} of them read, peak {reader.peak_bytes() >> 20} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
