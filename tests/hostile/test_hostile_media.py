"""Files that were made to do harm: each is refused by name or read, by a worker that lives on within its memory.

Which files: `media_cases.py` (by hand), `files.py` cut at each byte, and `mutations.py` of them (by seed). The time
that one may take is bounded in `tests/reader/test_pool.py` and `tests/media/`, where the bound is set to strike.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.files import tagged, whole_files
from hostile.media_cases import CASES
from hostile.mutations import mutated
from hostile.reading import MEMORY, Reading, reading
from support.waiting import NET_S

ROOT = Path(__file__).parents[2]
# beyond what a worker may allocate: features in shared memory, libraries, what the cap counts only on its next page
SLACK = 512 << 20
# of each file, in the run of every day: those not longer than this are cut at each byte, others at so many places
SHORT, PLACES = 400, 24
MUTATIONS = 8


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    with reading(tmp_path_factory.mktemp("hostile")) as made:
        began = made.peak_bytes()
        yield made
        assert made.peak_bytes() < began + MEMORY + SLACK


@pytest.mark.parametrize("name", whole_files())
def test_whole_files_are_read(reader: Reading, name: str) -> None:
    """Or all that follows would show nothing."""
    assert reader.read(*whole_files()[name]) is None


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_was_made_to_do_harm(reader: Reading, name: str) -> None:
    case = CASES[name]
    said = reader.read(case.kind, case.make())
    assert case.says is None or (said is not None and case.says in said), said


@pytest.mark.parametrize("name", whole_files())
def test_a_file_that_is_cut(reader: Reading, name: str) -> None:
    kind, data = whole_files()[name]
    places = range(len(data)) if len(data) <= SHORT else sorted(random.Random(name).sample(range(len(data)), PLACES))
    said = [reader.read(kind, data[:place]) for place in places]
    # the first bytes alone are nothing
    assert said[0] is not None and any(said)


@pytest.mark.matrix
@pytest.mark.parametrize("name", whole_files())
def test_a_file_that_is_cut_at_each_byte(reader: Reading, name: str) -> None:
    kind, data = whole_files()[name]
    for place in range(len(data)):
        reader.read(kind, data[:place])


@pytest.mark.parametrize("name", whole_files())
def test_a_file_that_was_damaged_on_purpose(reader: Reading, name: str) -> None:
    kind, data = whole_files()[name]
    others = [other for _, other in whole_files().values()]
    for seed in range(MUTATIONS):
        reader.read(kind, mutated(data, others, seed))


def test_what_libraries_would_print_goes_nowhere(reader: Reading) -> None:
    """Pillow would warn, libtiff and soundfile would print; what a stranger repeats fills a disk."""
    tiff, aiff = whole_files()["tiff"][1], whole_files()["aiff"][1]
    for place in range(0, len(tiff), 20):
        reader.read("image", tiff[:place])
    for place in range(0, 100, 3):
        reader.read("sound", aiff[:place])
    reader.read("image", CASES["TIFF, deflated gigabyte"].make())
    assert reader.log.read_text() == ""


@pytest.mark.parametrize("name", ["mp3 with tags", "mp4 with tags"])
def test_titles_in_another_encoding_are_read(reader: Reading, name: str) -> None:
    assert reader.read(*tagged()[name]) is None


def test_the_same_seed_damages_the_same_way() -> None:
    kind, data = whole_files()["png"]
    assert [mutated(data, [data], seed) for seed in range(50)] == [mutated(data, [data], seed) for seed in range(50)]
    assert len({mutated(data, [data], seed) for seed in range(50)}) > 40


def test_after_all_of_them_a_whole_file_is_read_as_before(reader: Reading) -> None:
    assert reader.read(*whole_files()["jpeg"]) is None


def test_the_command_for_long_runs() -> None:
    """It says which seed it is at, so that what it finds is found again."""
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--seed", "5", "--count", "12"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=NET_S, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "seeds 5 to 16" in run.stdout and "clean: 12 files" in run.stdout
