"""Says what SGLang release this is before anything is imported that another release may lack."""

from __future__ import annotations

from sglang_nemotron.host import refusal
from sglang_nemotron.sglang_api import release


def announce() -> None:
    """Warns of a release that was not tested; what is refused from now on names it in the remedy."""
    release.warn_if_untested()
    refusal.suspect(release.remedy())
