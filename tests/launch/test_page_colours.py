"""The page in light and dark: text and edges stand out from what is behind them, by the colours that Chromium computed.

WCAG 2.1: 4.5 for text (1.4.3), 3 for what a control is known by (1.4.11).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from sglang_nemotron.launch import choose
from support.browser import Open

TEXT, EDGE = 4.5, 3.0
FRAGMENTS = {
    "as it opens": "",
    "marked": "#model=omni&variant=nvfp4",
    "refused": "#model=omni&hardware=l40s&tp=1",
    "a wrong text": "#port=0",
    "a notice": "#colour=red",
}

# every element with text of its own, and every control: the colour, and what is behind it
COLOURS = """() => {
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const all = [...document.querySelectorAll("body *:not(#heard)")].filter((one) => one.getClientRects().length);
  const ownText = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const typed = (one) => one.matches(".field input") && one.value;
  const words = all.filter((one) => ownText(one) || typed(one));
  const edges = all.filter((one) => one.matches(".option > span, .field input, button"));
  return {
    text: words.map((one) => [one.textContent || one.value, getComputedStyle(one).color, behind(one)]),
    edge: edges.map((one) => [one.textContent, getComputedStyle(one).borderTopColor, behind(one.parentElement)]),
  };
}"""


def luminance(colour: str) -> float:
    """Relative luminance of an opaque colour as a browser writes it."""
    numbers = [float(one) for one in re.findall(r"[\d.]+", colour)]
    assert colour.startswith("rgb") and (len(numbers) == 3 or numbers[3] == 1), colour
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (n / 255 for n in numbers[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def faint(page: Page) -> list[tuple[Any, ...]]:
    """What does not stand out enough: (what, colour, behind, contrast)."""
    found = page.evaluate(COLOURS)
    assert len(found["text"]) > 40 and len(found["edge"]) > 25
    return [
        (name, colour, behind, round(ratio, 2))
        for kind, least in (("text", TEXT), ("edge", EDGE))
        for name, colour, behind in found[kind]
        if (ratio := contrast(colour, behind)) < least
    ]


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    # the grey that is just enough on white
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fragment", FRAGMENTS.values(), ids=FRAGMENTS)
def test_everything_stands_out(scheme: str, fragment: str, open_page: Open) -> None:
    page = open_page(fragment, color_scheme=scheme)
    dark = luminance(page.evaluate("() => getComputedStyle(document.body).backgroundColor")) < 0.1
    assert dark == (scheme == "dark")
    assert faint(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_focus_stands_out(scheme: str, open_page: Open) -> None:
    page = open_page(color_scheme=scheme)
    behind = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    for _ in range(len(choose.answers({})) + 2):
        page.keyboard.press("Tab")
        outline = page.evaluate(
            """() => {
              const one = document.activeElement;
              return getComputedStyle(one.type === "radio" ? one.nextElementSibling : one).outlineColor;
            }"""
        )
        assert contrast(outline, behind) >= EDGE


@pytest.mark.parametrize("variable", ["--quiet", "--edge", "--accent", "--wrong"])
def test_a_faint_colour_is_seen(variable: str, open_page: Open) -> None:
    page = open_page(FRAGMENTS["marked"], color_scheme="light")
    page.evaluate("(name) => document.documentElement.style.setProperty(name, '#cccccc')", variable)
    assert faint(page) != []


def test_the_readers_own_choice(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    button = page.locator("#theme")
    paper = "() => getComputedStyle(document.body).backgroundColor"
    system = page.evaluate(paper)
    shown = {}
    for name in ("dark", "light"):
        button.click()
        expect(button).to_have_text(f"Colours: {name}")
        shown[name] = page.evaluate(paper)
        assert faint(page) == []
    assert shown["dark"] == system != shown["light"]
    page.reload()
    expect(button).to_have_text("Colours: light")
    assert page.evaluate(paper) == shown["light"]
    button.click()
    expect(button).to_have_text("Colours: system")
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == shown["light"]
