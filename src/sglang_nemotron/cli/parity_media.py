"""The half of `sglang-nemotron parity` that concerns Omni: which modes there are, what they need, and their comparison.

Media libraries are imported when a mode of these runs, and torch with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli.console import counted, show, table
from sglang_nemotron.cli.demo_media import clip, photo, speech
from sglang_nemotron.media import libraries

if TYPE_CHECKING:
    from sglang_nemotron.config.omni import OmniSpec
    from sglang_nemotron.parity.client import Client
    from sglang_nemotron.parity.compare import Difference
    from sglang_nemotron.parity.conversations import Conversation
    from sglang_nemotron.parity.golden_omni import OmniGolden
    from sglang_nemotron.parity.modes_omni import Said
    from sglang_nemotron.parity.report import Part

# of one conversation at a time, the first four of one kind of medium; then all of these once more, in another way
MEDIA_MODES = ("image", "images", "video", "audio", "video-sound", "mixed", "media-again", "media-together")
# what is heard in these needs a sound tower
_WITH_SOUND = ("audio", "video-sound", "mixed")
# of float32, as TOLERANCE of text: prompts with media are a thousand tokens and more, and come through a tower first
TOLERANCE = 5e-5

HELP = """\
  For an Omni checkpoint, also conversations about media that this package brings or makes of those: a photo and three
  of other sizes and formats, a clip with sound and films of two shapes, speech in three lengths and formats. They go to
  the server as files; transformers' own image and video processors and feature extractor read the same files.
    image           one image: JPEG, upright PNG, small WebP, a large one
    images          four at once; one of them twice
    video           2 and 3 frames a second, two at once; all tokens, and pruned (EVS) at several rates
    audio           a sentence; three sounds, one longer than a clip of 30 s
    video-sound     a clip and its own sound; with another sound behind it
    mixed           all kinds in one message; spread over three turns
    media-again     each of all these a second time, and with a second turn: media and prefix come from the caches
    media-together  all of them, ten at a time
  Compared are the logprobs of what stands behind the last medium, and of the answer; that the prompt is as long as
  transformers', and ends in the same tokens. They need the libraries of sglang-nemotron[omni].
"""


def is_omni(config: Mapping[str, Any]) -> bool:
    """Whether this config.json is of an Omni checkpoint of ours."""
    from sglang_nemotron.config.omni import is_nano_omni

    return is_nano_omni(config) is None


def omni_spec_of(config: Mapping[str, Any]) -> OmniSpec | None:
    """What an Omni config says; None for a text model's. ValueError for maths that are not implemented."""
    return _spec(config) if is_omni(config) else None


def modes_of(config: Mapping[str, Any]) -> list[str]:
    """What an Omni checkpoint can be asked: without a sound tower, nothing that is heard."""
    deaf = _spec(config).sound is None
    return [mode for mode in MEDIA_MODES if not (deaf and mode in _WITH_SOUND)]


def check(modes: Sequence[str], config: Mapping[str, Any], without: Sequence[str]) -> None:
    """ValueError of two lines if these modes cannot be had. without: modes that need none of it, for the remedy."""
    if not modes:
        return
    if missing := libraries.missing():
        raise ValueError(
            f"modes with media need {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
            f"\n  remedy: {libraries.INSTALL}, or compare text alone: --modes {','.join(without)}"
        )
    if unheard := [mode for mode in modes if mode not in modes_of(config)]:
        raise ValueError(
            f"the checkpoint has no sound tower, which --modes {','.join(unheard)} would need"
            f"\n  remedy: choose from {', '.join([*without, *modes_of(config)])}"
        )


def load(folder: Path, kind: str) -> OmniGolden:
    """transformers' Omni model in a dtype, or "exact"; ValueError of two lines if this transformers has none."""
    import torch

    try:
        import transformers.models.nemotron_h_omni.modeling_nemotron_h_omni  # noqa: F401
    except ImportError as error:
        import transformers

        raise ValueError(
            f"transformers {transformers.__version__} cannot be the reference for Omni: {error}"
            "\n  remedy: pip install 'transformers>=5.19'"
        ) from error
    from sglang_nemotron.parity.exact import ExactOmniReference
    from sglang_nemotron.parity.golden_omni import OmniGolden
    from sglang_nemotron.parity.reference_omni import OmniReference

    return OmniGolden(ExactOmniReference(folder) if kind == "exact" else OmniReference(folder, getattr(torch, kind)))


