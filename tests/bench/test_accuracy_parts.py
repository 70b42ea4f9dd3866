"""Prompts as SGLang's scripts make them, answers without thoughts, scores by hand, sets of our own and of others."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.bench import accuracy, asking, lm_eval, questions, scoring, sets
from sglang_nemotron.bench.accuracy import Result, Told
from sglang_nemotron.bench.asking import Way
from sglang_nemotron.bench.questions import Item, Set
from sglang_nemotron.bench.scoring import Reply

LINES = [{"question": f"Q{number}?", "answer": f"It is so.\n#### {number}"} for number in range(4)]
SUBJECT = ([["E0?", "a", "b", "c", "d", "B"]] * 3, [["T0?", "w", "x", "y", "z", "D"]])


# ---- prompts


def test_gsm8k_is_asked_as_the_script_asks():
    """Written out by hand after benchmark/gsm8k/bench_sglang.py."""
    asked = questions.gsm8k(LINES, title="t", shots=2, count=3)
    shots = "Question: Q0?\nAnswer: It is so.\n#### 0\n\nQuestion: Q1?\nAnswer: It is so.\n#### 1\n\n"
    assert [item.prompt for item in asked.items] == [f"{shots}Question: Q{number}?\nAnswer:" for number in range(3)]
    assert [item.answers for item in asked.items] == [("0",), ("1",), ("2",)]
    # the script asks its own examples, too
    assert [item.shown for item in asked.items] == [True, True, False]
    assert (asked.max_tokens, asked.stops) == (512, ("Question", "Assistant:", "<|separator|>"))


def test_mmlu_is_asked_as_the_script_asks():
    """Written out by hand after benchmark/mmlu/bench_sglang.py."""
    asked = questions.mmlu({"plain_facts": SUBJECT}, title="t", shots=2, count=None, length=len)
    example = "E0?\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n"
    head = "The following are multiple choice questions (with answers) about plain facts.\n\n"
    (item,) = asked.items
    assert item.prompt == f"{head}{example}{example}T0?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert (item.answers, item.group, asked.max_tokens, asked.notes) == (("D",), "plain_facts", 1, ())


def test_examples_that_do_not_fit_are_left_out():
    asked = questions.mmlu({"s": SUBJECT}, title="t", shots=3, count=None, length=lambda text: 700 * text.count("E0?"))
    assert asked.items[0].prompt.count("E0?") == 2 and asked.notes == ("fewer examples than 3 for: s 2",)
    none = questions.mmlu({"s": SUBJECT}, title="t", shots=3, count=None, length=lambda text: 9999)
    assert none.items[0].prompt.count("E0?") == 0


def test_sglangs_own_script_builds_the_same():
    """The one that SGLang ships as a module; it needs no server for its prompts."""
    theirs = pytest.importorskip("sglang.test.few_shot_gsm8k")
    ours = questions.gsm8k(LINES, title="t", shots=3, count=None)
    shots = theirs.get_few_shot_examples(LINES, 3)
    assert [item.prompt for item in ours.items] == [shots + theirs.get_one_example(LINES, at, False) for at in range(4)]
    for text in ("", "no", "it is 7.", "1,234.56", "-3", "007", "0", "00", "4 of 5 is 80%", "3,4", "#### 12,000"):
        value = theirs.get_answer_value(text)
        assert scoring.last_number(text) == (None if value == theirs.INVALID else value), text


# ---- data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("{", "line 1: no JSON"),
        ('{"question": "x", "answer": "1"}\n{"question": "y"}', "line 2 has no 'answer'"),
        ("[1]", "has no 'question' and no 'answer'"),
    ],
)
def test_lines_that_are_none(text: str, said: str, tmp_path: Path):
    (tmp_path / "x").write_text(text)
    with pytest.raises(ValueError, match=said):
        questions.json_lines(tmp_path / "x", ("question", "answer"))


def test_a_separator_within_a_text_is_no_end_of_a_line(tmp_path: Path):
    line = {"question": "one\u2028two", "answer": "1"}
    (tmp_path / "x").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert questions.json_lines(tmp_path / "x", ("question",)) == [line]


def test_too_few_and_without_a_number():
    with pytest.raises(ValueError, match="has 4 questions, 4 of them examples"):
        questions.gsm8k(LINES, title="x", shots=4, count=None)
    with pytest.raises(ValueError, match="line 1 has no number"):
        questions.gsm8k([{"question": "x", "answer": "none"}, *LINES], title="x", shots=1, count=None)


def write_mmlu(folder: Path, rows: str = "Q?,a,b,c,d,A\n") -> Path:
    for name in ("dev", "test"):
        (folder / name).mkdir()
        (folder / name / f"two_words_{name}.csv").write_text(rows)
    return folder


def test_mmlus_folder(tmp_path: Path):
    found = questions.mmlu_folder(write_mmlu(tmp_path, '"a\nlong, one","0.50",None,NA,4,C\n'))
    # as the file has it: the script's pandas would read 0.5 and nan
    assert found == {"two_words": ([["a\nlong, one", "0.50", "None", "NA", "4", "C"]],) * 2}


def test_folders_that_are_none(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no test/SUBJECT_test.csv"):
        questions.mmlu_folder(tmp_path)
    with pytest.raises(ValueError, match="row 1 is not a question"):
        questions.mmlu_folder(write_mmlu(tmp_path, "Q?,a,b,c,d,E\n"))
    (tmp_path / "dev" / "two_words_dev.csv").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        questions.mmlu_folder(tmp_path)


def test_media_of_ones_own(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"picture")
    lines = [{"image": "a.jpg", "question": "Q?", "answer": ["x", "y"]}, {"image": "a.jpg", "answer": 7}]
    file = tmp_path / "set.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    asked = questions.with_media(file, kind="image", title="t", rule="match", question="What?", count=None)
    assert [item.prompt for item in asked.items] == ["Q?", "What?"]
    assert [item.answers for item in asked.items] == [("x", "y"), ("7",)]
    assert asked.items[0].media == (("image", b"picture", "jpeg"),) and asked.items[0].name != asked.items[1].name
    file.write_text('{"image": "b.jpg", "answer": "x"}')
    with pytest.raises(ValueError, match=r"line 1: .*b.jpg cannot be read"):
        questions.with_media(file, kind="image", title="t", rule="match", question="", count=None)
    with pytest.raises(ValueError, match="has no 'audio'"):
        questions.with_media(file, kind="audio", title="t", rule="match", question="", count=None)


# ---- scores


@pytest.mark.parametrize(
    ("reply", "thinking", "found"),
    [
        (Reply("it is 7"), None, "it is 7"),
        (Reply("5 or 6?</think>it is 7"), None, "it is 7"),
        (Reply("<think>5</think>\n7<think>8</think>9"), None, "9"),
        # thoughts that never ended: by their mark, or by what was cut
        (Reply("<think>so 7"), False, None),
        (Reply("so 7", finish="length"), None, None),
        (Reply("so 7", finish="length"), True, None),
        # cut, but no thoughts: those were apart, or switched off
        (Reply("so 7", "I thought", "length"), True, "so 7"),
        (Reply("so 7", finish="length"), False, "so 7"),
        (Reply("", "7, I think", "length"), True, ""),
    ],
)
def test_thoughts_are_never_read(reply: Reply, thinking: bool | None, found: str | None):
    assert scoring.answer(reply, chat=True, thinking=thinking) == found
    scored = scoring.score("number", reply, ("7",), chat=True, thinking=thinking)
    assert scored.right == float(bool(found) and found.endswith("7"))


def test_a_raw_prompt_that_was_cut_is_an_answer():
    """The script's 512 tokens end many replies, whose last number counts."""
    assert scoring.answer(Reply("7, then", finish="length"), chat=False, thinking=None) == "7, then"


