"""What the tests of prompts share: chat templates, with transformers as their judge."""

from __future__ import annotations

import pytest

from support import template_rig


@pytest.fixture(scope="session")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, template_rig.Rig]:
    """By the template's name."""
    return dict(template_rig.rigs(tmp_path_factory.mktemp("templates")))
