"""Variable frame rate in every container, against a decoder that reads every stamp; constant rate stays what it was."""

from __future__ import annotations

import io
import math
import random
from fractions import Fraction

import av
import numpy as np
import pytest

from sglang_nemotron.media.video.file import VideoFile, read_clip
from sglang_nemotron.media.video.sampling import headings, sample_indices, timestamps
from sglang_nemotron.media.video.times import sample_ticks, variable_ticks
from sglang_nemotron.prompt.options import EVERY_FRAME_FPS, MediaOptions
from support.video_media import RULE, decode_all, encode
from support.waiting import PATIENT

LIMITS = PATIENT
VP8 = {"codec": "libvpx", "options": {"cpu-used": "8", "deadline": "realtime"}}
OUT_OF_ORDER = {"options": {"preset": "medium", "bf": "3", "g": "12"}}
FRAGMENTS = {**OUT_OF_ORDER, "muxer": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}
CONTAINERS = {
    "mp4": OUT_OF_ORDER,
    "mov": {"container": "mov", **OUT_OF_ORDER},
    "mkv": {"container": "matroska", **OUT_OF_ORDER},
    "webm": {"container": "webm", **VP8},
    "ts": {"container": "mpegts", **OUT_OF_ORDER},
    "fragmented mp4": FRAGMENTS,
    "piped fragmented mp4": {"piped": True, **FRAGMENTS},
    "piped mkv": {"container": "matroska", "piped": True, **OUT_OF_ORDER},
    "piped webm": {"container": "webm", "piped": True, **VP8},
    "piped ts": {"container": "mpegts", "piped": True, **OUT_OF_ORDER},
    "flv": {"container": "flv"},
    "avi": {"container": "avi", "codec": "mpeg4"},
    "gif": {"container": "gif", "codec": "gif", "pix_fmt": "rgb8"},
}


def recorded(generator: random.Random, *, late: bool) -> list[int]:
    """Times in ms as a screen recorder has them: bursts, stills, and a camera that wavers; whole hundredths, as GIF.

    late: the first may be later than 0.
    """
    at, times = generator.choice([0, 700]) if late else 0, []
    for _ in range(generator.randint(2, 5)):
        kind = generator.choice(["burst", "still", "camera"])
        for _ in range(generator.randint(1, 14)):
            times.append(at)
            at += {"burst": 40, "still": generator.choice([500, 2000, 2510]), "camera": generator.randint(3, 7) * 10}[
                kind
            ]
    return [*times, at]


# ---- the plain twin


def every_stamp(data: bytes) -> tuple[list[Fraction], Fraction]:
    """(seconds from the first frame to each, in order of presentation, by decoding all; to the end of the last)."""
    with av.open(io.BytesIO(data)) as file:
        stamps = [frame.pts * frame.time_base for frame in file.decode(video=0)]
    with av.open(io.BytesIO(data)) as file:
        last = max((packet for packet in file.demux(video=0) if packet.size), key=lambda packet: packet.pts)
        end = (last.pts + (last.duration or 0)) * last.time_base
    return [stamp - stamps[0] for stamp in stamps], end - stamps[0]


def plainly_sampled(stamps: list[Fraction], wanted: int) -> list[int]:
    """At most `wanted` frames, all of whose stamps differ: by walking through time at even steps."""
    if wanted >= len(stamps):
        return list(range(len(stamps)))
    if wanted == 1:
        return [0]
    stays = [later - earlier for earlier, later in zip(stamps, stamps[1:], strict=False)]
    steps = []
    for num_long in range(wanted - 1):
        # the longest so many stays take one step each, and the rest takes the other steps
        rest = sorted(stays)[: len(stays) - num_long]
        steps.append(sum(rest) / (wanted - 1 - num_long))
    step = next(step for num_long, step in enumerate(steps) if sorted(stays)[-1 - num_long] <= step)
    chosen, at, clock = [], 0, Fraction(0)
    for number in range(wanted):
        while at < len(stays) and clock + min(stays[at], step) <= number * step:
            clock += min(stays[at], step)
            at += 1
        chosen.append(at)
    return chosen


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("seed", range(3))
def test_frames_and_times_are_those_of_a_decoder_that_reads_every_stamp(kind: str, seed: int) -> None:
    generator = random.Random(f"{kind} {seed}")
    times = recorded(generator, late=kind != "avi")
    data = encode(len(times), times=times, rate=30, **CONTAINERS[kind])
    stamps, end = every_stamp(data)
    # the file says what was recorded, of which its clock may round a millisecond
    wrong = [abs(float(stamp) * 1000 - time + times[0]) for stamp, time in zip(stamps, times, strict=True)]
    assert max(wrong) <= 1.0
    pictures = decode_all(data)
    for fps, most in ((2.0, 128), (1.0, 4), (5.0, 7), (EVERY_FRAME_FPS, 512), (0.1, 128)):
        expected = plainly_sampled(stamps, min(most, max(1, math.floor(float(end) * fps))))
        with VideoFile(data, name="video 1", limits=LIMITS) as file:
            assert file.seconds == pytest.approx(float(end), abs=1e-6)
            assert file.fps == pytest.approx(len(times) / file.seconds)
            indices, told = file.sample(fps, most)
            assert indices == expected, (fps, most)
            assert told == pytest.approx([float(stamps[index]) for index in indices], abs=1e-9)
            got = [frame.to_ndarray(format="rgb24") for frame in file.frames(indices)]
        assert all(np.array_equal(frame, pictures[at]) for frame, at in zip(got, indices, strict=True))
        made = read_clip(data, name="video 1", rule=RULE, options=MediaOptions(fps=fps, max_frames=most), limits=LIMITS)
        assert made.headings == headings(len(expected), [float(stamps[at]) for at in expected], 2)


