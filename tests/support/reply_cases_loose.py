"""Calls as models really write them: replies by hand with what they must come to, in the form of `test_reply_cases`."""

from __future__ import annotations

from typing import Any

LOOSE: dict[str, tuple[str, str, str, list[tuple[str, Any]], dict[str, Any]]] = {}
HEAD = "<tool_call>\n<function=set>\n"
TAIL = "\n</parameter>\n</function>\n</tool_call>\n"
CITY = "<parameter=city>\nParis\n</parameter>\n"
WEATHER = f"<function=get_weather>\n{CITY}</function>\n"
NOW = "<function=now>\n</function>\n"
PARIS = ("get_weather", {"city": "Paris"})


def loose(label: str, text: str, content: str = "", calls: list[tuple[str, Any]] | None = None, **options: Any) -> None:
    """A reply behind a think block."""
    assert label not in LOOSE, label
    LOOSE[label] = ("r\n</think>\n" + text, "r", content, calls or [], options)


def ends(label: str, behind: str, content: str = "", value: str = "ls", more: Any = None, held: str = "ls") -> None:
    """A text value and what stands behind it, up to the end of the reply."""
    values = {"s": value, **(more or {})}
    loose(label, f"{HEAD}<parameter=s>\n{held}{behind}", content, [("set", values)])


# --- where a value ends: strong ends --------------------------------------------------------------------------------
ends("strong: all tags", "\n</parameter>\n</function>\n</tool_call>")
ends("strong: no function end", "\n</parameter>\n</tool_call>")
ends("strong: no parameter end", "\n</function>\n</tool_call>")
ends("strong: in the middle of a line", "</parameter></function></tool_call>")
ends("strong: an undeclared parameter", "\n</parameter>\n<parameter=nope>\n1" + TAIL, more={"nope": "1"})
ends("strong: a parameter in the middle of a line", "</parameter><parameter=i>1" + TAIL, more={"i": 1})
ends("strong: the end of the reply", "\n</parameter>\n")
ends("strong: the end of the reply behind the function", "\n</parameter>\n</function>\n")
strong = f"{HEAD}<parameter=s>\nls\n</parameter>\n"
loose("strong: a call behind the parameter", f"{strong}<tool_call>\n{WEATHER}", "", [("set", {"s": "ls"}), PARIS])
loose("strong: a function behind the parameter", f"{strong}{WEATHER}", "", [("set", {"s": "ls"}), PARIS])
loose("strong: a call behind the function", f"{strong}</function>\n{WEATHER}", "", [("set", {"s": "ls"}), PARIS])
loose(
    "two functions in one block",
    f"{strong}</function>\n{WEATHER}</tool_call>\nok",
    "ok",
    [("set", {"s": "ls"}), PARIS],
)
loose(
    "three functions in one block, words between them",
    f"{strong}</function>\nand\n{WEATHER}then\n{NOW}</tool_call>",
    "and\nthen",
    [("set", {"s": "ls"}), PARIS, ("now", {})],
)
loose("three functions on one line", "<tool_call>" + "<function=now></function>" * 3, "", [("now", {})] * 3)
loose(
    "a function without its end behind an open one",
    f"{HEAD}<function=now>\n</function>\n</tool_call>",
    "",
    [("set", {}), ("now", {})],
)
# --- a value within the tag of its parameter ------------------------------------------------------------------------
END = "</function>\n</tool_call>\n"
LONG = "echo " + "x" * 200
for name, (text, values) in {
    "and its end": ("<parameter=s=ls -la</parameter>\n", {"s": "ls -la"}),
    "the tag closed": ("<parameter=s=ls>\n</parameter>\n", {"s": "ls"}),
    "a redirection": ("<parameter=s=ls > out.txt</parameter>\n", {"s": "ls > out.txt"}),
    "a long one": (f"<parameter=s={LONG}</parameter>\n", {"s": LONG}),
    "more lines": ("<parameter=s=ls>\npwd\n</parameter>\n", {"s": "ls\npwd"}),
    "a number": ("<parameter=i=3</parameter>\n", {"i": 3}),
    "two": ("<parameter=s=ls</parameter>\n<parameter=i=3>\n</parameter>\n", {"s": "ls", "i": 3}),
    "behind another": ("<parameter=i>\n3\n</parameter>\n<parameter=s=ls</parameter>\n", {"i": 3, "s": "ls"}),
    "behind a text": ("<parameter=s>\nls\n</parameter>\n<parameter=i=3</parameter>\n", {"s": "ls", "i": 3}),
    "an undeclared name": ("<parameter=q=1>\nx\n</parameter>\n", {"q=1": "x"}),
    "a name that was given": ("<parameter=i>1</parameter><parameter=i=2>x</parameter>\n", {"i": 1, "i=2": "x"}),
}.items():
    loose(f"within the tag: {name}", f"{HEAD}{text}{END}", "", [("set", values)])
