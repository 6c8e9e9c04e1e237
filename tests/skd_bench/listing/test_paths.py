"""Paths of lists are found whichever program wrote them, and names are valid Unicode."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from skd_bench.listing.paths import format_path_name, resolve_listed_path


@given(st.binary(max_size=40).filter(lambda raw: b"\0" not in raw and b"\\" not in raw))
def test_every_name_of_a_file_system_becomes_valid_unicode(raw):
    name = format_path_name(os.fsdecode(raw))
    assert json.loads(json.dumps(name)) == name
    assert re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), name.encode()) == raw


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_names_in_utf8_are_not_changed(name):
    assert format_path_name(name) == name


def test_the_separator_of_windows(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.AVI").touch()
    (tmp_path / "b\\2.mp4").touch()  # a legal name here
    assert resolve_listed_path(tmp_path, "a\\1.AVI") == (tmp_path / "a/1.AVI", "a/1.AVI")
    assert resolve_listed_path(tmp_path, "b\\2.mp4") == (tmp_path / "b\\2.mp4", "b\\2.mp4")
    assert resolve_listed_path(tmp_path, "c\\3.mp4") == (tmp_path / "c/3.mp4", "c/3.mp4")
    assert resolve_listed_path(tmp_path, "c/3.mp4") == (tmp_path / "c/3.mp4", "c/3.mp4")


def test_a_file_in_the_other_unicode_form_is_found(tmp_path):
    composed, decomposed = "caf\u00e9.mp4", unicodedata.normalize("NFD", "caf\u00e9.mp4")
    (tmp_path / decomposed).touch()
    assert resolve_listed_path(tmp_path, composed) == (tmp_path / decomposed, composed)


@given(st.text(max_size=300))
def test_no_text_of_a_list_ends_in_an_error(text):
    resolve_listed_path(Path("nowhere"), text)
