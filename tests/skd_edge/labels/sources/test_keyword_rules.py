"""Keyword rules: what a rule finds, how rules weigh against each other, and that nothing in a text can hang them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from skd_edge.labels.sources.keyword_rules import normalise_words, rule_votes
from skd_edge.recipe.labels import KeywordRule


def said(rules, clip="x.mp4", **texts):
    votes = rule_votes([KeywordRule(**r) for r in rules], [clip], {clip: texts})
    return {voter: column[0] for voter, column in votes.items()}


@pytest.mark.parametrize(
    ("keyword", "text", "found"),
    [
        ("wave", "a Wave, by hand", True),
        ("wave", "waves", False),
        ("wav*", "WAVING", True),
        ("wav*", "airwave", False),
        ("eye makeup", "v_ApplyEyeMakeup_g01_c01", True),
        ("ApplyEyeMakeup", "apply eye-makeup", True),
        ("eye makeup", "eye. other makeup", False),
        ("straße", "STRASSE", True),
        ("ﬁre", "fire 2", True),
        ("挥手", "挥手 2", True),
        ("c++", "a c film", True),  # signs are no letters
        ("(a+)+$", "a" * 30, False),  # and no regular expression
    ],
)
def test_a_keyword_is_whole_words_in_any_case(keyword, text, found):
    assert said([{"label": "yes", "any": (keyword,), "within": ("title",)}], title=text) == {
        "rules": "yes" if found else ""
    }


def test_any_all_and_none():
    rule = {"label": "punch", "any": ("box", "punch"), "all": ("ring",), "none": ("video game",), "within": ("title",)}
    assert said([rule], title="box in a ring") == {"rules": "punch"}
    assert said([rule], title="box") == {"rules": ""}
    assert said([rule], title="punch ring (Video Game)") == {"rules": ""}


def test_where_it_looks():
    rule = {"label": "a", "any": ("wave",)}
    assert said([rule], "wave/1.mp4") == {"rules": ""}  # file: the name alone
    assert said([rule], "1/wave_2.mp4") == {"rules": "a"}
    assert said([rule | {"within": ("path",)}], "wave/1.mp4") == {"rules": "a"}
    assert said([rule | {"within": ("tags",)}], "wave.mp4") == {"rules": ""}  # a column that this clip does not have
    phrase = {"label": "a", "any": ("hand wave",), "within": ("title", "tags")}
    assert said([phrase], title="by hand", tags="wave") == {"rules": ""}  # no phrase runs from one text into the next


def test_the_heavier_side_wins_and_a_tie_abstains():
    a, b = {"label": "a", "any": ("x",)}, {"label": "b", "any": ("y",), "weight": 2.0}
    assert said([a, b], "x y.mp4") == {"rules": "b"}
    assert said([a, a, b], "x y.mp4") == {"rules": ""}
    assert said([a, b | {"voter": "titles"}], "x y.mp4") == {"rules": "a", "titles": "b"}
    tenths = [{"label": "a", "any": ("x",), "weight": 0.1}] * 3
    assert said([*tenths, {"label": "b", "any": ("x",), "weight": 0.3}], "x.mp4") == {"rules": ""}


@pytest.mark.parametrize(
    "rule", [{"label": "a"}, {"label": "a", "any": ["--"]}, {"label": "a", "any": ["x"], "weight": 0}]
)
def test_a_rule_that_says_nothing_is_refused(rule):
    with pytest.raises(ValidationError):
        KeywordRule.model_validate(rule)


@given(st.text(max_size=60), st.text(max_size=12).filter(lambda t: any(c.isalnum() for c in t)))
def test_any_text_and_any_keyword(text, keyword):
    rule = {"label": "a", "any": (keyword,), "within": ("title",)}
    assert said([rule], title=text)["rules"] in ("", "a")
    if normalise_words(keyword).strip():
        assert said([rule], title=f"{text} {keyword} {text}")["rules"] == "a"
    assert normalise_words(normalise_words(text)) == normalise_words(text)


def test_a_long_text_takes_no_time_to_speak_of():
    began = time.perf_counter()
    said([{"label": "a", "any": ("a a a a b",) * 20, "within": ("title",)}], title="a " * 200_000)
    assert time.perf_counter() - began < 60  # a search that backtracks would not end in a lifetime