loose("within the tag: the reply ends", f"{HEAD}<parameter=s=ls>", "", [("set", {"s": "ls"})])
# --- weak ends ------------------------------------------------------------------------------------------------------
ends("weak: doubled parameter end", "\n</parameter>\n</parameter>\n</function>\n</tool_call>")
ends("weak: trebled parameter end", "\n</parameter>\n</parameter></parameter>\n<parameter=i>\n1" + TAIL, more={"i": 1})
ends("weak: doubled function end", "\n</parameter>\n</function>\n</function>\n</tool_call>\nok", "ok")
ends("weak: doubled call end", "\n</parameter>\n</function>\n</tool_call>\n</tool_call>\nok", "ok")
ends("weak: words behind the function", "\n</parameter>\n</function>\nok\n</tool_call>", "ok")
ends("weak: text behind the function", "\n</parameter>\n</function>\nI did it.\nWell.", "I did it.\nWell.")
ends("weak: two lines behind the function", "\n</parameter>\n</function>\na\nb\n</tool_call>", "a\nb\n</tool_call>")
ends("weak: words behind the parameter", "\n</parameter>\nok\n</function>\n</tool_call>", "ok")
ends("weak: words on the line of the end", "\n</parameter> ok </function></tool_call>", "ok")
ends("weak: words, then the call end", "\n</parameter>\nok\n</tool_call>", "ok")
ends("weak: words, then a parameter", "\n</parameter>\nand\n<parameter=i>\n1" + TAIL, "and", more={"i": 1})
ends("weak: words, then the end", "\n</parameter>\nok", "ok")
ends("weak: words, then a cut tag", "\n</parameter>\nok\n</func", "ok")
loose("weak: words, then a call", f"{strong}ok\n<tool_call>\n{WEATHER}", "ok", [("set", {"s": "ls"}), PARIS])
ends(
    "weak: words twice",
    "\n</parameter>\nand\n<parameter=i>\n1\n</parameter>\nok\n</function>",
    "and\nok",
    more={"i": 1},
)
ends("weak: 200 characters of words", f"\n</parameter>\n{'w' * 200}\n</function>", "w" * 200)
longer = f"ls\n</parameter>\n{'w' * 201}"
ends("weak: 201 characters are text", f"\n</parameter>\n{'w' * 201}\n</function>\n</tool_call>", value=longer)
ends("weak: two lines are text", "\n</parameter>\na\nb" + TAIL, value="ls\n</parameter>\na\nb")
ends(
    "weak: words with a tag are text", "\n</parameter>\na <b\n</function>\n</tool_call>", value="ls\n</parameter>\na <b"
)
ends("weak: in the middle of a line is text", "</parameter></parameter>x" + TAIL, value="ls</parameter></parameter>x")
ends(
    "weak: an undeclared parameter behind words",
    "\n</parameter>\na\n<parameter=no>" + TAIL,
    value="ls\n</parameter>\na\n<parameter=no>",
)
# --- tags that are indented begin a line too; the blanks before them are the value's -------------------------------
for name, (behind, content, more) in {
    "doubled parameter end": ("</parameter>\n  </parameter>\n  </function>\n  </tool_call>", "", {}),
    "words behind the function": ("</parameter>\n  </function>\n  ok\n  </tool_call>", "ok", {}),
    "text behind the function": ("</parameter>\n  </function>\nI did it.\nWell.", "I did it.\nWell.", {}),
    "words behind the parameter": ("</parameter>\n  ok\n  </function>\n</tool_call>", "ok", {}),
    "words, then a parameter": ("</parameter>\n  and\n  <parameter=i>\n  1" + TAIL, "and", {"i": 1}),
    "no parameter end": ("</function>\n  </tool_call>", "", {}),
    "no parameter end, then a parameter": ("<parameter=i>\n  1" + TAIL, "", {"i": 1}),
    "the call end alone": ("</tool_call>", "", {}),
    "a tag that the end cut": ("</f", "", {}),
}.items():
    ends(f"indented: {name}", f"\n  {behind}", content, value="ls\n  ", more=more)
    ends(f"indented by a tab: {name}", f"\n\t{behind}", content, value="ls\n\t", more=more)
