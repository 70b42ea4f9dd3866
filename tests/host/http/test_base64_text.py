"""Base64 in every spelling against the WHATWG's rule, written down step by step, wherever the text is cut."""

from __future__ import annotations

import base64
import json
import os
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.host.http.base64_text import Decoder
from support.costs import assert_cheap, cost


def plainly(text: bytes) -> bytes | None:
    """Infra standard, section 4.6, "forgiving-base64 decode", step by step; None is failure."""
    text = re.sub(rb"[\t\n\f\r ]", b"", text)
    text = text.replace(b"-", b"+").replace(b"_", b"/")
    if len(text) % 4 == 0:
        text = re.sub(rb"={1,2}\Z", b"", text)
    if len(text) % 4 == 1 or re.search(rb"[^A-Za-z0-9+/]", text):
        return None
    places = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bits = "".join(f"{places.index(letter):06b}" for letter in text)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))


def decoded(text: bytes, cuts: list[int], *, uri: bool = False, escaped: bool = False) -> bytes | None:
    decoder = Decoder(uri=uri, escaped=escaped)
    ends = [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    try:
        made = [decoder.feed(text[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        return b"".join([*made, decoder.finish()])
    except ValueError:
        return None


written = st.text("AZaz09+/=-_ \t\r\n\f%2B\v!", max_size=30).map(str.encode)
encoded = st.binary(max_size=40).map(base64.encodebytes)
changed = st.tuples(encoded, st.sampled_from([(b"=", b""), (b"\n", b"\r\n"), (b"+", b"-"), (b"A", b"%41"), (b"", b"")]))
texts = st.one_of(written, encoded, changed.map(lambda pair: pair[0].replace(*pair[1])))
cutting = st.lists(st.integers(0, 200), max_size=6)


@settings(max_examples=1500, derandomize=True, database=None, deadline=None)
@given(texts, cutting)
def test_any_text_is_read_as_the_rule_says_wherever_it_is_cut(text: bytes, cuts: list[int]) -> None:
    assert decoded(text, cuts) == plainly(text)
    assert decoded(text, cuts, uri=True) == plainly(unquote_to_bytes(text))
    escaped = json.dumps(text.decode()).strip('"').encode()
    assert decoded(escaped, cuts, escaped=True) == plainly(text)
    by_number = b"".join(b"\\u%04x" % letter for letter in text)
    assert decoded(by_number, cuts, escaped=True, uri=True) == plainly(unquote_to_bytes(text))


@pytest.mark.parametrize(
    ("text", "means"),
    [
        # what other readers disagree about
        ("", b""),
        ("YQ", b"a"),
        ("YQ==", b"a"),
        ("YQ=", None),
        ("YQ===", None),
        # a vertical tab is no whitespace there, and two characters are looked at last
        ("\v\v", None),
        ("YWJj\v\v", None),
        ("Y", None),
        ("=", None),
        ("====", None),
        ("YWJj====", None),
        ("YQ==YQ==", None),
        ("Y Q\n=\t=\r\n", b"a"),
        ("YR==", b"a"),
        ("YQ==\v", None),
        ("YQ==\u00a0", None),
        ("-_-_", base64.b64decode("+/+/")),
        ("-/+_", base64.b64decode("+/+/")),
        ("%59%51%3D%3d", None),
    ],
)
def test_the_rule(text: str, means: bytes | None) -> None:
    assert decoded(text.encode(), []) == means == plainly(text.encode())


def test_a_data_uri_is_percent_encoded_and_a_string_of_json_escaped() -> None:
    assert decoded(b"%59%51%3D%3d", [1, 2, 5], uri=True) == b"a"
    assert decoded(rb"\u0059\/\n\t8=", [1, 3, 7, 9], escaped=True) == base64.b64decode("Y/8=")
    # neither half an escape nor one that does not exist
    for text in (rb"YQ==\u00", b"YQ==\\", rb"YQ\x3d=", b'YQ=\\"=', rb"YQ\\=="):
        assert decoded(text, [], escaped=True) is None
    assert decoded(b"YWJj%4", [], uri=True) is None


def test_lines_of_base64_cost_little_more_than_one() -> None:
    data = os.urandom(3_000_000)
    plain, wrapped = base64.b64encode(data), base64.encodebytes(data)
    assert decoded(plain, []) == decoded(wrapped, []) == data
    assert_cheap(lambda: decoded(wrapped, []), beside=cost(lambda: decoded(plain, [])), times=12, what="one line")
