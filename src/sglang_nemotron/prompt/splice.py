"""Token ids with one slot id per media item, and what each item becomes, come in; the prompt's ids and where every
item's run lies go out. The one truth about positions: they are the slots', whatever the text around them says.

Nothing here may know text, files, features or SGLang. Ends are exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sglang_nemotron.prompt.errors import MediaError

Modality = Literal["image", "video", "sound", "video sound"]
MODALITIES: tuple[Modality, ...] = ("image", "video", "sound")

# stands for one video until it is spliced: `<video>` is no token. Outside every vocabulary, so that it can be neither
# sampled nor sent by a client as a token of the model, and within what tokenizers take when they decode (32 bits)
VIDEO_SLOT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Piece:
    """What one slot becomes. ids[start:end] is the run that embeddings replace; the rest of the ids is text."""

    ids: tuple[int, ...]
    start: int
    end: int

    def __post_init__(self) -> None:
        assert 0 <= self.start < self.end <= len(self.ids), (self.start, self.end, len(self.ids))


@dataclass(frozen=True, slots=True)
class Run:
    """ids[start:end] of the prompt is `item` (from 0) of its modality; a "video sound" is the track of that video."""

    modality: Modality
    item: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Spliced:
    """The whole prompt. runs: in order of position, without overlap."""

    ids: list[int]
    runs: tuple[Run, ...]


def between(num_tokens: int, token_id: int, start_id: int, end_id: int) -> Piece:
    """An image or a sound: its tokens between a start and an end tag, which stay text."""
    assert num_tokens > 0, num_tokens
    return Piece((start_id, *(token_id,) * num_tokens, end_id), 1, num_tokens + 1)


def separators(headings: Sequence[Sequence[int]], start_id: int, end_id: int) -> list[list[int]]:
    """The ids around the tubelets of a video, one list more than there are tubelets.

    headings: ids of the text before each tubelet, from the second on with the newline that joins it to the one before.
    """
    assert headings
    first, *others = headings
    return [[*first, start_id], *([end_id, *heading, start_id] for heading in others), [end_id]]


def video_run(parts: Sequence[Sequence[int]], tokens_per_tubelet: int, num_kept: int, token_id: int) -> Piece:
    """A video: one run from its first heading to its last end tag. parts: as `separators` gives them.

    Only the length counts for the model, which fills the whole run once it knows which tokens are retained; the ids
    show the first tubelet whole, as retention keeps it, and the rest spread evenly over the others.
    """
    num_tubelets = len(parts) - 1
    assert tokens_per_tubelet <= num_kept <= tokens_per_tubelet * num_tubelets, (tokens_per_tubelet, num_kept)
    others = max(1, num_tubelets - 1)
    share, extra = divmod(num_kept - tokens_per_tubelet, others)
    ids = list(parts[0])
    for tubelet, part in enumerate(parts[1:]):
        kept = tokens_per_tubelet if tubelet == 0 else share + (tubelet <= extra)
        ids += [token_id] * kept
        ids += part
    return Piece(tuple(ids), 0, len(ids))


def check_counts(ids: Sequence[int], slots: Mapping[int, Modality], given: Mapping[Modality, int]) -> None:
    """MediaError naming both counts, unless the prompt has one slot for each item given. slots: id -> modality."""
    places = dict.fromkeys(MODALITIES, 0)
    for token_id, modality in slots.items():
        places[modality] += ids.count(token_id)
    for modality in MODALITIES:
        wanted, come = places[modality], given.get(modality, 0)
        if wanted != come:
            raise MediaError(
                f"{modality}s",
                f"the prompt has {wanted} places for them, but {come} came with the request",
                "each takes one place, in order",
            )


def num_text(ids: Sequence[int], slots: Mapping[int, Modality]) -> int:
    """Ids of a prompt that are no slots."""
    return len(ids) - sum(ids.count(token_id) for token_id in slots)


def splice(
    ids: Sequence[int],
    slots: Mapping[int, Modality],
    pieces: Mapping[Modality, Sequence[Piece]],
    tracks: Mapping[int, Piece] | None = None,
) -> Spliced:
    """Puts the k-th piece of a modality in the place of its k-th slot. slots: id -> modality.

    tracks: of the videos whose own sound goes with them, right after each. Raises MediaError if the counts differ.
    """
    tracks = tracks or {}
    check_counts(ids, slots, {modality: len(of) for modality, of in pieces.items()})
    out: list[int] = []
    runs: list[Run] = []
    taken = dict.fromkeys(MODALITIES, 0)

    def put(modality: Modality, item: int, piece: Piece) -> None:
        runs.append(Run(modality, item, len(out) + piece.start, len(out) + piece.end))
        out.extend(piece.ids)

    for token_id in ids:
        modality = slots.get(token_id)
        if modality is None:
            out.append(token_id)
            continue
        item = taken[modality]
        taken[modality] += 1
        put(modality, item, pieces[modality][item])
        if modality == "video" and item in tracks:
            put("video sound", item, tracks[item])
    return Spliced(out, tuple(runs))