ends(
    "not indented: words before the tag",
    "\n  x </parameter></parameter>y" + TAIL,
    value="ls\n  x </parameter></parameter>y",
)
# --- calls on one line ----------------------------------------------------------------------------------------------
ONE = "<function=set><parameter=s>ls</parameter></function>"
TWO = "<function=get_weather><parameter=city>Paris</parameter></function>"
LS = ("set", {"s": "ls"})
for name, (text, content, calls) in {
    "two": (ONE + TWO, "", [LS, PARIS]),
    "three": (ONE + TWO + "<function=now></function>", "", [LS, PARIS, ("now", {})]),
    "a blank between": (f"{ONE} {TWO}", "", [LS, PARIS]),
    "a line between": (f"{ONE}\n{TWO}", "", [LS, PARIS]),
    "words between": (f"{ONE} and {TWO}", "and", [LS, PARIS]),
    "a dot between": (f"{ONE}.{TWO}", ".", [LS, PARIS]),
    "words behind a number": (f"{ONE.replace('=s>ls', '=i>1')} and {TWO}", "and", [("set", {"i": 1}), PARIS]),
    "a line of words between": (f"{ONE}\nThen:\n{TWO}", "Then:", [LS, PARIS]),
    "words, then a whole call": (f"{ONE} and <tool_call>{TWO}</tool_call>", " and ", [LS, PARIS]),
    "a doubled end": (f"{ONE}</function>{TWO}", "", [LS, PARIS]),
    "a doubled end and words": (f"{ONE}</function>, {TWO}", ",", [LS, PARIS]),
    "a doubled end, then the call end": (f"<tool_call>{ONE}</function></tool_call>ok", "ok", [LS]),
    "a doubled end, then the end": (f"{ONE}</function>", "", [LS]),
    "a doubled end that is cut": (f"{ONE}</func", "", [LS]),
    "in one block": (f"<tool_call>{ONE} and {TWO}</tool_call>ok", "and\nok", [LS, PARIS]),
    "in backticks": (f"{ONE} like `{TWO}`", f" like `{TWO}`", [LS]),
    "on the line of a fence": (f"{ONE} ~~~ {TWO}", f" ~~~ {TWO}", [LS]),
    "behind the call end": (f"<tool_call>{ONE}</tool_call> and {TWO}", f" and {TWO}", [LS]),
    "never committed": (
        f"{ONE.replace('=s>ls', '=i>1')} and <function=now> so",
        " and <function=now> so",
        [("set", {"i": 1})],
    ),
}.items():
    loose(f"one line: {name}", text, content, calls)