@pytest.mark.parametrize(
    ("text", "found"),
    [("B", "B"), (" C.", "C"), ("b", "b"), ("", None), ("The answer", "T")],
)
def test_one_token(text: str, found: str | None):
    assert scoring.first_letter(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", "B"),
        ("**C**", "C"),
        ("The answer is D.", "D"),
        ("Answer: A\nNo, the answer is B", "B"),
        ("A good guess is that it must be C", "C"),
        ("B) Lyon, as C was wrong", "B"),
        ("Of these B and C fit, so C", "C"),
        ("I'd say none", None),
        ("", None),
    ],
)
def test_a_letter_of_a_chat(text: str, found: str | None):
    assert scoring.letter_of_chat(text) == found


@pytest.mark.parametrize(
    ("said", "right", "same"),
    [
        ("Red.", "red", True),
        ("The red", "red", True),
        ("four", "4", True),
        ("Café au lait", "cafe au lait", True),
        ("blue", "red", False),
        ("", "red", False),
        ("42", "4", False),
    ],
)
def test_matches(said: str, right: str, same: bool):
    assert scoring.score("match", Reply(said, finish="stop"), (right,), chat=True, thinking=None).right == same


@pytest.mark.parametrize(
    ("reference", "said", "errors"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a c", 1),
        ("a b c", "a x b c", 1),
        ("a b c", "a x c", 1),
        ("a b c", "", 3),
        ("a b", "x y z", 3),
        ("a b c d", "b c d a", 2),
    ],
)
def test_word_errors(reference: str, said: str, errors: int):
    assert scoring.word_errors(reference.split(), said.split()) == errors


