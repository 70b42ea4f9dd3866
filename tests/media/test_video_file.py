"""Encoded videos through the decoder: the right frames, upright, with true times; and files that are refused."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter

from sglang_nemotron.media.features import VideoClip
from sglang_nemotron.media.pixels.resize import Resizer
from sglang_nemotron.media.video.file import CODECS, VideoFile, read_clip
from sglang_nemotron.media.video.pixels import rgb_planes
from sglang_nemotron.media.video.resize import num_to_decode, resize_all
from sglang_nemotron.media.video.sampling import new_frames, video_grid
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions
from support.costs import assert_cheap, cost
from support.video_media import RULE, decode_all, encode, picture
from support.waiting import NET_S, PATIENT

LIMITS = PATIENT
CLIP = Path(__file__).parents[1] / "data" / "media" / "clip.mp4"

FILES = {
    "h264 mp4, one group": {},
    "h264 mp4, groups of 12": {"options": {"preset": "medium", "g": "12", "bf": "3"}},
    "h264 mp4, open groups": {"options": {"preset": "medium", "g": "15", "bf": "3", "x264-params": "open-gop=1"}},
    "h264 mp4, all intra": {"options": {"g": "1"}},
    "h264 mkv": {"container": "matroska", "options": {"preset": "medium", "g": "20"}},
    "h264 ts": {"container": "mpegts"},
    "h265 mp4": {"codec": "libx265"},
    "h265 mp4, open groups": {
        "codec": "libx265",
        "options": {"preset": "fast", "x265-params": "log-level=none:keyint=12:open-gop=1:bframes=3"},
    },
    "vp9 webm": {"codec": "libvpx-vp9", "container": "webm", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "av1 mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "av1 webm, groups of 12": {"codec": "libsvtav1", "container": "webm", "options": {"preset": "12", "g": "12"}},
    "mpeg4 avi": {"codec": "mpeg4", "container": "avi"},
    "gif": {"codec": "gif", "container": "gif", "pix_fmt": "rgb8", "rate": 10},
}


def clip(data: bytes | str | Path, *, limits: MediaLimits = LIMITS, threads: int = 2, **options: object) -> VideoClip:
    return read_clip(data, name="video 1", rule=RULE, options=MediaOptions(**options), limits=limits, threads=threads)


@pytest.mark.parametrize("kind", FILES)
def test_chosen_frames_are_those_of_a_plain_decode(kind: str) -> None:
    """Groups passed over and frames skipped change nothing: every frame equals that of decoding all, in order."""
    data = encode(60, **FILES[kind])
    expected = decode_all(data)
    generator = random.Random(kind)
    choices = [[0], [59], [0, 59], list(range(60)), [3, 4, 40]]
    choices += [sorted(generator.sample(range(60), generator.randint(1, 12))) for _ in range(6)]
    with VideoFile(data, name="video 1", limits=LIMITS) as file:
        assert file.num_frames == len(expected) == 60
        assert file.fps == pytest.approx(10.0 if kind == "gif" else 30.0)
        for indices in choices:
            got = [frame.to_ndarray(format="rgb24") for frame in file.frames(indices)]
            assert len(got) == len(indices)
            assert all(np.array_equal(frame, expected[at]) for frame, at in zip(got, indices, strict=True)), indices


def test_the_frame_comparison_can_fail() -> None:
    expected = decode_all(encode(60))
    assert not any(np.array_equal(one, other) for one, other in zip(expected, expected[1:], strict=False))


def test_only_what_the_wanted_frames_need_is_decoded() -> None:
    data = encode(120, options={"preset": "medium", "g": "12", "bf": "3"})
    with VideoFile(data, name="video 1", limits=LIMITS) as file:
        ranges, targets = file._index.ranges({0, 61})
    assert len(targets) == 2 and sum(stop - start for start, stop in ranges) <= 8, ranges


def test_a_clip_of_a_file_is_its_frames_resized() -> None:
    data = encode(40)
    frames, grid = decode_all(data), video_grid(160, 96, RULE)
    made = clip(data, fps=4.0, max_frames=128, pruning_rate=0.5)
    indices = [0, 9, 19, 29, 39]
    expected, resizer = new_frames(5, grid, RULE), Resizer(grid, RULE)
    for number, at in enumerate(indices):
        resizer.into(frames[at], expected[number])
    expected[5] = expected[4]
    assert made.grid_HW == grid and made.tokens_per_tubelet == grid[0] * grid[1] // 4
    assert float((made.feature - expected).abs().max()) <= 2e-6
    assert made.headings == (
        "Frame 1 sampled at 0.00 seconds and frame 2 sampled at 0.30 seconds: ",
        "Frame 3 sampled at 0.63 seconds and frame 4 sampled at 0.96 seconds: ",
        "Frame 5 sampled at 1.29 seconds: ",
    )
    assert (made.pruning_rate, made.num_kept) == (0.5, int(3 * made.tokens_per_tubelet * 0.5))


@pytest.mark.parametrize("size", [(96, 160), (320, 200), (16, 16), (160, 90)])
def test_a_file_that_tells_a_wrong_size_changes_nothing(size: tuple[int, int]) -> None:
    """Turned, larger, smaller, and another of the same grid."""
    data, asked = encode(7), []

    def memory(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        asked.append(shape)
        return torch.full(shape, float("nan"))

    with VideoFile(data, name="video 1", limits=LIMITS) as file:
        frames = file.frames(list(range(7)))
        told = resize_all(frames, 7, RULE, size=size, workers=1, memory=memory, check=lambda *_: None)
    assert torch.equal(told[0][:7], clip(data, fps=30.0).feature[:7])
    # no second memory where the first can be turned
    same = sorted(video_grid(*size, RULE)) == sorted(video_grid(160, 96, RULE))
    assert len(asked) == (1 if same else 2)


def test_bytes_a_path_and_any_number_of_threads_agree(tmp_path: Path) -> None:
    data = encode(30)
    path = tmp_path / "a film.mp4"
    path.write_bytes(data)
    wanted = clip(data, threads=1).feature
    for source, threads in ((data, 2), (path, 2), (str(path), 4), (bytearray(data), 1)):
        assert torch.equal(clip(source, threads=threads).feature, wanted)


def test_the_pruning_rate_is_the_checkpoints_unless_asked_for() -> None:
    data = encode(30)
    assert clip(data).pruning_rate == RULE.pruning_rate == 0.7
    assert clip(data, pruning_rate=0.0).num_kept == clip(data).num_tokens


@pytest.mark.parametrize(("frames", "tubelets"), [(1, 1), (2, 1), (7, 4)])
def test_few_and_odd_counts(frames: int, tubelets: int) -> None:
    made = clip(encode(frames, rate=2))
    assert (made.num_tubelets, made.feature.shape[0]) == (tubelets, 2 * tubelets)
    if frames % 2:
        assert torch.equal(made.feature[-1], made.feature[-2])


@pytest.mark.parametrize(
    ("rotation", "hflip", "turn"),
    [
        (0, False, lambda up: up),
        (90, False, lambda up: np.rot90(up, 1)),
        (180, False, lambda up: np.rot90(up, 2)),
        (270, False, lambda up: np.rot90(up, 3)),
        (0, True, lambda up: up[:, ::-1]),
    ],
)
def test_rotation_of_the_file_is_applied(rotation: int, hflip: bool, turn: object) -> None:
    """Degrees are counter-clockwise, as FFmpeg writes them; the turned frame has the grid of its turned size."""
    data = encode(2, rotation=rotation, hflip=hflip, rate=2)
    upright = [np.ascontiguousarray(turn(frame)) for frame in decode_all(data)]
    height, width = upright[0].shape[:2]
    made, grid = clip(data), video_grid(width, height, RULE)
    assert made.grid_HW == grid and (grid[0] > grid[1]) == (rotation in (90, 270))
    expected = new_frames(2, grid, RULE)
    for number, frame in enumerate(upright):
        Resizer(grid, RULE).into(frame, expected[number])
    assert float((made.feature - expected).abs().max()) <= 1e-5


def test_a_file_whose_frames_change_size_keeps_its_first_grid() -> None:
    """Two MPEG-TS files of different size, one after the other, as a broadcast may send them."""
    data = encode(10, container="mpegts", rate=2) + encode(10, container="mpegts", rate=2, width=96, height=160)
    made = clip(data, fps=1000.0)
    assert made.grid_HW == video_grid(160, 96, RULE) and bool(made.feature.isfinite().all())


def test_the_committed_clip() -> None:
    assert CLIP.stat().st_size < 150_000
    with VideoFile(CLIP, name="video 1", limits=LIMITS) as file:
        assert file.has_sound and file.num_frames > 30
    assert clip(CLIP).num_tubelets >= 2


def resident(field: str) -> int:
    """Bytes, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def test_full_size_frames_are_not_kept(tmp_path: Path) -> None:
    """96 frames of 1280x720 are 133 MB as decoded and 265 as RGB; beside the clip itself, those are alive that threads
    decode, and a few that wait: 64 MB here."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode(96, width=1280, height=720, rate=2, options={"g": "10"}))
    # a process of its own: what other tests freed and kept would be counted too
    folder = Path(__file__).parent
    run = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}]\n"
        "import test_video_file; test_video_file.print_growth(sys.argv[1])"
    )
    command = [sys.executable, "-c", run, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=NET_S)
    grown, size = map(int, done.stdout.split())
    assert grown < size + 90 * 2**20, f"{grown:,} for a clip of {size:,}"


def print_growth(path: str) -> None:
    """The bytes by which reading a clip raised this process's peak, and those of the clip."""
    clip(path, max_frames=4)
    # forgets the peak so far
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    made = clip(path)
    assert made.feature.shape[0] == 96
    print(resident("VmHWM") - before, made.feature.nbytes)


