"""What the tests of histories share: the chat templates that they render with."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Chat templates by name, each with transformers as the judge of what it renders."""
    from support.template_rig import rigs

    return dict(rigs(tmp_path_factory.mktemp("templates")))