ends(
    "one line: words and an undeclared function are text",
    f"</parameter></function> x <function=f></function>{TAIL}",
    value="ls</parameter></function> x <function=f></function>",
)
ends("ambiguous: both tags on lines of their own in a text", "\n</parameter>\n</function>\nEOF" + TAIL, "EOF")
# --- what stays in a value ------------------------------------------------------------------------------------------
for name, held in {
    "a parameter of its own": '<parameter name="q">v</parameter>',
    "a parameter of its own on lines": '<parameter name="q">\nv\n</parameter>\n</function>\nx',
    "a block of parameters of its own": "<parameter=city>\na\n</parameter>\n<parameter=zip>\nb\n</parameter>\nx",
    "an indented parameter of its own": 'a\n  <parameter name="q">\n    v\n  </parameter>\n  </function>\nx',
    "an indented bare function": "a\n  <function=f>\n    <parameter=x>\n    1\n    </parameter>\n  </function>\nb",
    "an indented call": "a\n  <tool_call>\n  <function=f>\n  <parameter=x>\n  1\n  </parameter>\n  </function>\n"
    "  </tool_call>\nb",
    "a doubled function end in a line": "see </parameter></function></function> here",
    "parameters that close themselves": '<parameter name="a"/>\n<parameter name="b" />',
    "an end tag and a function end": "see </parameter></function> here",
    "a bare function": f"a\n{WEATHER}b",
    "two bare functions": f"a\n{WEATHER}{WEATHER}b",
    "a call on one line": "a <tool_call><function=f><parameter=x>1</parameter></function></tool_call> b",
    "a call in the middle of a line": f"so: <tool_call>\n{WEATHER}</tool_call> b",
    "a header that is only named": "use <tool_call><function=f> here",
    "an end tag and a line": "a\n</parameter>\nb\n<x>",
    "words about tags": "a <parameter b </parameters> <parameter> c",
}.items():
    ends(f"a value with {name}", TAIL, value=held, held=held)
    ends(
        f"a value with {name}, not last",
        "\n</parameter>\n<parameter=i>\n1" + TAIL,
        value=held,
        held=held,
        more={"i": 1},
    )