def test_transcripts():
    spoken = "The ferry leaves at seven, and the bridge is closed."
    heard = Reply("the ferry leaves at 7 and the bridge was closed", finish="stop")
    scored = scoring.score("transcript", heard, (spoken,), chat=True, thinking=None)
    assert (scored.errors, scored.words, scored.right) == (1, 10, 0.9)
    # nothing said is every word wrong; so is a failed request
    for reply in (Reply("", finish="stop"), Reply(error="gone"), Reply("<think>x")):
        scored = scoring.score("transcript", reply, (spoken,), chat=True, thinking=None)
        assert (scored.errors, scored.right) == (10, 0.0)


# ---- sums


def told(rule: str, *replies: tuple[str, str], shown: int = 0, groups: str = "") -> Result:
    """replies: (said, right answer); what is said beginning with `!` failed."""
    found = []
    for number, (said, right) in enumerate(replies):
        reply = Reply(error=said) if said.startswith("!") else Reply(said, finish="stop", output_tokens=5)
        item = Item(str(number), "p", (right,), groups[number : number + 1], number < shown)
        found.append(Told(item, reply, scoring.score(rule, reply, (right,), chat=False, thinking=None)))
    asked = Set("t", rule, tuple(one.item for one in found), 9)
    return Result(asked, tuple(found), 2.0)


def test_failed_and_invalid_count_as_wrong_and_are_told():
    result = told("number", ("7", "7"), ("8", "7"), ("none", "7"), ("!gone", "7"))
    assert result.accuracy == 0.25 and len(result.failed) == len(result.invalid) == 1
    assert result.error == pytest.approx(math.sqrt(0.25 * 0.75 / 4))
    said = "\n".join(accuracy.lines(result))
    assert "Accuracy: 0.250 (standard error 0.217, 4 questions)" in said and "Invalid: 0.250" in said
    assert "FAILED: 1 of 4, counted as wrong; first: !gone" in said
    assert "Output throughput: 7.500 token/s" in said
    raw = accuracy.raw(result)
    assert raw["failed"] == 1 and [one["right"] for one in raw["questions"]] == [1, 0, 0, 0]
    assert json.loads(json.dumps(raw)) == raw


def test_questions_that_the_prompt_answers():
    assert told("number", ("7", "7"), ("7", "7"), ("8", "7"), shown=2).unseen == 0.0
    assert told("number", ("7", "7")).unseen is None


def test_groups_and_words():
    assert told("letter", ("A", "A"), ("B", "A"), ("C", "C"), groups="xxy").by_group == {"x": (2, 0.5), "y": (1, 1.0)}
    # words together, not recordings: 1 of 4 wrong
    words = told("transcript", ("x", "a"), ("b c d", "b c d"))
    assert (
        words.accuracy == 0.75 and words.error is None and "word error rate 0.250, 4 words" in accuracy.lines(words)[0]
    )


# ---- how it is asked


def test_raw_and_chat():
    asked = questions.gsm8k(LINES, title="t", shots=1, count=1)
    (item,) = asked.items
    path, body = asking.body(item, asked, Way())
    assert (path, body["prompt"], body["max_tokens"]) == ("/v1/completions", item.prompt, 512)
    assert body["stop"] == list(asked.stops) and body["temperature"] == 0
    path, body = asking.body(item, asked, Way(chat=True, thinking=False, budget=9, max_tokens=77))
    assert path == "/v1/chat/completions" and item.prompt in body["messages"][0]["content"]
    # a stop like "Question" would cut thoughts
    assert "stop" not in body and body["max_tokens"] == 77
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and body["thinking_budget"] == 9
    assert asking.body(item, asked, Way(chat=True))[1].keys() == {"messages", "max_tokens", "temperature"}