def test_threads_that_decode_are_bounded_by_what_they_keep() -> None:
    number = num_to_decode
    assert number(1, 1920 * 1080, 1) == number(1, 64 * 64, 1) == 11
    # in between, others are passed over
    assert number(1, 1920 * 1080, 2) == 3
    assert number(4, 7680 * 4320, 1) == 6
    assert number(8, 64 * 64, 1) == 16 and number(64, 64 * 64, 1) == 66


# what is refused ------------------------------------------------------------------------------------------------------


@cache
def cost_of_a_clip() -> float:
    whole = encode(30, options={"movflags": "faststart"})
    return cost(lambda: clip(whole))


def refused(source: bytes | str | Path, *, limits: MediaLimits = LIMITS, **options: object) -> MediaError:
    with pytest.raises(MediaError) as caught:
        clip(source, limits=limits, **options)

    def again() -> None:
        with pytest.raises(MediaError):
            clip(source, limits=limits, **options)

    assert_cheap(again, beside=cost_of_a_clip(), times=5, what="an honest clip of 30 frames")
    assert str(caught.value).startswith("video 1: ")
    return caught.value


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def sound_only() -> bytes:
    from io import BytesIO

    out = BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def without_frames() -> bytes:
    """The header of a whole file, its tables of samples emptied."""
    data = bytearray(encode(10, options={"movflags": "faststart"}))
    for table, skip in ((b"stsz", 8), (b"stco", 4), (b"stts", 4), (b"stsc", 4), (b"stss", 4), (b"ctts", 4)):
        at = data.find(table)
        if at >= 0:
            data[at + 4 + skip : at + 8 + skip] = bytes(4)
    return bytes(data)


