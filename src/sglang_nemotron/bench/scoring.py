"""A reply and the right answers come in; what was answered and whether it is right goes out. Thoughts are never read.

Pure text. The rules of numbers and letters are those of SGLang's scripts (benchmark/gsm8k/bench_sglang.py and
benchmark/mmlu/bench_sglang.py); words are compared after normalising, transcripts by word error rate.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_OPEN, _CLOSE = "<think>", "</think>"
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Reply:
    """What a server said. thoughts: what it gave apart from the answer. finish: why it ended, by OpenAI's words.

    error: why there is no reply; the rest then means nothing.
    """

    text: str = ""
    thoughts: str = ""
    finish: str | None = None
    output_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Score:
    """found: what counts as the answer; None where there is none in the reply. right: 1 or 0; for transcripts one minus
    the share of wrong words, which is below 0 where there are more of them than words. errors, words: of transcripts.
    """

    found: str | None
    right: float
    errors: int = 0
    words: int = 0


def answer(reply: Reply, *, chat: bool, thinking: bool | None) -> str | None:
    """The answer in a reply, without thoughts; None if it never came to one.

    Thoughts are apart already, or end with the last `</think>`. A chat that was cut off without either is taken for
    thoughts that never ended, unless thinking was switched off. thinking: what was asked for; None for the default.
    """
    before, mark, after = reply.text.rpartition(_CLOSE)
    if mark:
        return after
    if _OPEN in before + after:
        return None
    if chat and thinking is not False and not reply.thoughts and reply.finish == "length":
        return None
    return reply.text


def last_number(text: str) -> int | None:
    """The last run of digits once commas are gone, as SGLang's script reads it: "-1,200.50" is 50.

    None for none, and for one that Python does not read as a number (a zero before other digits).
    """
    numbers = re.findall(r"\d+", text.replace(",", ""))
    if not numbers or not numbers[-1].isascii():
        return None
    last = numbers[-1]
    return None if last.startswith("0") and last.strip("0") else int(last)


def first_letter(text: str) -> str | None:
    """The first character that is no space, as SGLang's script reads one new token."""
    return text.strip()[:1] or None


def letter_of_chat(text: str) -> str | None:
    """A to D in an answer of words: the last one that "answer" leads to, else one that stands first with a mark
    or nothing behind it, else the last that stands alone.
    """
    if led := re.findall(r"[Aa]nswer\b(?:\s+is)?\W{0,12}([A-D])\b", text):
        return led[-1]
    if first := re.match(r"\W*([A-D])(?:[.):,*\n]|\W*$)", text):
        return first[1]
    alone = re.findall(r"(?<![\w'])([A-D])(?![\w'])", text)
    return alone[-1] if alone else None


def words(text: str) -> list[str]:
    """Small letters, without punctuation and accents, numbers up to twelve in digits."""
    plain = unicodedata.normalize("NFKD", text.lower())
    kept = "".join(char if char.isalnum() else " " for char in plain if not unicodedata.combining(char) and char != "'")
    return [_DIGITS.get(word, word) for word in kept.split()]


def normalised(text: str) -> str:
    """What exact matches compare: words without articles."""
    return " ".join(word for word in words(text) if word not in _ARTICLES)


def word_errors(reference: Sequence[str], said: Sequence[str]) -> int:
    """Least number of words put in, left out or changed between them (Levenshtein)."""
    row = list(range(len(said) + 1))
    for number, wanted in enumerate(reference, 1):
        before, row[0] = row[0], number
        for at, word in enumerate(said, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (wanted != word))
    return row[-1]


def _number(text: str, answers: Sequence[str], chat: bool) -> Score:
    found = last_number(text)
    return _of(None if found is None else str(found), answers)


def _letter(text: str, answers: Sequence[str], chat: bool) -> Score:
    return _of(letter_of_chat(text) if chat else first_letter(text), answers)


def _match(text: str, answers: Sequence[str], chat: bool) -> Score:
    return _of(normalised(text) or None, [normalised(one) for one in answers])


def _transcript(text: str, answers: Sequence[str], chat: bool) -> Score:
    said = words(text)
    errors, wanted = min((word_errors(words(one), said), len(words(one))) for one in answers)
    return Score(" ".join(said) or None, 1 - errors / max(1, wanted), errors, wanted)


def _of(found: str | None, answers: Sequence[str]) -> Score:
    return Score(found, float(found is not None and found in answers))


# rule of a Set -> (answer without thoughts, right answers, whether it is a chat) -> score
RULES: dict[str, Callable[[str, Sequence[str], bool], Score]] = {
    "number": _number,
    "letter": _letter,
    "match": _match,
    "transcript": _transcript,
}


def score(rule: str, reply: Reply, answers: Sequence[str], *, chat: bool, thinking: bool | None) -> Score:
    """Of one reply. A failed one and one without an answer score 0; of a transcript all words are wrong then."""
    text = None if reply.error is not None else answer(reply, chat=chat, thinking=thinking)
    if text is None:
        wanted = min(len(words(one)) for one in answers) if rule == "transcript" else 0
        return Score(None, 0.0, wanted, wanted)
    return RULES[rule](text, answers, chat)
