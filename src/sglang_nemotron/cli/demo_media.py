"""The demo's media as bytes of files that the package ships: a photo, a spoken sentence and a short clip.

Knows file formats by name only; nothing about models, tokens or servers.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "media"


def photo() -> bytes:
    """A JPEG of 640 x 480 pixels: the sun over a lake between hills."""
    return (_FOLDER / "photo.jpg").read_bytes()


def speech() -> bytes:
    """An MP3: "The ferry leaves the harbour at seven, and the bridge is closed until noon.\""""
    return (_FOLDER / "speech.mp3").read_bytes()


def clip() -> bytes:
    """An MP4 of four seconds with sound: a red ball rolls across a green field."""
    return (_FOLDER / "clip.mp4").read_bytes()