def claiming(width: int, height: int) -> bytes:
    """A GIF whose header claims a canvas of this size; its pictures are small."""
    data = bytearray(encode(2, codec="gif", container="gif", pix_fmt="rgb8"))
    struct.pack_into("<HH", data, 6, width, height)
    return bytes(data)


# what is told whatever FFmpeg says of it
UNREADABLE = "is not a video file that can be read, or is cut off: "


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: b"", "is empty: 0 bytes"),
        (lambda: b"\0" * 4096, UNREADABLE),
        (lambda: b"I am a text file, not an MP4.\n" * 50, UNREADABLE),
        (lambda: encode(60)[:4000], UNREADABLE),
        (lambda: encode(30)[:40], UNREADABLE),
        (lambda: box(b"ftyp", b"isom\0\0\2\0isomiso2"), UNREADABLE),
        (sound_only, "has no video track, only audio (send sound as audio)"),
        (without_frames, "has a video track without frames (at least 1 frame)"),
        (lambda: b"RIFF" + struct.pack("<I", 2**31) + b"AVI LIST", UNREADABLE),
    ],
    ids=["nothing", "zeros", "text", "moov missing", "head only", "ftyp only", "sound only", "no frames", "riff bomb"],
)
def test_files_that_hold_no_video_are_refused(data: object, says: str) -> None:
    assert str(refused(data())).startswith(f"video 1: {says}")


@pytest.mark.parametrize(
    ("container", "says"),
    [
        ("mp4", UNREADABLE),
        ("matroska", "is cut off: 1.4 seconds of the 3.0 that its header states"),
        ("avi", "is cut off: 30 frames of the 90 that its header states"),
    ],
)
def test_a_file_cut_in_the_middle_is_refused(container: str, says: str) -> None:
    kind = {"codec": "mpeg4"} if container == "avi" else {}
    options = {"movflags": "faststart"} if container == "mp4" else {}
    data = encode(90, container=container, options=options, **kind)
    clip(data)
    assert str(refused(data[: len(data) // 2])).startswith(f"video 1: {says}")


def test_damage_inside_never_hangs_or_crashes() -> None:
    """Random bytes flipped: a clip of the right shape or a MediaError, and nothing else."""
    generator, outcomes = random.Random(2), set()
    whole = encode(30, options={"movflags": "faststart"})
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 10, 200])):
            data[generator.randrange(len(data))] = generator.randrange(256)

        def read(data: bytes = bytes(data)) -> None:
            try:
                outcomes.add(bool(clip(data).feature.isfinite().all()))
            except MediaError:
                outcomes.add("refused")

        assert_cheap(read, beside=cost_of_a_clip(), times=10, what="the whole clip")
    assert outcomes <= {True, "refused"} and len(outcomes) == 2, outcomes


