"""Questions with their answers, from files as GSM8K, MMLU and media sets have them; prompts as SGLang's scripts make.

Files come in, `Set`s go out. Who is asked and how replies are scored is for other files. Sources of the prompts:
benchmark/gsm8k/bench_sglang.py and benchmark/mmlu/bench_sglang.py of SGLang, which the Omni cookbook runs.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_nemotron.bench.scoring import last_number

GSM8K_STOPS = ("Question", "Assistant:", "<|separator|>")
GSM8K_TOKENS = 512
# of examples before a question of MMLU; the script drops examples until they fit
MMLU_EXAMPLES_TOKENS = 1536
LETTERS = "ABCD"
# (kind of its parts, what it takes for a file's form)
_MEDIA = {"image": "jpeg", "audio": "wav", "video": "mp4"}


@dataclass(frozen=True)
class Item:
    """One question.

    prompt: the whole text. answers: any of them is right. group: what its score is also given for. shown: it stands
    with its answer in its own prompt. media: (kind, bytes, form) in the order in which they are shown.
    """

    name: str
    prompt: str
    answers: tuple[str, ...]
    group: str = ""
    shown: bool = False
    media: tuple[tuple[str, bytes, str], ...] = ()


@dataclass(frozen=True)
class Set:
    """Questions that are asked and scored alike.

    title: what was asked, for a reader. rule: of `scoring.RULES`. max_tokens, stops: of the raw prompts of the script;
    chats have room of their own. notes: what a reader should know of it.
    """

    title: str
    rule: str
    items: tuple[Item, ...]
    max_tokens: int
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def gsm8k(lines: Sequence[Mapping[str, Any]], *, title: str, shots: int, count: int | None) -> Set:
    """Few-shot questions as SGLang's script asks them.

    lines: of GSM8K's test.jsonl, with `question` and `answer`. The first `shots` are the examples, and the first
    `count` are asked, those examples among them: so does the script, and its figures are of that. Raises ValueError.
    """
    if len(lines) <= shots:
        raise ValueError(
            f"{title} has {len(lines)} questions, {shots} of them examples\n  remedy: give more, or --shots"
        )
    examples = "".join(f"{_gsm8k_question(line)} {line['answer']}\n\n" for line in lines[:shots])
    items = []
    for number, line in enumerate(lines[:count]):
        if (label := last_number(line["answer"])) is None:
            raise ValueError(
                f"{title}: line {number + 1} has no number in its answer {line['answer']!r}"
                "\n  remedy: give GSM8K's own file, whose answers end in `#### NUMBER`"
            )
        items.append(Item(str(number), examples + _gsm8k_question(line), (str(label),), shown=number < shots))
    return Set(title, "number", tuple(items), GSM8K_TOKENS, GSM8K_STOPS)


def _gsm8k_question(line: Mapping[str, Any]) -> str:
    return f"Question: {line['question']}\nAnswer:"


def json_lines(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file, each with these names. Raises ValueError with the line that is none."""
    found = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: no JSON: {error}\n  remedy: give JSON, an object a line"
            ) from error
        lacking = [name for name in names if not isinstance(said, dict) or name not in said]
        if lacking:
            raise ValueError(
                f"{path}, line {number} has no {' and no '.join(map(repr, lacking))}: {line[:60]!r}"
                f"\n  remedy: every line is to be an object with {', '.join(names)}"
            )
        found.append(said)
    if not found:
        raise ValueError(f"{path} is empty\n  remedy: give a JSONL file with {', '.join(names)}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}\n  remedy: give a file with --data") from error


# rows of a subject: question, choices, letter
Rows = Sequence[Sequence[str]]


def mmlu(
    subjects: Mapping[str, tuple[Rows, Rows]],
    *,
    title: str,
    shots: int,
    count: int | None,
    length: Callable[[str], int],
) -> Set:
    """Few-shot questions as SGLang's script asks them, subject by subject.

    subjects: name -> (rows of examples, rows of questions). count: questions of each subject at most. length: tokens
    of a text; examples are dropped until they fit MMLU_EXAMPLES_TOKENS.
    """
    items, fewer = [], []
    for subject, (shown, asked) in subjects.items():
        number = min(shots, len(shown))
        while length(examples := _examples(subject, shown[:number])) > MMLU_EXAMPLES_TOKENS and number:
            number -= 1
        if number < shots:
            fewer.append(f"{subject} {number}")
        for at, row in enumerate(asked[:count]):
            items.append(Item(f"{subject} {at}", examples + _choices(row), (row[-1].strip(),), group=subject))
    notes = (f"fewer examples than {shots} for: {', '.join(fewer)}",) if fewer else ()
    return Set(title, "letter", tuple(items), 1, notes=notes)


def _examples(subject: str, rows: Rows) -> str:
    head = f"The following are multiple choice questions (with answers) about {' '.join(subject.split('_'))}.\n\n"
    return head + "".join(f"{_choices(row)} {row[-1]}\n\n" for row in rows)


def _choices(row: Sequence[str]) -> str:
    question, *choices, _ = row
    return "\n".join([question, *(f"{LETTERS[at]}. {choice}" for at, choice in enumerate(choices)), "Answer:"])


def mmlu_folder(folder: Path) -> dict[str, tuple[Rows, Rows]]:
    """MMLU's own files: dev/SUBJECT_dev.csv and test/SUBJECT_test.csv. Raises ValueError."""
    tests = sorted((folder / "test").glob("*_test.csv"))
    if not tests:
        raise ValueError(
            f"{folder} has no test/SUBJECT_test.csv\n  remedy: give the folder of MMLU's data.tar, with dev/ and test/"
        )
    return {
        (name := file.name.removesuffix("_test.csv")): (_csv(folder / "dev" / f"{name}_dev.csv"), _csv(file))
        for file in tests
    }


def _csv(path: Path) -> Rows:
    try:
        rows = [row for row in csv.reader(io.StringIO(_text(path))) if row]
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV: {error}\n  remedy: give MMLU's own files") from error
    for number, row in enumerate(rows, 1):
        if len(row) != 6 or row[-1].strip() not in LETTERS:
            raise ValueError(
                f"{path}, row {number} is not a question, four choices and a letter: {row!r:.100}"
                "\n  remedy: give MMLU's own files"
            )
    return rows


def with_media(path: Path, *, kind: str, title: str, rule: str, question: str, count: int | None) -> Set:
    """A set of one's own, JSONL: {"image" or "audio" or "video": file, "question": text, "answer": text or texts}.

    Files lie beside the JSONL, or have whole paths. kind: what each line has. question: where a line has none.
    """
    items = []
    for number, line in enumerate(json_lines(path, (kind, "answer"))[:count], 1):
        file = path.parent / str(line[kind])
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ValueError(
                f"{path}, line {number}: {file} cannot be read: {error.strerror}"
                f"\n  remedy: name files beside {path.name}, or by whole paths"
            ) from error
        answers = line["answer"] if isinstance(line["answer"], list) else [line["answer"]]
        form = file.suffix.lower().removeprefix(".") or _MEDIA[kind]
        shown = ((kind, data, {"jpg": "jpeg"}.get(form, form)),)
        items.append(
            Item(f"{number} {file.name}", str(line.get("question", question)), tuple(map(str, answers)), media=shown)
        )
    return Set(title, rule, tuple(items), 256)
