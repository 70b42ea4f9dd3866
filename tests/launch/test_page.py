"""The page in Chromium: what it says is what the command says, and everybody can use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from sglang_nemotron.launch import choose
from sglang_nemotron.launch.choose import launch
from sglang_nemotron.launch.page import page as generated
from sglang_nemotron.launch.table import TABLE
from support.browser import COMMITTED, Open

BY_ID = {choice.id: choice for choice in TABLE.choices}
REFUSED = {"model": "omni", "hardware": "l40s", "tp": "1"}

# what a reader sees of a page: the command, or why there is none
SEEN = """() => {
  const visible = (id) => !document.getElementById(id).hidden;
  const texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent);
  return {
    command: visible("command") ? document.getElementById("command").textContent : null,
    status: document.getElementById("status").innerText,
    flags: visible("why") ? texts("#flags dt").map((flag, at) => [flag, texts("#flags dd")[at]]) : [],
    changed: visible("why") ? texts("#changed li") : [],
  };
}"""


def expected(asked: Mapping[str, str]) -> dict[str, Any]:
    """The same of the command line."""
    try:
        ours = launch(asked)
    except ValueError as error:
        reason, _, remedy = str(error).partition("\n  remedy: ")
        said = f"No command: {reason}\nRemedy: {remedy}"
        return {"command": None, "status": said, "flags": [], "changed": []}
    flags = [[f"{one.flag} {one.value}", one.why] for one in ours.flags]
    return {"command": ours.command, "status": ours.evidence, "flags": flags, "changed": list(ours.changed)}


def radio(page: Page, choice: str, option: str) -> Any:
    return page.locator(f"#{choice}-{option}")


def checked(page: Page) -> dict[str, str]:
    """What the form says, texts included."""
    return page.evaluate("() => Object.fromEntries(new FormData(document.getElementById('choices')))")


def test_the_committed_page_is_the_generators() -> None:
    """`sglang-nemotron command --page docs/command.html` writes it anew."""
    assert COMMITTED.read_text() == generated()


def test_nothing_is_fetched() -> None:
    text = generated()
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    assert "default-src 'none'" in text


# ---- the same as the command


def test_every_combination_is_the_commands(open_page: Open) -> None:
    page = open_page()
    asked = [{**values, "format": form} for form in ("lines", "line") for values in choose.combinations()]
    seen = page.evaluate(
        f"""async (fragments) => {{
          const seen = {SEEN};
          const all = [];
          for (const fragment of fragments) {{
            const changed = new Promise((done) => addEventListener("hashchange", done, {{ once: true }}));
            if (location.hash !== fragment) {{ location.hash = fragment; await changed; }}
            all.push(seen());
          }}
          return all;
        }}""",
        [choose.fragment(values) for values in asked],
    )
    assert len(seen) == len(asked) == 2 * 1344
    for values, ours in zip(asked, seen, strict=True):
        assert ours == expected(values), values
    assert sum(one["command"] is None for one in seen) > 100


@pytest.mark.parametrize("model", ["nano", "omni"])
def test_every_option_is_clicked(model: str, open_page: Open) -> None:
    page = open_page()
    for choice in TABLE.choices:
        for option in choose.offered(choice, {"model": model}):
            # the address forgets what was clicked before
            page.goto(f"{COMMITTED.as_uri()}#model={model}")
            page.locator(f"label:has(#{choice.id}-{option.id})").click()
            assert radio(page, choice.id, option.id).is_checked()
            assert page.evaluate(SEEN) == expected({"model": model, choice.id: option.id})


@pytest.mark.parametrize(
    "asked",
    [
        {"host": "127.0.0.1", "port": "8000", "max-running-requests": "1024"},
        {"host": "a; rm -r b"},
        {"host": ""},
        {"port": "0"},
        {"port": "65536"},
        {"port": "1e3"},
        {"max-running-requests": "many"},
        {"max-running-requests": ""},
    ],
    ids=str,
)
def test_texts_are_judged_alike(asked: dict[str, str], open_page: Open) -> None:
    page = open_page()
    for name, value in asked.items():
        page.get_by_label(BY_ID[name].title, exact=True).fill(value)
    assert page.evaluate(SEEN) == expected(asked)
    for name in ("host", "port", "max-running-requests"):
        try:
            launch({name: asked.get(name, "1")})
            right = True
        except ValueError:
            right = False
        invalid = page.locator(f"#{name}").get_attribute("aria-invalid")
        assert invalid == str(not right).lower()


def test_a_refusal_marks_the_ways_out(open_page: Open) -> None:
    page = open_page(choose.fragment(REFUSED))
    expect(page.locator("#copy")).to_be_disabled()
    for choice in TABLE.choices:
        for option in choose.offered(choice, REFUSED):
            otherwise = choose.answers({**REFUSED, choice.id: option.id})
            named = [one for one in TABLE.refusals if choose.fits(one.when, otherwise) and choice.id in one.when]
            described = radio(page, choice.id, option.id).get_attribute("aria-describedby")
            assert (described == "mark-refused") == (bool(named) and choice.id != "model")
    assert page.locator(".option.refused").count() == 3
    page.locator("label:has(#tp-2)").click()
    expect(page.locator("#command")).to_contain_text("--tp 2")
    expect(page.locator("#copy")).to_be_enabled()


def test_another_model_keeps_what_was_chosen(open_page: Open) -> None:
    page = open_page()
    page.locator("label:has(#hardware-b200)").click()
    page.locator("label:has(#model-omni)").click()
    assert page.evaluate(SEEN) == expected({"model": "omni", "hardware": "b200"})
    page.locator("label:has(#variant-nvfp4)").click()
    page.locator("label:has(#model-nano)").click()
    # which has no NVFP4
    assert page.evaluate(SEEN) == expected({"model": "nano", "hardware": "b200"})


# ---- the address


def test_an_address_keeps_every_choice(open_page: Open) -> None:
    page = open_page()
    asked = {
        **{"model": "omni", "hardware": "h200", "variant": "fp8", "tp": "2", "kv-cache-dtype": "fp8_e4m3"},
        **{"reasoning-parser": "off", "tool-call-parser": "off", "format": "line"},
    }
    for name, option in asked.items():
        page.locator(f"label:has(#{name}-{option})").click()
    texts = {"host": "::1", "port": "8080", "max-running-requests": "12"}
    for name, value in texts.items():
        page.locator(f"#{name}").fill(value)
    fragment = page.evaluate("() => location.hash")
    assert fragment == choose.fragment(choose.answers({**asked, **texts}))
    other = open_page(fragment)
    assert checked(other) == checked(page) == {**asked, **texts}
    assert other.evaluate(SEEN) == page.evaluate(SEEN) == expected({**asked, **texts})
    other.reload()
    assert other.evaluate(SEEN) == expected({**asked, **texts})


def test_an_address_with_what_there_is_not(open_page: Open) -> None:
    page = open_page("#model=nano&variant=nvfp4&tp=3&colour=red&host=%3Cb%3Ex")
    expect(page.locator("#notice")).to_have_text(
        "The address asks for what is not offered: colour=red, variant=nvfp4, tp=3."
    )
    # a text is shown as it came, and refused as if it had been typed
    assert page.evaluate(SEEN) == expected({"host": "<b>x"})
    assert page.locator("#host").input_value() == "<b>x" and page.locator("b").count() == 1


# ---- the clipboard

PERMISSIONS = ["clipboard-read", "clipboard-write"]
CLIPBOARD = "() => navigator.clipboard.readText()"


def test_copying(open_page: Open) -> None:
    page = open_page("#model=omni", permissions=PERMISSIONS)
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#notice")).to_have_text("Copied.")
    assert page.evaluate(CLIPBOARD) == launch({"model": "omni"}).command
    page.locator("label:has(#tp-8)").click()
    expect(page.locator("#notice")).to_have_text("")


@pytest.mark.parametrize("old_way", [True, False], ids=["the old way works", "nothing works"])
def test_copying_without_the_clipboards_permission(old_way: bool, open_page: Open) -> None:
    page = open_page(permissions=PERMISSIONS)
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    if not old_way:
        page.evaluate("() => { document.execCommand = () => false; }")
    page.get_by_role("button", name="Copy").click()
    said = "Copied." if old_way else "Selected: press Ctrl+C to copy."
    expect(page.locator("#notice")).to_have_text(said)
    assert page.evaluate("() => getSelection().toString()").strip() == launch({}).command
    if old_way:
        assert page.evaluate(CLIPBOARD).strip() == launch({}).command


# ---- narrow screens


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"model": "omni", "hardware": "b200", "kv-cache-dtype": "fp8_e4m3", "max-running-requests": "999999"},
        {"format": "line", "host": "a" * 253},
        {"host": "no" * 200},
        REFUSED,
    ],
    ids=["as it opens", "every flag", "one line, a long host", "a wrong host", "refused"],
)
def test_nothing_is_wider_than_the_screen(width: int, asked: dict[str, str], open_page: Open) -> None:
    page = open_page("#" + "&".join(f"{name}={value}" for name, value in asked.items()), width=width)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """() => [...document.querySelectorAll("body *:not(#heard)")].filter((one) => {
          const box = one.getBoundingClientRect();
          return one.getClientRects().length && (box.right > innerWidth + 0.5 || box.left < -0.5);
        }).map((one) => one.outerHTML)"""
    )
    assert cut == []
    # what is pressed with a finger is large enough for one
    sizes = page.evaluate(
        """() => [...document.querySelectorAll(".option, .field input, button")].map((one) => {
          const box = one.getBoundingClientRect();
          return [one.textContent, box.width, box.height];
        })"""
    )
    assert len(sizes) > 25 and [one for one in sizes if min(one[1:]) < 40] == []


# ---- a keyboard alone


def test_a_keyboard_is_enough(open_page: Open) -> None:
    page = open_page(permissions=PERMISSIONS)
    active = "() => { const one = document.activeElement; return one.name || one.id; }"
    stops = []
    for _ in range(len(TABLE.choices) + 2):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(active))
        assert page.evaluate(
            """() => {
              const one = document.activeElement;
              const shown = one.type === "radio" ? one.nextElementSibling : one;
              const style = getComputedStyle(shown);
              return style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2;
            }"""
        ), stops
    # a group is one stop, and nothing else is any
    assert stops == ["theme", *BY_ID, "copy"]
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("Copied.")
    assert page.evaluate(CLIPBOARD) == launch({}).command
    asked = {}
    for name in reversed(list(BY_ID)):
        page.keyboard.press("Shift+Tab")
        assert page.evaluate(active) == name
        if BY_ID[name].options:
            before = checked(page)[name]
            page.keyboard.press("ArrowRight")
            # focus goes with the choice, and stays in the group
            assert page.evaluate(active) == name and checked(page)[name] != before
        else:
            page.keyboard.press("End")
            page.keyboard.type("1")
        asked[name] = checked(page)[name]
        if name == "variant":
            # from here on the first way: A100 has no FP8
            break
    assert page.evaluate(SEEN) == expected(asked)


# ---- who hears it


def tree(page: Page) -> list[dict[str, Any]]:
    """Nodes of the accessibility tree that a screen reader meets: role, name, description, properties."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    return [
        {
            **{key: (node.get(key) or {}).get("value", "") for key in ("role", "name", "description")},
            **{one["name"]: one["value"].get("value") for one in node.get("properties", ())},
        }
        for node in nodes
        if not node["ignored"]
    ]


