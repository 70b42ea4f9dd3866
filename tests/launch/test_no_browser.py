"""Where there is no Chromium, tests of the page say so; in CI they fail, unless the reason was given."""

from __future__ import annotations

import pytest

from support import browser


@pytest.mark.parametrize(
    ("ci", "said", "ends"),
    [
        (None, None, pytest.skip.Exception),
        ("true", None, pytest.fail.Exception),
        ("true", "apt-get could not install it", pytest.skip.Exception),
    ],
)
def test_a_machine_without_chromium(
    ci: str | None, said: str | None, ends: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    for name, value in (("CI", ci), ("NO_CHROMIUM", said)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    with pytest.raises(ends, match=f"no Chromium on this machine.*{said or ''}"):
        browser.program()