def test_what_is_told_of_a_screen_that_stands_still() -> None:
    """Half a second of movement, twenty seconds of nothing, a last change."""
    times = [*range(0, 500, 50), 20_000]
    data = encode(len(times), times=times, rate=20, container="webm", piped=True, **VP8)
    made = read_clip(data, name="video 1", rule=RULE, options=MediaOptions(max_frames=4), limits=LIMITS)
    assert made.headings == (
        "Frame 1 sampled at 0.00 seconds and frame 2 sampled at 0.20 seconds: ",
        "Frame 3 sampled at 0.45 seconds and frame 4 sampled at 20.00 seconds: ",
    )


# ---- constant rate


@pytest.mark.parametrize("kind", [kind for kind in CONTAINERS if kind != "gif"])
@pytest.mark.parametrize("rate", [30, 25, Fraction(30000, 1001), Fraction(24000, 1001), 15])
def test_a_constant_rate_is_read_as_the_reference_does(kind: str, rate: Fraction | int) -> None:
    data = encode(50, rate=rate, **CONTAINERS[kind])
    with VideoFile(data, name="video 1", limits=LIMITS) as file:
        assert file.fps == pytest.approx(float(rate), rel=1e-3)
        indices, told = file.sample(3.0, 128)
    assert indices == sample_indices(50, file.fps, fps=3.0, max_frames=128)
    assert told == timestamps(indices, float(rate))


def ticks(times: list[float], tick: Fraction) -> list[int]:
    return np.rint(np.array(times) * float(1 / tick)).astype(int).tolist()


@pytest.mark.parametrize("rate", [12.5, 24, 25, 30000 / 1001, 30, 50, 60, 119.88])
@pytest.mark.parametrize("tick", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 15360)])
def test_stamps_that_are_rounded_are_constant(rate: float, tick: Fraction) -> None:
    """Also where they were rounded to a millisecond first, up or down, and an hour long."""
    for number in (2, 3, 100, 100_000):
        even = [index / rate for index in range(number)]
        down = [math.floor(time * 1000) / 1000 for time in even]
        near = [round(time * 1000) / 1000 for time in even]
        assert all(variable_ticks(ticks(times, tick), tick, rate) is None for times in (even, down, near))


def test_stamps_that_waver_or_belie_the_rate_are_not() -> None:
    tick = Fraction(1, 1000)
    even = [index * 40 for index in range(100)]
    assert variable_ticks(even, tick, 25.0) is None
    # one frame late, a frame left out, a file that tells 30 or nothing
    assert variable_ticks([*even[:50], even[50] + 4, *even[51:]], tick, 25.0) is not None
    assert variable_ticks(even[:50] + even[51:], tick, 25.0) is not None
    assert variable_ticks(even, tick, 30.0) is not None and variable_ticks(even, tick, 0.0) is not None
    # one alone has no rate
    assert variable_ticks([7], tick, 0.0) is None


# ---- which frames


def test_even_stamps_are_sampled_as_a_constant_rate_is() -> None:
    """Exactly; the reference's floating point falls one short here and there."""
    generator = random.Random(5)
    for _ in range(500):
        number = generator.randint(2, 3000)
        wanted = generator.randint(2, number)
        got = sample_ticks(np.arange(number) * 7, 1e9, fps=1.0, max_frames=wanted)
        assert got == [at * (number - 1) // (wanted - 1) for at in range(wanted)]
        plain = sample_indices(number, None, fps=1.0, max_frames=wanted)
        assert all(ours - theirs in (0, 1) for ours, theirs in zip(got, plain, strict=True))


def test_any_stamps_give_so_many_frames_of_different_times() -> None:
    generator = random.Random(6)
    for _ in range(2000):
        stays = [generator.choice([0, 1, 1, 3, 33, 33, 33, 1000, 5000]) for _ in range(generator.randint(0, 60))]
        ticks_N = np.cumsum([0, *stays])
        most = generator.randint(1, 70)
        got = sample_ticks(ticks_N, 1e9, fps=1.0, max_frames=most)
        num_times = len(set(ticks_N.tolist()))
        assert got == sorted(set(got)) and ticks_N[got[0]] == 0
        if most >= len(ticks_N):
            assert got == list(range(len(ticks_N)))
            continue
        assert len(got) == len({int(ticks_N[at]) for at in got}) == min(most, num_times)
        assert len(got) == 1 or ticks_N[got[-1]] == ticks_N[-1]
        if 1 < most < num_times:
            distinct = sorted(set(ticks_N.tolist()))
            chosen = plainly_sampled([Fraction(time) for time in distinct], most)
            assert [int(ticks_N[at]) for at in got] == [distinct[at] for at in chosen]


def test_long_videos_in_fine_ticks_are_whole_numbers_still() -> None:
    """An hour in nanoseconds, at the most frames that a file may have."""
    ticks_N = np.cumsum(np.random.default_rng(1).integers(0, 9_000_000, 800_000))
    got = sample_ticks(ticks_N - ticks_N[0], 3600.0, fps=1000.0, max_frames=512)
    assert len(got) == 512 and got[-1] == len(ticks_N) - 1 and min(np.diff(got)) > 0