def test_media_stand_before_the_question():
    item = Item("x", "What?", ("y",), media=(("image", b"p", "png"),))
    _, body = asking.body(item, Set("t", "match", (item,), 9), Way(chat=True))
    image, text = body["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/png;base64,cA==" and text == {"type": "text", "text": "What?"}


# ---- our own sets


def test_the_sums_are_right():
    """Each is worked out as its answer says, by Python."""
    lines = sets.sums()
    assert len(lines) == 12
    for line in lines:
        steps = re.findall(r"([\d+*/-]+)=([\d,]+)", line["answer"])
        assert steps, line
        for sum_, value in steps:
            assert eval(sum_) == int(value.replace(",", "")), line
        assert int(steps[-1][1].replace(",", "")) == scoring.last_number(line["answer"])


def test_the_choices_are_of_mmlus_form(tmp_path: Path):
    subjects = sets.choices()
    assert [(len(shown), len(asked)) for shown, asked in subjects.values()] == [(5, 6), (5, 6)]
    rows = [row for both in subjects.values() for part in both for row in part]
    assert all(len(row) == 6 and row[5] in questions.LETTERS and len(set(row[1:5])) == 4 for row in rows)
    assert {row[5] for row in rows} == set(questions.LETTERS)


def test_pictures_show_what_they_are_asked_about():
    from PIL import Image

    made = sets.pictures()
    assert len(made.items) == 12 and made == sets.pictures()
    for item in made.items:
        ((kind, data, form),) = item.media
        image = Image.open(io.BytesIO(data))
        assert (kind, form, image.format) == ("image", "png", "PNG")
        colours = [colour for _, colour in sorted(image.getcolors(2**20), reverse=True)]
        # white first, then what is drawn; letters are black with soft edges
        wanted = next((rgb for name, rgb in sets._COLOURS.items() if f" {name} " in item.name), (0, 0, 0))
        assert colours[:2] == [(255, 255, 255), wanted]
    areas = {}
    for item in made.items[:8:2]:
        image = Image.open(io.BytesIO(item.media[0][1]))
        areas[item.name] = sum(count for count, colour in image.getcolors(2**20) if colour != (255, 255, 255))
    one, two, three, four = areas.values()
    # four circles are four times one; squares are 4/pi of circles, triangles half of squares
    assert four == 4 * one and two / (2 * one) == pytest.approx(4 / math.pi, rel=0.05)
    assert three / 3 / (two / 2) == pytest.approx(0.5, rel=0.05)


def test_recordings_say_the_sentence(monkeypatch: pytest.MonkeyPatch):
    from sglang_nemotron.cli.demo_media import speech
    from sglang_nemotron.parity.media_files import samples

    monkeypatch.setattr(sets.shutil, "which", lambda name: None)
    made = sets.recordings(speech())
    lengths = [len(samples(item.media[0][1])) for item in made.items]
    assert (
        len(lengths) == 3
        and max(lengths) - min(lengths) <= 1
        and {item.answers for item in made.items} == {(sets.SPOKEN,)}
    )
    monkeypatch.setattr(sets.shutil, "which", lambda name: "/usr/bin/espeak-ng")
    monkeypatch.setattr(sets, "_spoken", lambda program, text: f"{program} {text}".encode())
    more = sets.recordings(speech())
    assert [item.answers[0] for item in more.items[3:]] == list(sets._SPOKEN_NUMBERS)


# ---- lm-eval


def task_of(asked: Set, folder: Path) -> dict:
    lm_eval.write_task(asked, folder)
    return json.loads((folder / f"{lm_eval.TASK}.yaml").read_text())


@pytest.mark.parametrize(
    ("rule", "ours"), [("number", scoring.last_number), ("letter", scoring.first_letter)], ids=("number", "letter")
)
def test_its_filter_finds_what_we_find(rule: str, ours: Callable[[str], object], tmp_path: Path):
    asked = Set("t", rule, (Item("0", "p", ("7",)),), 5, ("stop",))
    (regex, first) = task_of(asked, tmp_path)["filter_list"][0]["filter"]
    assert first == {"function": "take_first"}
    for text in ("it is 7.", " B", "1,234 or 5,678", "C. red", "\nD", "none here", "12,", "3, 4"):
        found = re.findall(regex["regex_pattern"], text)
        theirs = found[regex["group_select"]].replace(",", "") if found else None
        mine = ours(text)
        assert theirs == (None if mine is None else str(mine)), text


def test_its_task_has_our_prompts(tmp_path: Path):
    asked = questions.gsm8k(LINES, title="t", shots=1, count=2)
    task = task_of(asked, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert lines == [{"prompt": item.prompt, "target": item.answers[0]} for item in asked.items]
    assert task["generation_kwargs"]["until"] == list(asked.stops) and task["num_fewshot"] == 0
    with pytest.raises(ValueError, match="is neither"):
        lm_eval.write_task(replace(asked, rule="match"), tmp_path)


def test_what_it_wrote_is_read(tmp_path: Path):
    with pytest.raises(Exception, match="wrote no result"):
        lm_eval.accuracy(tmp_path)
    (tmp_path / "out" / "m").mkdir(parents=True)
    result = {"results": {lm_eval.TASK: {"alias": "x", "exact_match,answer": 0.5, "exact_match_stderr,answer": 0.1}}}
    (tmp_path / "out" / "m" / "results_1.json").write_text(json.dumps(result))
    assert lm_eval.accuracy(tmp_path) == 0.5
