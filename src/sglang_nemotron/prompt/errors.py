"""The error of a media item that cannot be served. Knows nothing of media, files or SGLang."""

from __future__ import annotations


class MediaError(ValueError):
    """A file of the request that cannot be served: the user's to correct, a 400 at the HTTP door.

    item: which one, counted from 1 as the user sent them ("image 2"). problem: what is wrong with it, with its value.
    limit: what would be accepted, empty if there is no number to tell. Survives pickling between processes.
    """

    def __init__(self, item: str, problem: str, limit: str = "") -> None:
        super().__init__(item, problem, limit)
        self.item = item
        self.problem = problem
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.item}: {self.problem}" + (f" ({self.limit})" if self.limit else "")