def test_a_mislabelled_container_is_read_by_what_it_is() -> None:
    """The name of a file is never believed: a WebM called MP4 is a WebM."""
    assert clip(encode(10, codec="libvpx-vp9", container="webm", rate=2)).num_tubelets == 5


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '/etc/passwd'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    ],
)
def test_playlists_are_not_followed(text: str, tmp_path: Path) -> None:
    """A playlist could name local files and addresses inside the operator's network."""
    assert "not a video" in str(refused(text.encode()))
    path = tmp_path / "clip.mp4"
    path.write_text(text.replace("/etc/passwd", str(CLIP)))
    assert "not a video" in str(refused(path))


def test_a_still_picture_is_not_a_video() -> None:
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.fromarray(picture(0, 64, 64)).save(out, "PNG")
    assert "not a video" in str(refused(out.getvalue()))


@pytest.mark.parametrize(
    ("data", "limits", "limit"),
    [
        (lambda: encode(90), MediaLimits(max_video_seconds=2.0), "is 3.0 seconds long (at most 2 seconds)"),
        (lambda: encode(30), MediaLimits(max_video_bytes=1000), "at most 1,000 bytes"),
        (
            lambda: encode(30),
            MediaLimits(max_video_pixels=160 * 95),
            "160x96, 15,360 pixels (at most 15,200 pixels a frame)",
        ),
        (
            lambda: encode(4, width=512, height=2),
            MediaLimits(),
            "is 512x2 (the long side at most 200 times the short one)",
        ),
        (lambda: encode(30), MediaLimits(max_decode_seconds=1e-9), "takes too long to read"),
        (lambda: claiming(60000, 60000), MediaLimits(), "at most 35,651,584 pixels"),
    ],
    ids=["long", "large", "many pixels", "a strip", "slow", "claims 60000x60000"],
)
def test_limits_are_named(data: object, limits: MediaLimits, limit: str) -> None:
    assert limit in str(refused(data(), limits=limits))


def test_a_claim_of_hours_is_refused_unread() -> None:
    """Two frames, the second five hours after the first."""
    data = encode(2, times=[0, 5 * 3600 * 1000], rate=Fraction(1))
    error = refused(data)
    assert "seconds long" in error.problem and error.limit == "at most 3,600 seconds"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in str(refused(tmp_path / "none.mp4"))


def test_files_stay_closed_after_refusals(tmp_path: Path) -> None:
    import os

    path = tmp_path / "cut.mp4"
    path.write_bytes(encode(30)[:3000])
    refused(path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        refused(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_codecs_named_are_known_to_this_build() -> None:
    assert {"h264", "hevc", "vp9", "gif"} <= set(CODECS) & set(av.codecs_available)


@pytest.mark.parametrize("kind", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12", "gray", "rgb24"])
def test_planes_have_the_bits_of_rgb24(kind: str) -> None:
    """Whatever the format, the sides and the colour space."""
    noise, reformatter, alike = np.random.default_rng(0), VideoReformatter(), set()
    for width, height in [(64, 48), (66, 50), (18, 34), (854, 480), (1920, 16), (18, 33), (161, 97), (2, 2), (1, 1)]:
        for colorspace, color_range in ((1, 1), (5, 2), (9, 1), (2, 0)):
            frame = av.VideoFrame(width, height, kind)
            frame.colorspace, frame.color_range = colorspace, color_range
            for plane in frame.planes:
                # 10 bits in 16: the upper six are none
                samples = noise.integers(0, 1024, plane.buffer_size // 2, dtype=np.uint16)
                plane.update(samples.tobytes() if "10" in kind else noise.bytes(plane.buffer_size))
            planes = rgb_planes(frame, reformatter)
            assert np.array_equal(np.stack(planes, axis=-1), frame.to_ndarray(format="rgb24")), (width, height)
            alike.add(planes[0].strides[1] == 1)
    assert (True in alike) == kind.startswith(("yuv420p", "yuvj420p")) * (not kind.endswith("10le"))