def compare(
    modes: Sequence[str],
    folder: Path,
    client: Client,
    load: Callable[[str], Any],
    dtype: str,
    bound: float,
    *,
    repeats: int,
    say: Callable[[str], None],
) -> Part:
    """The server's answers in these modes beside transformers; prints a table of each.

    load: gives the reference of a dtype. repeats: questions about each set of media. bound: as of `Part`.
    """
    from sglang_nemotron.parity import compare_omni, report

    golden = load("float32")
    differences: list[Difference] = []
    answers: list[Said] = []
    for mode, said in _answers(modes, folder, client, golden, repeats=repeats, say=say):
        say(f"transformers reads the {len(said)} conversations of mode {mode}")
        group = compare_omni.compare_all(mode, said, golden)
        if dtype == "float32":
            group = compare_omni.beside_the_truth(group, said, bound, lambda: load("exact"))
        print(report.headline(mode, group))
        show(table(None, report.MEDIA_COLUMNS, report.media_rows(group)))
        for note in report.notes(group):
            print(f"  {note}")
        if mode == "media-again" and not any(difference.answer.cached for difference in group):
            print("  nothing of it came from a cache, by the server's own count")
        print(flush=True)
        differences += group
        answers += said
    if dtype == "float32":
        return report.Part("media", dtype, differences, bound)
    own = compare_omni.noise(differences, answers, golden, load(dtype))
    return report.Part("media", dtype, differences, bound, own)


def _answers(
    modes: Sequence[str],
    folder: Path,
    client: Client,
    golden: OmniGolden,
    *,
    repeats: int,
    say: Callable[[str], None],
) -> Iterator[tuple[str, list[Said]]]:
    """(mode, what the server said) for every mode, each conversation with `repeats` questions."""
    from sglang_nemotron.parity import modes_omni
    from sglang_nemotron.parity.modes import Tick

    asked = _conversations(modes, folder, client, golden, repeats)
    everything = list(dict.fromkeys(one for group in asked.values() for one in group))
    say(f"{len(everything)} conversations about media, {client.new_tokens} new tokens each")
    calls: dict[str, Callable[[Client, OmniGolden, Sequence[Conversation], Tick], list[Said]]] = {
        "media-again": modes_omni.again,
        "media-together": modes_omni.together,
    }
    for mode in modes:
        with counted(mode, len(asked[mode]) * modes_omni.ANSWERS.get(mode, 1)) as tick:
            said = calls.get(mode, modes_omni.one_by_one)(client, golden, asked[mode], tick)
        yield mode, said


def _conversations(
    modes: Sequence[str], folder: Path, client: Client, golden: OmniGolden, repeats: int
) -> dict[str, list[Conversation]]:
    """Those of each mode; ValueError of two lines if one does not fit the context that is served."""
    from sglang_nemotron.parity import conversations

    config = json.loads((folder / "config.json").read_text())
    context = client.context()
    spec = _spec(config)
    files = conversations.Files(photo(), speech(), clip())
    shelf = conversations.Shelf(files, spec, context)
    kinds = [mode for mode in modes_of(config) if mode in conversations.KINDS]
    by_kind = {
        kind: [
            one
            for question in conversations.QUESTIONS[:repeats]
            for one in conversations.conversations(shelf, spec, kind, question)
        ]
        for kind in kinds
        if kind in modes or not set(modes) <= set(conversations.KINDS)
    }
    everything = [one for group in by_kind.values() for one in group]
    found = {mode: by_kind.get(mode, everything) for mode in modes}
    sent = [one.followed() if mode == "media-again" else one for mode, group in found.items() for one in group]
    longest = max(golden.prompt(one).num_tokens for one in sent)
    if longest + client.new_tokens > context:
        raise ValueError(
            f"{client.url} serves a context of {context} tokens, and modes {','.join(modes)} need "
            f"{longest + client.new_tokens}\n  remedy: serve it with a larger --context-length, or give fewer --modes"
        )
    return found


def _spec(config: Mapping[str, Any]) -> OmniSpec:
    from sglang_nemotron.config.omni import omni_spec

    return omni_spec(config)
