"""The table of layer kinds is whole, agrees with what checkpoints write, and nothing else tells letters apart."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.tensors import inventory
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.config.layers import LAYER_KINDS, LETTERS
from sglang_nemotron.decoder.kinds import KINDS, all_tensors, kind_of

# all kinds, one of them twice
MADE = replace(PRESETS["small"], hybrid_override_pattern="ME*-M")
PACKAGE = Path(__file__).parents[2] / "src" / "sglang_nemotron"


def test_every_kind_has_one_row() -> None:
    assert sorted(kind.spec.letter for kind in KINDS) == sorted(LETTERS)
    assert {kind.spec for kind in KINDS} == set(LAYER_KINDS)
    words = [word for kind in LAYER_KINDS for word in kind.words]
    assert len(set(words)) == len(words) and all(kind.words for kind in LAYER_KINDS)
    assert len(set(LETTERS)) == len(LETTERS) and all(len(kind.letter) == 1 for kind in LAYER_KINDS)


def test_layers_have_the_row_of_their_record() -> None:
    spec = decoder_spec(config_json(MADE))
    assert set(spec.pattern) == set(LETTERS)
    assert [kind_of(spec, i).spec.letter for i in range(spec.num_layers)] == list(spec.pattern)


def test_tensors_are_those_that_the_checkpoint_writer_lists() -> None:
    """Two lists made apart: `checkpoint/` writes a file's names by its own."""
    theirs = {tensor.name: tuple(tensor.shape) for tensor in inventory(MADE)}
    spec = decoder_spec(config_json(MADE))
    assert {name: target.shape for name, target in all_tensors(spec, 1).items()} == theirs


def told_apart(source: str) -> list[int]:
    """Lines that compare with a letter of a pattern, or look things up by two or more of them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict) and sum(_is_letter(key) for key in node.keys) > 1:
            parts = list(node.keys)
        if any(_is_letter(part) for part in parts):
            found.append(node.lineno if isinstance(node, ast.expr) else node.value.lineno)
    return found


def _is_letter(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_is_letter(part) for part in node.elts)
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in set(LETTERS)


def test_nothing_else_tells_letters_apart() -> None:
    # what is no pattern: the sign of a number in a model's reply
    others = {"reply/values.py"}
    files = [file for file in PACKAGE.rglob("*.py") if "checkpoint" not in file.parts]
    assert len(files) > 100
    found = {str(file.relative_to(PACKAGE)) for file in files if told_apart(file.read_text())}
    assert found == others


def test_letters_told_apart_are_seen() -> None:
    assert told_apart('if letter == "M":\n    pass') == [1]
    assert told_apart('kept = [i for i in x if i in ("M", "*")]') == [1]
    assert told_apart('table = {"M": 1, "E": 2}[letter]') == [1]
    assert told_apart('match letter:\n    case "-":\n        pass') == [2]
    assert told_apart('sizes = {"E": experts, "D": hidden}\nsign = "-" + digits') == []