def names(nodes: Iterable[Mapping[str, Any]], role: str) -> list[str]:
    return [node["name"] for node in nodes if node["role"] == role]


@pytest.mark.parametrize("model", ["nano", "omni"])
def test_a_screen_reader_hears_every_choice(model: str, open_page: Open) -> None:
    page = open_page(f"#model={model}")
    nodes = tree(page)
    groups = [choice for choice in TABLE.choices if choice.options]
    assert names(nodes, "group") == [choice.title for choice in groups]
    options = [option for choice in groups for option in choose.offered(choice, {"model": model})]
    assert names(nodes, "radio") == [f"{option.label} {option.note}".strip() for option in options]
    texts = {choice.title: choice.help for choice in TABLE.choices if not choice.options}
    heard = {node["name"]: node["description"] for node in nodes if node["role"] == "textbox"}
    assert heard == texts
    assert names(nodes, "button") == ["Colours: system", "Copy"]
    assert names(nodes, "form") == ["Choices"] and names(nodes, "region") == ["Command"]
    assert names(nodes, "heading") == [
        *("Launch command", "Command", "Why each flag", "What differs from the published page")
    ]
    assert {role for node in nodes if (role := node["role"])} >= {"main", "banner", "status", "term", "definition"}
    assert page.title() and page.locator("html").get_attribute("lang") == "en"


def test_a_screen_reader_hears_what_changes(open_page: Open) -> None:
    page = open_page("#model=omni")
    for one in ("status", "notice", "heard"):
        assert page.locator(f"#{one}").get_attribute("role") == "status"
    page.locator("label:has(#tp-2)").click()
    expect(page.locator("#heard")).to_have_text("Command: now --tp 2.")
    page.locator("label:has(#reasoning-parser-off)").click()
    expect(page.locator("#heard")).to_have_text("Command: without --reasoning-parser.")
    page.locator("label:has(#hardware-l40s)").click()
    page.locator("label:has(#tp-1)").click()
    expect(page.locator("#status")).to_contain_text("No command: TP 1 is not supported on L40S")
    nodes = tree(page)
    assert {node["name"] for node in nodes if node["description"].startswith("refused with")} == {
        *("L40S 48 GB", "TP 1", "NVFP4 experts in 4 bits")
    }
    (disabled,) = [node for node in nodes if node["role"] == "button" and node.get("disabled")]
    assert disabled["name"] == "Copy"
