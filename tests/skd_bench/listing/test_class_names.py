"""A class has one name, whichever program wrote it."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from skd_bench.listing.class_names import normalise_class_name


def test_both_forms_of_an_accent_are_one_class():
    assert normalise_class_name(" caf\u0065\u0301 ") == normalise_class_name("caf\u00e9") == "caf\u00e9"
    assert normalise_class_name("Run") != normalise_class_name("run")


@given(st.text())
def test_the_form_is_stable_and_does_not_depend_on_the_form_given(text):
    name = normalise_class_name(text)
    assert normalise_class_name(name) == name
    for form in ("NFC", "NFD"):
        assert normalise_class_name(unicodedata.normalize(form, text)) == name