loose(
    "a quoted call that breaks off before a parameter",
    f"{HEAD}<parameter=s>\n<tool_call>\n<function=f>\n...\n</parameter>\n<parameter=i>\n1{TAIL}<tool_call>\n{NOW}ok",
    "ok",
    [("set", {"s": "<tool_call>\n<function=f>\n...", "i": 1}), ("now", {})],
)
ends(
    "a parameter of its own that is open keeps a weak end away",
    "\n<parameter=x>\n</parameter>\n</function>\nb" + TAIL,
    value="ls\n<parameter=x>\n</parameter>\n</function>\nb",
)
# --- a parameter given twice ----------------------------------------------------------------------------------------
loose(
    "twice in a row: the last counts",
    f"{HEAD}<parameter=i>\n1\n</parameter>\n<parameter=i>\n2{TAIL}",
    "",
    [("set", {"i": 2})],
)
loose(
    "three times in a row",
    f"{HEAD}{''.join(f'<parameter=i>{n}</parameter>{chr(10)}' for n in (1, 2, 3))}</function>",
    "",
    [("set", {"i": 3})],
)
loose(
    "twice, the last one says nothing",
    f"{HEAD}<parameter=i>\n1\n</parameter>\n<parameter=i>\n{TAIL}",
    "",
    [("set", {})],
)
loose(
    "twice, undecided until its end",
    f"{HEAD}<parameter=maybe>\nnull\n</parameter>\n<parameter=maybe>\nx{TAIL}",
    "",
    [("set", {"maybe": "x"})],
)
loose(
    "twice, a text that streams",
    f"I set.\n{HEAD}<parameter=s>\na\n</parameter>\n<parameter=s>\nb{TAIL}ok",
    "I set.\nb\nok",
    [("set", {"s": "a"})],
)
loose(
    "twice, not in a row",
    f"{HEAD}<parameter=i>\n1\n</parameter>\n<parameter=s>\na\n</parameter>\n<parameter=i>\n2{TAIL}",
    "2",
    [("set", {"i": 1, "s": "a"})],
)
loose(
    "left out, then given",
    f"{HEAD}<parameter=i>\n</parameter>\n<parameter=s>\na\n</parameter>\n<parameter=i>\n2{TAIL}",
    "",
    [("set", {"s": "a", "i": 2})],
)
# --- where a call begins --------------------------------------------------------------------------------------------
for name, (text, content) in {
    "in the middle of a line": (f"I look.<tool_call>\n{WEATHER}</tool_call>", "I look."),
    "all on one line": ("I look.<tool_call>" + WEATHER.replace("\n", "") + "</tool_call>", "I look."),
    "nothing behind the tag": (f"<tool_call>{WEATHER}</tool_call>", ""),
    "blanks behind the tag": (f"<tool_call> \t\n\n  {WEATHER}</tool_call>", ""),
    "words behind the tag": (f"<tool_call>\nLet me see.\n{WEATHER}</tool_call>", "Let me see."),
    "words before and behind the tag": (f"Hm.<tool_call>Let me see.\n{WEATHER}</tool_call>", "Hm.\nLet me see."),
    "many spaces between the words": (f"<tool_call>a{' ' * 70}b < c\n{WEATHER}", f"a{' ' * 70}b < c"),
    "200 characters behind the tag": (f"<tool_call>\n{'w' * 200}\n{WEATHER}", "w" * 200),
    "indented": (f"Look:\n  <tool_call>\n  {WEATHER}  </tool_call>", "Look:"),
    "indented with tabs at the start": (f"\t<tool_call>\n\t{WEATHER}\t</tool_call>", ""),
    "without the tag": (f"{WEATHER}</tool_call>\nok", "ok"),
    "without both tags": (f"I look.\n{WEATHER}ok", "I look.\nok"),
    "without the tag, indented": (f"I look.\n    {WEATHER}", "I look."),
    "a blank line before the parameter": (f"<function=get_weather>\n\n {CITY}</function>", ""),
    "behind a closed fence": (f"```\nx\n```\n{WEATHER}", "```\nx\n```"),
    "behind a closed fence on its line": (f"```\nx\n```<tool_call>{WEATHER}", "```\nx\n```"),
    "behind a longer closing fence": (f"~~~ py\n```\n~~~~~\n{WEATHER}", "~~~ py\n```\n~~~~~"),
    "behind code on its line": (f"`ls` <tool_call>{WEATHER}", "`ls` "),
    "behind a code span of three": (f"```ls``` or\n{WEATHER}", "```ls``` or"),
    "backticks on the line before": (f"a ` b\n{WEATHER}", "a ` b"),
    "strict in a fence": (f"```\n<tool_call>\n{WEATHER}</tool_call>\n```", "```\n```"),
}.items():
    loose(f"a call {name}", text, content, [PARIS])
BARE = f"<tool_call>{WEATHER}</tool_call>"
for name, text in {
    "in backticks": f"Say `<tool_call>{WEATHER}</tool_call>`.",
    "behind three backticks": f"a ``` b <tool_call>{WEATHER}",
    "in a fence": f"```xml\n{WEATHER}```\n",
    "in a fence of tildes": f"~~~\n{BARE}\n~~~",
    "in an indented fence": f"- a\n  ```\n  {BARE}\n  ```\n",
    "in a fence that a shorter one does not close": f"````\n```\n{WEATHER}````",
    "in a fence that another does not close": f"```\n~~~\n{WEATHER}```",
    "on the line of a fence": f"~~~ <tool_call>{WEATHER}~~~",
    "of an undeclared function": f"a <tool_call>{WEATHER.replace('get_weather', 'nope')}</tool_call>",
    "of a bare undeclared function": WEATHER.replace("get_weather", "nope"),
    "of a bare function in a line": f"so {WEATHER}",
    "with two lines behind the tag": f"a <tool_call>\nb\nc {WEATHER}",
    "with 201 characters behind the tag": f"<tool_call>\n{'w' * 201} {WEATHER}",
    "that is never committed": "<tool_call><function=now>\nthen more",
    "that is cut before it is committed": "I <tool_call><function=now>\n",
    "that is bare and never committed": "<function=now>\nthen more",
    "with too many blanks": f"<tool_call>{' ' * 65}{WEATHER.rstrip()}",
}.items():
    loose(f"no call: {name}", text, text)
