"""Keyword rules: what a keyword matches, how weights decide, and linear time for every text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from skd_edge.labels.sources.keyword_rules import normalise_words, rule_votes
from skd_edge.recipe.labels import KeywordRule


def vote(rules, clip="x.mp4", **texts):
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
        ("c++", "a c film", True),  # punctuation is ignored
        ("(a+)+$", "a" * 30, False),  # a keyword is not a regular expression
    ],
)
def test_a_keyword_is_whole_words_in_any_case(keyword, text, found):
    assert vote([{"label": "yes", "any": (keyword,), "within": ("title",)}], title=text) == {
        "rules": "yes" if found else ""
    }


def test_any_all_and_none():
    rule = {"label": "punch", "any": ("box", "punch"), "all": ("ring",), "none": ("video game",), "within": ("title",)}
    assert vote([rule], title="box in a ring") == {"rules": "punch"}
    assert vote([rule], title="box") == {"rules": ""}
    assert vote([rule], title="punch ring (Video Game)") == {"rules": ""}


def test_the_texts_that_a_rule_searches():
    rule = {"label": "a", "any": ("wave",)}
    assert vote([rule], "wave/1.mp4") == {"rules": ""}  # file: the file name only
    assert vote([rule], "1/wave_2.mp4") == {"rules": "a"}
    assert vote([rule | {"within": ("path",)}], "wave/1.mp4") == {"rules": "a"}
    assert vote([rule | {"within": ("tags",)}], "wave.mp4") == {"rules": ""}  # the clip has no such column
    phrase = {"label": "a", "any": ("hand wave",), "within": ("title", "tags")}
    assert vote([phrase], title="by hand", tags="wave") == {"rules": ""}  # a phrase does not match across two texts


def test_the_higher_sum_of_weights_wins_and_equal_sums_abstain():
    a, b = {"label": "a", "any": ("x",)}, {"label": "b", "any": ("y",), "weight": 2.0}
    assert vote([a, b], "x y.mp4") == {"rules": "b"}
    assert vote([a, a, b], "x y.mp4") == {"rules": ""}
    assert vote([a, b | {"voter": "titles"}], "x y.mp4") == {"rules": "a", "titles": "b"}
    tenths = [{"label": "a", "any": ("x",), "weight": 0.1}] * 3
    assert vote([*tenths, {"label": "b", "any": ("x",), "weight": 0.3}], "x.mp4") == {"rules": ""}


@pytest.mark.parametrize(
    "rule", [{"label": "a"}, {"label": "a", "any": ["--"]}, {"label": "a", "any": ["x"], "weight": 0}]
)
def test_a_rule_without_keywords_or_weight_is_an_error(rule):
    with pytest.raises(ValidationError):
        KeywordRule.model_validate(rule)


@given(st.text(max_size=60), st.text(max_size=12).filter(lambda t: any(c.isalnum() for c in t)))
def test_any_text_and_any_keyword(text, keyword):
    rule = {"label": "a", "any": (keyword,), "within": ("title",)}
    assert vote([rule], title=text)["rules"] in ("", "a")
    if normalise_words(keyword).strip():
        assert vote([rule], title=f"{text} {keyword} {text}")["rules"] == "a"
    assert normalise_words(normalise_words(text)) == normalise_words(text)


def test_a_long_text_is_searched_in_linear_time():
    began = time.perf_counter()
    vote([{"label": "a", "any": ("a a a a b",) * 20, "within": ("title",)}], title="a " * 200_000)
    assert time.perf_counter() - began < 60  # only a search that backtracks needs longer
