"""Replies written by hand with what they must come to, each parsed whole and in pieces of 1, 2, 3 and 7 characters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from reply_cases_loose import LOOSE
from reply_texts import TOOLS

from sglang_nemotron.reply.grammar import ReplyParser, collect

CASES: dict[str, tuple[str, str, str, list[tuple[str, Any]], dict[str, Any]]] = {}


def case(
    label: str,
    text: str,
    thought: str = "",
    content: str = "",
    calls: list[tuple[str, Any]] | None = None,
    **options: Any,
) -> None:
    assert label not in CASES, label
    CASES[label] = (text, thought, content, calls or [], options)


def call(tool: str, **values: str) -> str:
    """A call as the template writes it."""
    parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    return f"<tool_call>\n<function={tool}>\n{parameters}</function>\n</tool_call>\n"


PARIS = call("get_weather", city="Paris")
PARIS_CALL = ("get_weather", {"city": "Paris"})
HEAD = "<tool_call>\n<function=get_weather>\n"
OFF = {"thinking": False}

# --- thinking -------------------------------------------------------------------------------------------------------
case("nothing", "")
case("thinking and answer", "I think.\n</think>\nAnswer.", "I think.", "Answer.")
case("close in the middle of a line", "I think.</think>Answer.", "I think.", "Answer.")
case("close without a newline before", "r</think>\nc", "r", "c")
case("close without a newline behind", "r\n</think>c", "r", "c")
case("only one newline on either side is markup", "r\n\n</think>\n\nc", "r\n", "\nc")
case("spaces around the close are kept", "r \n</think> \nc", "r ", " \nc")
case("no close: all reasoning", "I think and think", "I think and think")
case("no close, ends with a newline", "I think\n", "I think\n")
case("no close, ends inside the tag", "I think\n</thi", "I think\n</thi")
case("no close, ends with the bracket", "I think <", "I think <")
case("empty block", "</think>\nAnswer.", "", "Answer.")
case("empty block with its newline", "\n</think>\nAnswer.", "", "Answer.")
case("block of two newlines", "\n\n</think>\nAnswer.", "\n", "Answer.")
case("block and nothing else", "r\n</think>", "r")
case("block and a newline", "r\n</think>\n", "r")
case("block and two newlines", "r\n</think>\n\n", "r", "\n")
case("repeated opener", "<think>r</think>c", "r", "c")
case("repeated opener with newline", "<think>\nr\n</think>\nc", "r", "c")
case("repeated opener, no close", "<think>\nr", "r")
case("repeated opener alone", "<think>")
case("repeated opener cut", "<thin", "<thin")
case("opener twice: the second is text", "<think><think>r</think>c", "<think>r", "c")
case("opener behind the start is text", "a <think> b</think>c", "a <think> b", "c")
case("opener on its own line is text", "a\n<think>\nb\n</think>\nc", "a\n<think>\nb", "c")
case("opener behind a newline is text", "\n<think>r</think>c", "\n<think>r", "c")
case("second close is content", "r</think>a</think>b", "r", "a</think>b")
case("opener in content is text", "r</think>a <think>b</think> c", "r", "a <think>b</think> c")
case("almost a close", "a </thinks> b </think>c", "a </thinks> b ", "c")
case("close in capitals is text", "a</THINK>b", "a</THINK>b")
case("close with a space is text", "a</think >b", "a</think >b")
case("doubled bracket", "a<</think>b", "a<", "b")
case("close inside a broken close", "a</thi</think>b", "a</thi", "b")
case("code in thinking", "if a<b and c</d>:\n</think>\nok", "if a<b and c</d>:", "ok")
case("emoji in thinking", "🦊🦊\n</think>\n日本", "🦊🦊", "日本")
case("carriage returns are kept", "a\r\n</think>\r\nb", "a\r", "\r\nb")
case("end-of-turn token that is shown", "r\n</think>\nc<|im_end|>", "r", "c<|im_end|>")
# --- thinking off ---------------------------------------------------------------------------------------------------
case("off: all content", "Answer.", "", "Answer.", **OFF)
case("off: nothing", "", **OFF)
case("off: leading newline is kept", "\nAnswer.", "", "\nAnswer.", **OFF)
case("off: a close is content", "a</think>b", "", "a</think>b", **OFF)
case("off: a close at the start is content", "</think>\nb", "", "</think>\nb", **OFF)
case("off: an opener later is content", "a <think>b</think>", "", "a <think>b</think>", **OFF)
case("off: the model opens a block itself", "<think>\nr\n</think>\nc", "r", "c", **OFF)
case("off: the model opens a block and stays", "<think>r", "r", "", **OFF)
case("off: opener cut", "<think", "", "<think", **OFF)
case("off: bracket at the start", "<b>x</b>", "", "<b>x</b>", **OFF)
case("off: a call at once", PARIS, "", "", [PARIS_CALL], **OFF)
case("off: a call behind a newline", "\n" + PARIS, "", "", [PARIS_CALL], **OFF)
case("off: text and a call", "Wait.\n" + PARIS, "", "Wait.", [PARIS_CALL], **OFF)
# --- no reasoning stage (separate_reasoning off, or no reasoning parser) --------------------------------------------
RAW = {"reasoning": False}
case("raw: the block stays in the content", "r\n</think>\nc", "", "r\n</think>\nc", **RAW)
case("raw: an opener stays", "<think>\nr\n</think>\nc", "", "<think>\nr\n</think>\nc", **RAW)
case("raw: a call is a call", "r\n</think>\n\n" + PARIS, "", "r\n</think>\n", [PARIS_CALL], **RAW)
case("raw: a call inside the block", "r\n" + PARIS + "</think>\nc", "", "r\n</think>\nc", [PARIS_CALL], **RAW)
# --- no tool stage --------------------------------------------------------------------------------------------------
PLAIN = {"tools_enabled": False}
case("no tool parser: a call is content", "r\n</think>\n" + PARIS, "r", PARIS, **PLAIN)
case("no tool parser: a call still ends thinking", "r\n" + PARIS, "r", PARIS, **PLAIN)
case(
    "no tool parser: an undeclared call does not",
    "r\n" + call("nope") + "</think>c",
    "r\n" + call("nope")[:-1],
    "c",
    **PLAIN,
)
# --- force_nonempty_content -----------------------------------------------------------------------------------------
FORCE = {"force_nonempty_content": True}
case("nonempty: content stays content", "r\n</think>\nc", "r", "c", **FORCE)
case("nonempty: no close", "all of it", "", "all of it", **FORCE)
case("nonempty: nothing behind the block", "all of it\n</think>\n", "", "all of it", **FORCE)
case("nonempty: blank behind the block", "all of it\n</think>\n \n", "", "all of it \n", **FORCE)
case("nonempty: visible behind blanks", "r\n</think>\n \nc", "r", " \nc", **FORCE)
case("nonempty: a call is not nothing", "r\n</think>\n" + PARIS, "r", "", [PARIS_CALL], **FORCE)
case("nonempty: a call in thinking", "r\n" + PARIS, "r", "", [PARIS_CALL], **FORCE)
case("nonempty: empty block", "</think>\nc", "", "c", **FORCE)
case("nonempty: nothing at all", "", "", "", **FORCE)
case("nonempty: thinking off", "c", "", "c", thinking=False, force_nonempty_content=True)
case("nonempty: thinking off, blank", " \n", "", " \n", thinking=False, force_nonempty_content=True)
# --- one piece of reasoning -----------------------------------------------------------------------------------------
ONE = {"stream_reasoning": False}
case("one piece: with content", "r1 r2\n</think>\nc", "r1 r2", "c", **ONE)
case("one piece: no close", "r1 r2 ", "r1 r2 ", "", **ONE)
case("one piece: a call ends it", "r1 r2\n" + PARIS, "r1 r2", "", [PARIS_CALL], **ONE)
case("one piece: thinking off", "c", "", "c", stream_reasoning=False, thinking=False)
# --- a call begins --------------------------------------------------------------------------------------------------
case("a call behind thinking", "r\n</think>\n" + PARIS, "r", "", [PARIS_CALL])
case("a call behind thinking and a blank line", "r\n</think>\n\n" + PARIS, "r", "", [PARIS_CALL])
case("a call right behind the close", "r</think>" + PARIS, "r", "", [PARIS_CALL])
case("text before a call", "r</think>I look.\n" + PARIS, "r", "I look.", [PARIS_CALL])
case("text and a blank line before a call", "r</think>I look.\n\n" + PARIS, "r", "I look.\n", [PARIS_CALL])
case("text behind a call", "r</think>" + PARIS + "Done.", "r", "Done.", [PARIS_CALL])
case("text right behind a call", "r</think>" + PARIS[:-1] + "Done.", "r", "Done.", [PARIS_CALL])
case("blank line behind a call", "r</think>" + PARIS + "\nDone.", "r", "\nDone.", [PARIS_CALL])
case("two calls", "r</think>" + PARIS + PARIS, "r", "", [PARIS_CALL, PARIS_CALL])
case("two calls on one line", "r</think>" + PARIS[:-1] + PARIS, "r", "", [PARIS_CALL, PARIS_CALL])
case("two calls and a blank line", "r</think>" + PARIS + "\n" + PARIS, "r", "", [PARIS_CALL, PARIS_CALL])
case("text between calls", "r</think>a\n" + PARIS + "b\n" + PARIS + "c", "r", "a\nb\nc", [PARIS_CALL, PARIS_CALL])
case(
    "three tools",
    "</think>" + call("now") + PARIS + call("set", i="3"),
    "",
    "",
    [("now", {}), PARIS_CALL, ("set", {"i": 3})],
)
case("a call with a space before", "r</think>a\n " + PARIS, "r", "a", [PARIS_CALL])
case("a call in the middle of a line", "r</think>so: " + PARIS, "r", "so: ", [PARIS_CALL])
case("a call of an undeclared tool is text", "r</think>" + call("nope", a="1"), "r", call("nope", a="1"))
case("undeclared, then declared", "</think>" + call("nope") + PARIS, "", call("nope")[:-1], [PARIS_CALL])
case("a name that begins a declared one", "</think>" + call("se"), "", call("se"))
case("a declared name that begins another", "</think>" + call("set"), "", "", [("set", {})])
case("the longer of two names", "</think>" + call("set_all"), "", "", [("set_all", {})])
case("a longer name than any", "</think>" + call("set_all_of_them_at_once"), "", call("set_all_of_them_at_once"))
case("a name with a space is text", "</think><tool_call>\n<function=set >\n", "", "<tool_call>\n<function=set >\n")
case("an empty name is text", "</think><tool_call>\n<function=>\n", "", "<tool_call>\n<function=>\n")
case("no newline behind the tag is text", "</think><tool_call><function=now>", "", "<tool_call><function=now>")
case(
    "a blank line behind the tag is text", "</think><tool_call>\n\n<function=now>", "", "<tool_call>\n\n<function=now>"
)
case("function without call", "</think>\n<function=now>\n</function>", "", "", [("now", {})])
case(
    "function in prose is text",
    "</think>use <function=foo> or <function=now>",
    "",
    "use <function=foo> or <function=now>",
)
case(
    "json in a call is text",
    '</think><tool_call>\n{"name": "now"}\n</tool_call>',
    "",
    '<tool_call>\n{"name": "now"}\n</tool_call>',
)
case("tag mentioned in thinking", "the `<tool_call>` tag\n</think>\nok", "the `<tool_call>` tag", "ok")
case("tag on its own line in thinking", "write\n<tool_call>\nthen\n</think>\nok", "write\n<tool_call>\nthen", "ok")
case("tag mentioned in content", "r</think>The `<tool_call>` tag.\nMore.", "r", "The `<tool_call>` tag.\nMore.")
case("tag on its own line in content", "r</think>a\n<tool_call>\nb", "r", "a\n<tool_call>\nb")
case("end tags in content", "r</think>a\n</tool_call>\n</function>\nb", "r", "a\n</tool_call>\n</function>\nb")
case("undeclared in a code block", "r</think>```\n" + call("f") + "```", "r", "```\n" + call("f") + "```")
case("a call in thinking ends it", "r\n" + PARIS, "r", "", [PARIS_CALL])
case("a call in thinking, then a close", "r\n" + PARIS + "</think>\nAnswer.", "r", "</think>\nAnswer.", [PARIS_CALL])
case("a call at the start of thinking", PARIS, "", "", [PARIS_CALL])
case("a call behind the opener", "<think>\n" + PARIS, "", "", [PARIS_CALL])
case("two calls in thinking", "r\n\n" + PARIS + PARIS + "x", "r\n", "x", [PARIS_CALL, PARIS_CALL])
case("a mention, then a call, in thinking", "use <tool_call>\nnow\n" + PARIS, "use <tool_call>\nnow", "", [PARIS_CALL])
case("undeclared in thinking is reasoning", "a\n" + call("nope") + "</think>c", "a\n" + call("nope")[:-1], "c")
case("mid-line in thinking is reasoning", "a " + PARIS + "</think>c", "a " + PARIS[:-1], "c")
case("thinking ends inside a header", "a\n<tool_call>\n<function=get_", "a\n<tool_call>\n<function=get_")
case("content ends inside a header", "</think>a\n<tool_call>\n<fun", "", "a\n<tool_call>\n<fun")
case("content ends inside the tag", "</think>a\n<tool", "", "a\n<tool")
case("continued mid-line: a call at the start", PARIS, "", "", [PARIS_CALL], thinking=False, line_start=False)
case(
    "continued mid-line: a call on the next line", "\n" + PARIS, "", "", [PARIS_CALL], thinking=False, line_start=False
)
case("continued mid-thinking: no call at the start", PARIS + "</think>c", PARIS[:-1], "c", line_start=False)
case("continued mid-line: no opener", "<think>x", "", "<think>x", thinking=False, line_start=False)
# --- parameters -----------------------------------------------------------------------------------------------------
case(
    "two parameters",
    "</think>" + call("get_weather", city="Paris", days="3"),
    "",
    "",
    [("get_weather", {"city": "Paris", "days": 3})],
)
case("no parameters", "</think>" + call("now"), "", "", [("now", {})])
case("no parameters, on one line", "</think><tool_call>\n<function=now></function></tool_call>", "", "", [("now", {})])
case(
    "all on one line",
    f"</think>{HEAD[:-1]}<parameter=city>Paris</parameter><parameter=days>3</parameter></function></tool_call>ok",
    "",
    "ok",
    [("get_weather", {"city": "Paris", "days": 3})],
)
case(
    "space between the tags",
    f"</think>{HEAD}\n  <parameter=city>\nParis\n</parameter>\n\n  </function> \n </tool_call>\nok",
    "",
    "ok",
    [PARIS_CALL],
)
case(
    "an undeclared parameter is a string",
    "</think>" + call("get_weather", zip="75001"),
    "",
    "",
    [("get_weather", {"zip": "75001"})],
)
case("a parameter without schema", "</think>" + call("now", free="1"), "", "", [("now", {"free": "1"})])
case("value with lines", "</think>" + call("set", s="a\nb\n\nc"), "", "", [("set", {"s": "a\nb\n\nc"})])
case("value with outer newlines", "</think>" + call("set", s="\na\n"), "", "", [("set", {"s": "\na\n"})])
case("value with outer spaces", "</think>" + call("set", s="  a  "), "", "", [("set", {"s": "  a  "})])
case("empty value", "</think>" + call("set", s=""), "", "", [("set", {"s": ""})])
case(
    "empty value, one newline",
    "</think><tool_call>\n<function=set>\n<parameter=s>\n</parameter>\n</function>\n</tool_call>",
    "",
    "",
    [("set", {"s": ""})],
)
case(
    "empty value, no newline",
    "</think><tool_call>\n<function=set>\n<parameter=s></parameter>\n</function>\n</tool_call>",
    "",
    "",
    [("set", {"s": ""})],
)
case("value with quotes and backslashes", "</think>" + call("set", s='"a\\b"'), "", "", [("set", {"s": '"a\\b"'})])
case(
    "value with control characters",
    "</think>" + call("set", s="a\tb\x00\x1f"),
    "",
    "",
    [("set", {"s": "a\tb\x00\x1f"})],
)
case("value with emoji", "</think>" + call("set", s="🦊 日本 é\u2028"), "", "", [("set", {"s": "🦊 日本 é\u2028"})])
case("value with json text", "</think>" + call("set", s='{"a": 1}'), "", "", [("set", {"s": '{"a": 1}'})])
for name, held in {
    "an end tag": "use </parameter> here",
    "an end tag on a line": "a\n</parameter>\nb",
    "a function end": "a </function> b",
    "a function end on a line": "a\n</function>\nb",
    "a call end": "a </tool_call> b",
    "a call end on a line": "a\n</tool_call>\nb",
    "an opener": "see <parameter=days> there",
    "an opener of another tool on a line": "a\n<parameter=zip>\nb",
    "an end and a function end": "a</parameter></function>b",
    "xml of a function": "<function>\n<parameter>\nx\n</parameter>\n</function>\nmore",
    "xml": '<?xml version="1.0"?>\n<a b="c">&lt;</a>',
    "html": "<p>a</p>\n<table><tr><td>1</td></tr></table>",
    "think tags": "<think>\na\n</think>\n",
    "a call tag": "a\n<tool_call>\nb",
    "a function tag": "<function=get_weather>",
    "a whole call": f"Example:\n{PARIS}End.",
    "a whole call at its start": f"{PARIS}End.",
    "two whole calls": f"One:\n{PARIS}Two:\n{call('nope', a='1', b='2')}End.",
    "a whole call at its end": f"Example:\n{PARIS[:-1]}",
    "brackets": "a < b > c << d >> e <",
    "broken tags": "</para </func </tool <parameter <param",
    "a file of code": "def f(x: int) -> str:\n    return f'<{x}>'\n\n\nif a < b:\n    pass\n",
    "json with markup": '{"x": "</parameter>", "y": "</function>"}',
    "the word null": "null",
    "the word true": "true",
    "a number": "42",
}.items():
    case(
        f"value with {name}", "r</think>" + call("set", s=held, i="7") + "ok", "r", "ok", [("set", {"s": held, "i": 7})]
    )
    case(f"value with {name}, last", "r</think>" + call("set", i="7", s=held), "r", "", [("set", {"i": 7, "s": held})])
case(
    "quoted header that is never closed, last call",
    "</think>" + call("set", s=f"see\n{HEAD}done"),
    "",
    "",
    [("set", {"s": f"see\n{HEAD}done"})],
)
case(
    "a text given twice: the first is written already, the second is content",
    f"</think>{HEAD}<parameter=city>\nA\n</parameter>\n<parameter=city>\nB\n</parameter>\n</function>\n</tool_call>",
    "",
    "B",
    [("get_weather", {"city": "A"})],
)
# --- missing tags ---------------------------------------------------------------------------------------------------
BOTH = ("get_weather", {"city": "Paris", "days": 3})
CITY = "<parameter=city>\nParis\n"
DAYS = "<parameter=days>\n3\n"
case("missing parameter end", f"</think>{HEAD}{CITY}{DAYS}</parameter>\n</function>\n</tool_call>\nx", "", "x", [BOTH])
case(
    "missing last parameter end",
    f"</think>{HEAD}{CITY}</parameter>\n{DAYS}</function>\n</tool_call>\nx",
    "",
    "x",
    [BOTH],
)
case("missing all parameter ends", f"</think>{HEAD}{CITY}{DAYS}</function>\n</tool_call>\nx", "", "x", [BOTH])
case("missing function end", f"</think>{HEAD}{CITY}</parameter>\n</tool_call>\nx", "", "x", [PARIS_CALL])
case("missing call end at the end", f"</think>{HEAD}{CITY}</parameter>\n</function>\n", "", "", [PARIS_CALL])
case(
    "missing call end before a call",
    f"</think>{HEAD}{CITY}</parameter>\n</function>\n{PARIS}",
    "",
    "",
    [PARIS_CALL] * 2,
)
case("missing two ends before a call", f"</think>{HEAD}{CITY}</parameter>\n{PARIS}x", "", "x", [PARIS_CALL] * 2)
case("missing all but the call end, at the end", f"</think>{HEAD}{CITY}</tool_call>", "", "", [PARIS_CALL])
case(
    "missing function end, no parameter", "</think><tool_call>\n<function=now>\n</tool_call>\nx", "", "x", [("now", {})]
)
case("missing call end, no parameter", "</think><tool_call>\n<function=now>\n</function>\nx", "", "x", [("now", {})])
case(
    "missing ends, no parameter, before a call",
    "</think><tool_call>\n<function=now>\n" + PARIS,
    "",
    "",
    [("now", {}), PARIS_CALL],
)
case(
    "text where a parameter belongs",
    f"</think>{HEAD}Paris\n</function>",
    "",
    "Paris",
    [("get_weather", {})],
)
case("json where a parameter belongs", f'</think>{HEAD}{{"city": 1}}', "", '{"city": 1}', [("get_weather", {})])
case(
    "text behind the function",
    f"</think>{HEAD}{CITY}</parameter>\n</function>\n</tool_call>\n\n\nx",
    "",
    "\n\nx",
    [PARIS_CALL],
)
case(
    "a second function in a call is text",
    "</think><tool_call>\n<function=now>\n</function>\n<function=set>\n",
    "",
    "<function=set>\n",
    [("now", {})],
)
case("endless space in a call ends it", f"</think>{HEAD}\n{' ' * 65}x", "", f"\n{' ' * 65}x", [("get_weather", {})])
# --- the text ends ----------------------------------------------------------------------------------------------------
for size, values in {
    0: {},
    5: {},
    len("<parameter=city>"): {"city": ""},
    len("<parameter=city>\n"): {"city": ""},
    len("<parameter=city>\nPar"): {"city": "Par"},
    len("<parameter=city>\nParis\n"): {"city": "Paris\n"},
    len("<parameter=city>\nParis\n</"): {"city": "Paris"},
    len("<parameter=city>\nParis\n</parameter>"): {"city": "Paris"},
    len("<parameter=city>\nParis\n</parameter>\n"): {"city": "Paris"},
    len("<parameter=city>\nParis\n</parameter>\n<param"): {"city": "Paris"},
    len("<parameter=city>\nParis\n</parameter>\n<parameter=da"): {"city": "Paris"},
    len("<parameter=city>\nParis\n</parameter>\n<parameter=days>"): {"city": "Paris"},
    len("<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3"): {"city": "Paris", "days": 3},
    len("<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</par"): {"city": "Paris", "days": 3},
    len("<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</f"): {"city": "Paris", "days": 3},
}.items():
    cut = f"{CITY}</parameter>\n{DAYS}</parameter>\n</function>\n</tool_call>"[:size]
    case(f"cut after {cut[-12:]!r}", f"r\n</think>\n{HEAD}{cut}", "r", "", [("get_weather", values)])
case("cut inside the function end", f"</think>{HEAD}</func", "", "", [("get_weather", {})])
case("cut inside the call end", f"</think>{HEAD}</function>\n</tool", "", "", [("get_weather", {})])
case(
    "cut inside a list",
    "</think>" + call("set", a="[1, 2")[: -len("\n</parameter>\n</function>\n</tool_call>\n")],
    "",
    "",
    [("set", {"a": "[1, 2"})],
)
case("cut inside the next header", f"</think>{PARIS}<tool_call>\n<fun", "", "<tool_call>\n<fun", [PARIS_CALL])
# --- types ---------------------------------------------------------------------------------------------------------
for parameter, written, value in [
    ("s", "null", "null"),
    ("s", "true", "true"),
    ("s", "12", "12"),
    ("s", "[1]", "[1]"),
    ("i", "12", 12),
    ("i", "-3", -3),
    ("i", " 12 ", 12),
    ("i", "+5", 5),
    ("i", "007", 7),
    ("i", "12.0", 12),
    ("i", "twelve", "twelve"),
    ("i", "1_000", "1_000"),
    ("i", "9" * 30, int("9" * 30)),
    ("i", "-" + "7" * 4000, -int("7" * 4000)),
    ("i", "9" * 5000, "9" * 5000),
    ("a", "[" + "9" * 30 + "]", [int("9" * 30)]),
    ("o", '{"k":\n"a\nb", "n": ' + "9" * 30 + "}", {"k": "a\nb", "n": int("9" * 30)}),
    ("n", "1.5", 1.5),
    ("n", "-2e-3", -0.002),
    ("n", ".5", 0.5),
    ("n", "5.", 5),
    ("n", "NaN", "NaN"),
    ("n", "12", 12),
    ("b", "true", True),
    ("b", "False", False),
    ("b", "yes", "yes"),
    ("b", "1", "1"),
    ("a", "[1, 2]", [1, 2]),
    ("a", '["a", {"b": null}]', ["a", {"b": None}]),
    ("a", "['a', True]", ["a", True]),
    ("a", "a, b", "a, b"),
    ("a", "[" * 3000, "[" * 3000),
    ("o", '{"k": [1, {"z": 2.50}]}', {"k": [1, {"z": 2.5}]}),
    ("o", '{\n  "k": "line\nline"\n}', {"k": "line\nline"}),
    ("o", "{'k': None}", {"k": None}),
    ("o", '{"k": NaN}', '{"k": NaN}'),
    ("z", "null", None),
    ("z", "None", None),
    ("z", "x", "x"),
    ("z", "", None),
    ("e", "low", "low"),
    ("e", "3", 3),
    ("e", "null", None),
    ("e", "other", "other"),
    ("maybe", "null", None),
    ("maybe", "None", None),
    ("maybe", "None of it", "None of it"),
    ("maybe", "nullable", "nullable"),
    ("maybe", "text", "text"),
    ("maybe", "", ""),
    ("either", "12", 12),
    ("either", "012", "012"),
    ("either", "12 monkeys", "12 monkeys"),
    ("either", '["x"]', ["x"]),
    ("either", "[x]", "[x]"),
    ("either", "null", "null"),
    ("point", '{"x": 1}', {"x": 1}),
    ("label", "null", "null"),
    ("free", "12", 12),
    ("free", "None", "None"),
    ("free", "True", "True"),
    ("free", "", ""),
    ("free", "x y", "x y"),
    ("free", '{"a": 1}', {"a": 1}),
]:
    case(
        f"type {parameter}: {written[:20]!r} {len(written)}",
        "</think>" + call("set", **{parameter: written}),
        "",
        "",
        [("set", {parameter: value})],
    )


CASES |= LOOSE


def exact(value: Any) -> str:
    """Text that tells 1 from 1.0 and True."""
    return json.dumps(value, sort_keys=True)


def test_enough_cases() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("label", CASES)
def test_case(label: str) -> None:
    text, reasoning, content, calls, options = CASES[label]
    for size in (len(text) or 1, 1, 2, 3, 7):
        parser = ReplyParser(TOOLS, **options)
        events = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
        reply = collect(events + parser.finish())
        assert (reply.reasoning, reply.content) == (reasoning, content), size
        assert [call.name for call in reply.calls] == [name for name, _ in calls], size
        for found, (_, expected) in zip(reply.calls, calls, strict=True):
            assert exact(json.loads(found.arguments)) == exact(expected), size