LOOSE["thinking keeps the strict form"] = (
    f"a\n{WEATHER}b <tool_call>{NOW}</think>c",
    f"a\n{WEATHER}b <tool_call>{NOW[:-1]}",
    "c",
    [],
    {},
)
LOOSE["raw thinking keeps the strict form"] = (
    f"a\n{WEATHER}</think>\n{WEATHER}",
    "",
    f"a\n{WEATHER}</think>",
    [PARIS],
    {"reasoning": False},
)
# --- words between the tags, and orphans ----------------------------------------------------------------------------
loose(
    "words before the first parameter",
    f"<tool_call>\n<function=get_weather>\nParis:\n{CITY}</function>",
    "Paris:",
    [PARIS],
)
loose(
    "words come behind the call",
    f"{HEAD}a\n<parameter=i>1</parameter>b\n<parameter=s>x{TAIL}c",
    "a\nb\nc",
    [("set", {"i": 1, "s": "x"})],
)
loose("an orphan end is swallowed", f"{WEATHER}\n </tool_call>ok", "ok", [PARIS])
loose("an orphan end in prose is text", "a\n</tool_call>\nb", "a\n</tool_call>\nb")
# --- the joint ------------------------------------------------------------------------------------------------------
FULL = f"<tool_call>\n{WEATHER}</tool_call>"
for name, (before, behind, content) in {
    "a newline is put in": ("Let me look.\n", "Done asking.", "Let me look.\nDone asking."),
    "one that is there is enough": ("Let me look.\n\n", "Done.", "Let me look.\nDone."),
    "one behind is enough": ("Let me look.\n", "\n\nDone.", "Let me look.\nDone."),
    "blanks stay": ("Let me look.\n", "  Done.", "Let me look.\n  Done."),
    "blanks alone are left": ("Let me look.\n", "  ", "Let me look.  "),
    "nothing before": ("", "Done.", "Done."),
    "blanks before": (" \n", "Done.", " Done."),
}.items():
    loose(f"joint: {name}", before + FULL + behind, content, [PARIS])
loose("joint: behind two calls", f"a\n{FULL}\n{FULL} b\n{FULL}c", "a\n b\nc", [PARIS] * 3)
# --- the reply is cut inside a closing tag --------------------------------------------------------------------------
for name, (text, value) in {
    "a parameter end": ("ls\n</para", "ls"),
    "a parameter end, early": ("ls\n</", "ls"),
    "a bracket at a line start": ("ls\n<", "ls"),
    "a function end": ("ls\n</functio", "ls"),
    "a call end": ("ls\n</t", "ls"),
    "a parameter end in a line": ("ls</par", "ls"),
    "the start of a value": ("</param", ""),
    "a tag of its own": ("<p>hi</p", "<p>hi</p"),
    "a function end in a line": ("ls</func", "ls</func"),
    "a bracket in a line": ("a <", "a <"),
}.items():
    loose(f"cut inside {name}", f"{HEAD}<parameter=s>\n{text}", "", [("set", {"s": value})])
loose("cut inside a tag behind a number", f"{HEAD}<parameter=i>3</p", "", [("set", {"i": 3})])
# --- one call at most -----------------------------------------------------------------------------------------------
loose("one call at most", f"a\n{FULL}b\n{FULL}c\n{WEATHER}d", "a\nb\nc\nd", [PARIS], max_calls=1)
loose("one call at most, and it is one", FULL, "", [PARIS], max_calls=1)
# --- values that say nothing ----------------------------------------------------------------------------------------
for name in ("i", "n", "b", "a", "o"):
    loose(f"nothing in {name}", f"{HEAD}<parameter={name}>\n{TAIL}", "", [("set", {})])
    loose(f"a blank in {name}", f"{HEAD}<parameter=s>x</parameter><parameter={name}> {TAIL}", "", [("set", {"s": "x"})])
