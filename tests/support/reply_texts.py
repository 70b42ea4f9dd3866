"""Made-up replies: tools of all types, well-formed replies, broken ones, and noise made of the grammar's own pieces."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from sglang_nemotron.reply.schema import check_tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
EVERYTHING = {
    "type": "function",
    "function": {
        "name": "set",
        "parameters": {
            "type": "object",
            "$defs": {
                "Point": {"type": "object", "properties": {"x": {"type": "number"}}},
                "Label": {"type": "string"},
            },
            "properties": {
                "s": {"type": "string"},
                "i": {"type": "integer"},
                "n": {"type": "number"},
                "b": {"type": "boolean"},
                "a": {"type": "array", "items": {"type": "integer"}},
                "o": {"type": "object"},
                "z": {"type": "null"},
                "e": {"enum": ["low", "high", 3, None]},
                "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "either": {"type": ["string", "integer", "array"]},
                "point": {"$ref": "#/$defs/Point"},
                "label": {"$ref": "#/$defs/Label"},
                "free": {},
            },
        },
    },
}
BARE = {"type": "function", "function": {"name": "now"}}
# a name that begins another one
LONGER = {"type": "function", "function": {"name": "set_all", "parameters": {"type": "object", "properties": {}}}}
OPENAI_TOOLS = [WEATHER, EVERYTHING, BARE, LONGER]
TOOLS = check_tools(OPENAI_TOOLS)

TAGS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "</function>",
    "</parameter>",
    "<parameter=",
    "<function=",
]
PIECES = [
    *TAGS,
    "<tool_call>\n<function=get_weather>\n",
    "<tool_call>\n<function=set>",
    "<tool_call>\n<function=set_all>\n",
    "<tool_call>\n<function=nope>\n",
    "\n</parameter>\n</function>\n</tool_call>",
    "</function>\n</tool_call>\n",
    "\n</parameter>\n",
    "<parameter=city>\n",
    "<parameter=s=",
    "<parameter=s>\n",
    "<parameter=i>",
    "<parameter=o>\n",
    "<parameter=maybe>\n",
    "<parameter=either>\n",
    "<parameter=unknown>\n",
    # calls as models really write them, and what makes them prose
    "<tool_call><function=get_weather><parameter=city>",
    "<tool_call> so <function=set>",
    "<function=now>\n</function>\n",
    "\n<function=set>\n<parameter=s>\n",
    "  <function=set_all>\n  </function>",
    "\n</parameter>\n</parameter>\n",
    "\n</parameter>\n</function>\n",
    "\n</parameter>\nwords\n</function>",
    # tags that are indented, calls on one line, and markup of a value's own
    "\n  </parameter>\n  </function>\n",
    "\n\t</parameter>\n",
    "</parameter></function></function>",
    "</parameter></function> and <function=now></function>",
    "</function> then <function=set><parameter=s>",
    "<tool_call>\n{}\n</tool_call>",
    "words",
    "\nwords\n",
    "w" * 201,
    '<parameter name="q">',
    "<parameter name='q'/>",
    "\n```\n",
    "\n~~~~ xml\n",
    "```",
    "</para",
    *("\n", "\n\n", " ", "\t\r\n", "<", "</", "<t", "<p", ">", "=", "`", " " * 66, "\n" * 65),
    *(
        "Paris",
        "set",
        "42",
        "-1.5",
        "null",
        "true",
        "None",
        "[1, 2]",
        '{"a": "b"}',
        '"',
        "\\",
        "\u0000",
        "é",
        "🦊",
        "日本",
        "9" * 25,
    ),
    "a < b </p> <b>x</b>\n",
]
VALUES = [
    *(
        "",
        "Paris",
        "42",
        "007",
        "-3.50",
        "1e5",
        "true",
        "False",
        "null",
        "None",
        "C",
        "high",
        "3",
        " x ",
        "\n\n",
        "🦊é",
    ),
    *(
        "[1, 2, 3]",
        "[1, 2",
        '{"a": {"b": [true, null]}}',
        "{'a': 1}",
        '{"text": "line\nline"}',
        "[" * 50,
        "NaN",
        "1" * 50,
    ),
    *(
        "</parameter>",
        "x</parameter>y",
        "a\n</parameter>\nb",
        "</function>",
        "a\n</function>\nb",
        "</tool_call>",
        "<b>x</b>",
    ),
    *(
        "see <parameter=days> here",
        "a\n<parameter=nope>\nb",
        "<tool_call>",
        "a\n<tool_call>\nb",
        "<think>no</think>",
        "a<",
    ),
    "before\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>\nafter",
    "<function>\n<parameter>\n</parameter>\n</function>\n",
    'def f():\n    return "\\"quoted\\""\n',
    "True",
    "  ",
    "-" + "8" * 40,
    "7" * 4400,
    "a\n</parameter>\n</function>\nb",
    "a\n</parameter>\nb\n</function>",
    "a\n</parameter>\n</parameter>\nb",
    "see </parameter></function> here",
    '<parameter name="q">v</parameter>',
    '<parameter name="q">\nv\n</parameter>\n</function>\nx',
    "<parameter=city>\na\n</parameter>\n<parameter=zip>\nb\n</parameter>",
    "a\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\nb",
    "so <tool_call><function=now></function></tool_call> b",
    "a <tool_call>\nb",
    '<tool_call>\n{"name": "now"}\n</tool_call>\nb',
    'a\n  <parameter name="q">\n  v\n  </parameter>\n  b',
    "a </parameter></function></function> b",
    "a </parameter></function> and <function=nope></function>",
    '<parameter name="q">v',
    "</para",
    "a\n</f",
]
PROSE = [
    *(
        "",
        "Hello.",
        "Two\nlines.",
        "ends with a line\n",
        "\n",
        "\n\n",
        "a `<tool_call>` in prose",
        "<tool_call>\nnot a call",
    ),
    *(
        "```xml\n<tool_call>\n<function=nope>\n</function>\n</tool_call>\n```",
        "<function=get_weather> alone",
        "x < y",
        "🦊",
    ),
    *(
        "a <think> tag",
        "mid </think> line",
        "say <parameter=city>\nRome\n</parameter>",
        "</tool_call>",
        "\n<",
        "<tool_cal",
        "I look.",
        "  ",
        "Say `<tool_call>` here",
        "a ` b",
        "```xml\n<tool_call><function=now></function></tool_call>\n```",
        "```\ncode",
        "~~~\n<function=now>\n</function>\n~~~~",
        "```ls```",
        "\n</tool_call>",
        "    indented",
    ),
]


def noise() -> st.SearchStrategy[str]:
    """Pieces of the grammar in any order."""
    return st.lists(st.sampled_from(PIECES), max_size=24).map("".join)


def written(pick: random.Random) -> str:
    """A reply as the template writes it, now and then with a tag missing, doubled, displaced or quoted."""

    def rarely(text: str, *instead: str) -> str:
        return text if pick.random() < 0.93 else pick.choice(instead)

    out = [
        pick.choice(PROSE),
        rarely("\n</think>\n", "", "</think>", "\n</think>\n\n"),
        pick.choice(PROSE),
    ]
    for _ in range(pick.choice([0, 1, 1, 2, 3])):
        tool = pick.choice(TOOLS)
        out += [
            rarely("\n", "", "  ", "\n  ", "`", "\n```\n", "so "),
            rarely("<tool_call>\n", "<tool_call>", "", "<tool_call>\nLet me see.\n", "<tool_call> \n\n "),
            rarely(f"<function={tool.name}>\n", "<function=set>", f"<function={tool.name}>"),
        ]
        declared = list((tool.parameters or {}).get("properties", {})) or ["free"]
        out.append(rarely("", " ", "\n \n", " " * 65, "words\n"))
        names = pick.sample(declared, min(len(declared), pick.choice([0, 1, 2, 4])))
        if names and pick.random() < 0.1:
            names.insert(pick.randrange(len(names) + 1), pick.choice(names))
        for name in names:
            tag = f"<parameter={name}"
            out += [rarely(f"{tag}>\n", f"{tag}>", f"  {tag}>\n", f"{tag}=", f"{tag}=x>\n", f"{tag}=x > y")]
            out += [pick.choice(VALUES), rarely("\n</parameter>\n", "", "\n", "</parameter>", *BEHIND_VALUES)]
        out.append(rarely("", " ", "\n\t\n", "odd", "odd\n"))
        out += [
            rarely("</function>\n", "", "</function>", "  </function>  \n", "</function>\n</function>\n"),
            rarely("", "ok\n", "<function=now>\n</function>\n", "and <function=now></function>"),
            rarely("</tool_call>", "", "</tool_call>\n</tool_call>", "</tool"),
            pick.choice(PROSE),
        ]
    return "".join(out)


BEHIND_VALUES = (
    "\n</parameter>\n</parameter>\n",
    "\n</parameter>\nwords\n",
    "\n</parameter>\ntwo\nlines\n",
    "\n  </parameter>\n",
    "</parameter> words ",
    "\n</para",
    "\n  </parameter>\n  </parameter>\n",
    "\n  </parameter>\n  words\n",
    "</parameter></function>",
    "</parameter></function></function>",
    "</parameter></function>, then <function=now></function>",
)


def made(seed: int) -> str:
    """A reply as `written`, whole, cut off anywhere, or cut off inside a tag."""
    pick = random.Random(seed)
    text = written(pick)
    tags = [at for at, character in enumerate(text) if character == "<"]
    match pick.randrange(5):
        case 0:
            return text[: pick.randrange(len(text) + 1)]
        case 1 if tags:
            return text[: pick.choice(tags) + pick.randrange(16)]
    return text


def replies() -> st.SearchStrategy[str]:
    """Replies as `made`."""
    return st.integers(0, 2**32 - 1).map(made)


# whitespace, words and names of about the longest kind
BOUNDS = [
    *TAGS[2:6],
    *(
        "<parameter=s>",
        "<parameter=i>",
        "<parameter=s=",
        "<function=now>",
        "<tool_call>\n<function=set>\n",
        "\n</parameter>\n",
    ),
    *("\n", "\t", "\r", " " * 63, " " * 64, " " * 65, " " * 70, "\n" * 64, "w" * 130, "w" * 199, "w" * 200, "w" * 201),
    *("w", "w w", "x\n", "<", "< b", "<func", "</par", "`", "```", "\n```\n", "~~~"),
]


def tight(seed: int) -> str:
    """Content near the bounds of what is looked ahead."""
    pick = random.Random(seed)
    head = "" if pick.random() < 0.5 else f"<tool_call>\n<function=set>\n<parameter={pick.choice('siab')}>\n"
    tail = "" if pick.random() < 0.7 else "<function=now>\n</function>\n</tool_call>"
    return head + "".join(pick.choice(BOUNDS) for _ in range(pick.randrange(3, 16))) + tail


def cuttings(text: str, seed: int) -> list[list[str]]:
    """The text in single characters, and at random cuts, with empty pieces now and then."""
    pick = random.Random(seed)
    pieces, at = [], 0
    while at < len(text):
        size = pick.choice([0, 1, 1, 2, 3, 7, 20])
        pieces.append(text[at : at + size])
        at += size
    return [list(text), pieces]
