"""Names from strangers are shown and cannot act: on a terminal, in JSON, in Markdown."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.untrusted.text import (
    escape_error,
    escape_markdown,
    escape_name,
    escape_text,
    print_error,
    print_progress,
    print_text,
)

HARMFUL = {
    "an escape sequence": ("a\x1b[2K\rb", r"a\u001b[2K\u000db"),
    "a C1 control": ("a\x9b2Kb", r"a\u009b2Kb"),
    "delete": ("a\x7fb", r"a\u007fb"),
    "another order": ("a\u202egpj.exe", r"a\u202egpj.exe"),
    "an isolate": ("a\u2066b\u2069", r"a\u2066b\u2069"),
    "a line separator": ("a\u2028b\u2029\x85", r"a\u2028b\u2029\u0085"),
    "no width": ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
    "bytes that are no UTF-8": (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
    "a tag": ("a\U000e0041", r"a\udb40\udc41"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_what_is_not_printable_is_shown_as_json_writes_it(name):
    given_text, expected = HARMFUL[name]
    assert escape_name(given_text) == escape_text(given_text) == expected
    assert json.loads(f'"{expected}"') == given_text


@pytest.mark.parametrize("name", ["Straße", "日本語", "می‌خواهم", "👩‍🔬", "3 h", "a b", "Ωmega µ – “x”"])
def test_names_of_any_language_stay(name):
    assert escape_name(name) == escape_text(name) == name


@given(st.text(st.characters()))
def test_nothing_harmful_is_left(text):
    for escaped in (escape_name(text), escape_text(text), escape_markdown(text), escape_error(text)):
        escaped.encode()  # no surrogates
        assert not any((c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0" for c in escaped)
        assert not any("\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" for c in escaped)
    assert len(escape_name(text).splitlines()) <= 1
    assert json.loads(escape_text(json.dumps({"name": text}))) == {"name": text}


def test_line_breaks_between_our_lines_stay_and_a_name_has_none():
    assert escape_text("a\n  b\tc") == "a\n  b\tc"
    assert escape_name("a\nskd-edge: ok\tc") == r"a\u000askd-edge: ok\u0009c"
    assert escape_error("x failed:\n  one\nskd-edge: ok") == "x failed:\n  one\\u000askd-edge: ok"


@pytest.mark.parametrize("text", ["a|b", "`rm`", "<img src=x>", "[x](http://y)", "# a", "> a", "- a", "~~a~~", "&lt;"])
def test_markdown_stays_text(text):
    escaped = escape_markdown(f"{text}\n\n# forged \x1b[2K")
    assert "\n" not in escaped
    assert "\x1b" not in escaped
    assert escaped.startswith(("\\", "a\\"))


def test_the_doors_escape_and_never_fail_on_an_encoding(monkeypatch):
    for encoding in ("utf-8", "ascii"):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        print_text("ä\x1b\udcff\nb")
        print_error("ä\x1b\nforged", "\nhint")
        print_progress("ä\r\n", last=True)
        letter = "ä" if encoding == "utf-8" else "\\xe4"
        assert out.buffer.getvalue().decode() == f"{letter}\\u001b\\udcff\nb\n"
        assert err.buffer.getvalue().decode() == f"{letter}\\u001b\\u000aforged\nhint\n\r{letter}\\u000d\\u000a\n"
