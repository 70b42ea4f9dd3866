"""Twenty video files as FFmpeg's own program writes them, for comparisons of decoders; it must be installed.

What they differ in: codec (H.264, HEVC, VP8, VP9, AV1, MPEG-4), container, constant and variable frame rate, frames out
of order, open groups of pictures, edit lists, rotation, odd sizes, one group for all, starts later than 0, colours.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 8
# drops frames unevenly: a camera in the dark, a screen that stands still
UNEVEN = "select='not(mod(n*n\\,7))+between(n\\,60\\,90)'"
X264 = "-c:v libx264 -preset medium -threads 2"
X265 = "-c:v libx265 -preset veryfast -x265-params log-level=none"
OPEN_264 = "-x264-params open-gop=1:keyint=48:bframes=3"
OPEN_265 = "-x265-params log-level=none:open-gop=1:keyint=48:bframes=4"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 1M"
VP8 = "-c:v libvpx -deadline good -cpu-used 4 -b:v 1M -auto-alt-ref 1 -lag-in-frames 16"
AV1 = "-c:v libsvtav1 -preset 12"

# name of the file: (filters, flags of the encoder and of the container)
RECIPES: dict[str, tuple[str, str]] = {
    "h264_one_group.mp4": ("", f"{X264} -g 1000"),
    "h264_open_groups.mp4": ("", f"{X264} {OPEN_264}"),
    "h264_variable_rate.mp4": (UNEVEN, f"{X264} -vsync vfr"),
    "h264_fragments.mp4": ("", f"{X264} -g 48 -movflags frag_keyframe+empty_moov+default_base_moof"),
    "h264_full_range_bt709.mp4": (
        "scale=out_range=full:out_color_matrix=bt709",
        f"{X264} -pix_fmt yuvj420p -color_range pc -colorspace bt709 -color_trc bt709 -color_primaries bt709",
    ),
    "h264_29_97.mov": ("fps=30000/1001", f"{X264} -g 60"),
    "h264_starts_at_5_s.mkv": ("", f"{X264} -g 48 -output_ts_offset 5"),
    "h264_variable_rate.mkv": (UNEVEN, f"{X264} -g 48 -vsync vfr"),
    "h264.ts": ("", f"{X264} -g 48"),
    "hevc_open_groups.mp4": ("", f"-c:v libx265 -preset veryfast {OPEN_265} -tag:v hvc1"),
    "hevc_10_bits.mp4": ("", f"{X265} -pix_fmt yuv420p10le"),
    "hevc_variable_rate.mkv": (UNEVEN, f"{X265} -vsync vfr"),
    "vp9.webm": ("fps=25", f"{VP9} -g 100"),
    "vp9_odd_size_variable_rate.webm": (f"scale=853:479,{UNEVEN}", f"{VP9} -vsync vfr"),
    "vp8_hidden_frames.webm": ("", VP8),
    "av1.mp4": ("", f"{AV1} -g 64"),
    "av1_starts_at_2_s.webm": ("", f"{AV1} -g 64 -output_ts_offset 2"),
    "mpeg4.avi": ("", "-c:v mpeg4 -bf 2 -q:v 4 -g 48"),
}
# made of another file without encoding it anew: (that file, flags before it, flags behind it)
COPIES: dict[str, tuple[str, str, str]] = {
    # begins between two keyframes: an edit list passes over what comes before
    "h264_edit_list.mp4": ("h264_open_groups.mp4", "-ss 2.3", "-avoid_negative_ts disabled"),
    "h264_rotated.mp4": ("h264_29_97.mov", "", "-metadata:s:v:0 rotate=90"),
}
NAMES = (*RECIPES, *COPIES)


def make_all(folder: Path, source: Path | None = None, size: str = "960x540") -> list[Path]:
    """The files, in the order of NAMES. source: a film, repeated if it is short; None: FFmpeg's test picture."""
    folder.mkdir(parents=True, exist_ok=True)
    if source is None:
        given = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=30,noise=alls=8:allf=t:all_seed=1"]
    else:
        given = ["-stream_loop", "-1", "-i", str(source)]
    for name, (filters, flags) in RECIPES.items():
        chain = ",".join(part for part in (f"fps=30,scale={size.replace('x', ':')},format=yuv420p", filters) if part)
        said = [] if "-pix_fmt" in flags else ["-pix_fmt", "yuv420p"]
        _run(*given, "-t", str(SECONDS), "-an", "-vf", chain, *said, *flags.split(), str(folder / name))
    for name, (made_of, before, behind) in COPIES.items():
        _run(*before.split(), "-i", str(folder / made_of), "-c", "copy", *behind.split(), str(folder / name))
    return [folder / name for name in NAMES]


def ffmpeg_version() -> str:
    return subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]


def _run(*flags: str) -> None:
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
