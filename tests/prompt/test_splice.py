"""Where media lie in a prompt: every slot takes its own item, in any number and order, and nothing else moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.splice import (
    VIDEO_SLOT,
    Piece,
    between,
    num_text,
    separators,
    splice,
    video_run,
)

IMAGE, SOUND, START, END = 18, 27, 19, 20
SLOTS = {IMAGE: "image", SOUND: "sound", VIDEO_SLOT: "video"}
OF = {"image": IMAGE, "sound": SOUND, "video": VIDEO_SLOT}


def _piece(modality: str, item: int, length: int) -> Piece:
    """Ids that say which item they belong to, with one id before and after the run."""
    mark = {"image": 1000, "video": 2000, "sound": 3000, "video sound": 4000}[modality] + item
    return Piece((START, *(mark,) * length, END), 1, length + 1)


prompts = st.lists(st.sampled_from([*OF.values(), 5, 6, START, END, 131071]), max_size=40)


@settings(max_examples=300, deadline=None)
@given(prompts, st.data())
def test_every_slot_takes_its_own_item(ids, data):
    counts = {modality: ids.count(slot) for modality, slot in OF.items()}
    lengths = {m: [data.draw(st.integers(1, 5)) for _ in range(n)] for m, n in counts.items()}
    pieces = {m: [_piece(m, k, n) for k, n in enumerate(of)] for m, of in lengths.items()}
    with_track = {k for k in range(counts["video"]) if data.draw(st.booleans())}
    tracks = {k: _piece("video sound", k, 2) for k in with_track}
    spliced = splice(ids, SLOTS, pieces, tracks)

    expected, seen = [], dict.fromkeys(OF, 0)
    for token in ids:
        modality = SLOTS.get(token)
        if modality is None:
            expected.append(token)
            continue
        item = seen[modality]
        seen[modality] += 1
        expected += pieces[modality][item].ids
        if modality == "video" and item in tracks:
            expected += tracks[item].ids
    assert spliced.ids == expected

    # the text between is what it was, in its order
    inside = [range(run.start - 1, run.end + 1) for run in spliced.runs]
    outside = [token for place, token in enumerate(spliced.ids) if not any(place in run for run in inside)]
    assert outside == [token for token in ids if token not in SLOTS]
    assert len(outside) == num_text(ids, SLOTS)
    for run in spliced.runs:
        piece = tracks[run.item] if run.modality == "video sound" else pieces[run.modality][run.item]
        assert tuple(spliced.ids[run.start : run.end]) == piece.ids[piece.start : piece.end]
    assert [run.start for run in spliced.runs] == sorted(run.start for run in spliced.runs)
    assert all(a.end <= b.start for a, b in zip(spliced.runs, spliced.runs[1:], strict=False))
    for modality, number in counts.items():
        assert [run.item for run in spliced.runs if run.modality == modality] == list(range(number))


@settings(max_examples=100, deadline=None)
@given(prompts, st.sampled_from(sorted(OF)), st.integers(0, 4))
def test_a_count_mismatch_names_both_counts(ids, modality, come):
    counts = {m: ids.count(slot) for m, slot in OF.items()}
    pieces = {m: [_piece(m, k, 1) for k in range(n)] for m, n in counts.items()}
    pieces[modality] = [_piece(modality, k, 1) for k in range(come)]
    if come == counts[modality]:
        splice(ids, SLOTS, pieces)
        return
    with pytest.raises(MediaError, match=f"{modality}s: the prompt has {counts[modality]} places .* but {come} came"):
        splice(ids, SLOTS, pieces)


def test_an_image_lies_between_its_tags():
    piece = between(3, IMAGE, START, END)
    assert piece.ids == (START, IMAGE, IMAGE, IMAGE, END)
    assert piece.ids[piece.start : piece.end] == (IMAGE,) * 3


def test_the_track_follows_its_own_video():
    ids = [VIDEO_SLOT, 5, VIDEO_SLOT]
    videos = [_piece("video", 0, 1), _piece("video", 1, 1)]
    spliced = splice(ids, SLOTS, {"video": videos}, {1: _piece("video sound", 1, 1)})
    assert spliced.ids == [START, 2000, END, 5, START, 2001, END, START, 4001, END]
    assert [(run.modality, run.item) for run in spliced.runs] == [("video", 0), ("video", 1), ("video sound", 1)]


def test_separators_hold_all_the_text_of_a_video():
    parts = separators([[7, 8], [9, 7], [9, 8]], START, END)
    assert parts == [[7, 8, START], [END, 9, 7, START], [END, 9, 8, START], [END]]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.data())
def test_a_video_is_one_run_as_long_as_what_is_kept(num_tubelets, tokens, data):
    num_kept = data.draw(st.integers(tokens, tokens * num_tubelets))
    parts = separators([[7]] + [[9, 7]] * (num_tubelets - 1), START, END)
    piece = video_run(parts, tokens, num_kept, IMAGE)
    assert (piece.start, piece.end) == (0, len(piece.ids))
    assert piece.ids.count(IMAGE) == num_kept
    assert [token for token in piece.ids if token != IMAGE] == [token for part in parts for token in part]
    # the first tubelet is kept whole, and none shows more than it has
    shown = "".join("x" if token == IMAGE else "." for token in piece.ids).split(".")
    shown = [len(run) for run in shown if run]
    assert shown[0] == tokens and max(shown) <= tokens
    if num_kept == tokens * num_tubelets:
        assert shown == [tokens] * num_tubelets
