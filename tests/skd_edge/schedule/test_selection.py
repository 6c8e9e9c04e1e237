"""The choice of a candidate: constraints, then a budget with non-inferiority, or an exchange rate."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.stats import paired_difference
from skd_edge.recipe.sections import SelectionRule
from skd_edge.schedule.choice_metric import ChoiceMetric
from skd_edge.schedule.selection import CandidateMetrics, Decision, find_pareto_front, select_candidate

N = 400
GROUPS = np.arange(N)


def on_clips(groups: np.ndarray) -> ChoiceMetric:
    """Accuracy on clips of one class, class 0."""
    return ChoiceMetric("accuracy", np.zeros(len(groups), np.int64), groups)


def candidate(
    name: str, ms: float, correct: np.ndarray, f1: float, megabytes: float, *rest: object
) -> CandidateMetrics:
    """A candidate that answers 0 where it is correct, else 1."""
    share = float(correct.mean())
    return CandidateMetrics(name, ms, share, (~correct).astype(np.int64), share, f1, megabytes, *rest)


def measured(name: str, ms: float, right: int, *, first: int = 0, n: int = N, **kw: object) -> CandidateMetrics:
    """A candidate right on ``right`` clips in a row, starting at ``first`` (around the end)."""
    correct = np.zeros(n, bool)
    correct[(first + np.arange(right)) % n] = True
    return replace(candidate(name, ms, correct, right / n, 1.0), **kw)


def choose(candidates, budget=None, **rule) -> Decision:
    return select_candidate(candidates, SelectionRule(**rule), budget, on_clips(GROUPS))


# ------------------------------------------------------------------------------------------ with a budget
def test_the_most_accurate_within_the_budget_is_chosen():
    small, mid, big = measured("small", 1, 200), measured("mid", 4, 300), measured("big", 9, 380)
    decision = choose([small, mid, big], budget=5.0)
    assert decision.chosen == "mid"
    assert "over the budget of 5.00 ms" in decision.reasons["big"]
    assert "not shown to be within" in decision.reasons["small"]
    assert decision.reasons["mid"] == decision.why
    assert choose([small, mid, big], budget=9.0).chosen == "big"


def test_a_faster_candidate_that_is_shown_to_be_as_good_is_chosen():
    best, twin = measured("best", 4, 300), measured("twin", 2, 299)
    decision = choose([best, twin], budget=5.0, margin=1.0)
    assert decision.chosen == "twin"
    assert "2.00 x faster than the most accurate (best)" in decision.why
    assert "as good within 1 points and faster" in decision.reasons["best"]
    assert choose([best, twin], budget=5.0, margin=0.0).chosen == "best"


def test_equal_accuracy_on_other_clips_is_not_shown_to_be_as_good():
    """It is one point behind, but it errs on other clips, so the paired interval is wide."""
    best, other = measured("best", 4, 300), measured("other", 2, 299, first=150)
    assert choose([best, other], budget=5.0, margin=1.0).chosen == "best"
    assert choose([best, other], budget=5.0, margin=30.0).chosen == "other"


def test_a_candidate_that_is_slower_and_less_accurate_than_another_is_not_chosen():
    """``close`` is shown to be as good as ``best``, ``quick`` is not; but ``quick`` is faster and more accurate."""
    best, quick, close = measured("best", 4, 300), measured("quick", 1, 299, first=150), measured("close", 2, 298)
    assert choose([best, quick], budget=5.0).chosen == choose([best, quick, close], budget=5.0).chosen == "best"
    assert choose([best, close], budget=5.0, margin=1.5).chosen == "close"


def test_groups_widen_the_interval():
    """Clips of the same source video are not independent, so few videos give a wide interval."""
    rng = np.random.default_rng(0)
    best = measured("best", 4, 300)
    miss = best.predictions == 0
    miss[:3] = False
    twin = candidate("twin", 2.0, miss, 0.75, 1.0)
    assert select_candidate([best, twin], SelectionRule(margin=2.0), 5.0, on_clips(GROUPS)).chosen == "twin"
    grouped = np.concatenate([np.zeros(100, np.int64), rng.integers(1, 4, N - 100)])
    interval = paired_difference((best.predictions == 0).astype(float), miss.astype(float), grouped.tolist())
    assert 100 * interval.high > 2.0
    assert select_candidate([best, twin], SelectionRule(margin=2.0), 5.0, on_clips(grouped)).chosen == "best"


def test_nothing_is_chosen_if_nothing_is_within_the_budget():
    decision = choose([measured("a", 3, 300), measured("b", 2, 200)], budget=1.0)
    assert decision.chosen is None
    assert decision.why == "no candidate meets the constraints; the fastest is b with 2.00 ms"
    assert set(decision.reasons) == {"a", "b"}
    assert choose([], budget=1.0).chosen is None
    assert choose([]).chosen is None


# ------------------------------------------------------------------------------------------ without a budget
def test_a_slower_candidate_must_gain_enough_accuracy():
    """Twice the latency is 7.3 steps of 10 %; at half a point for each step, it must gain 3.64 points."""
    slow = 2 * 1.0
    tenths = math.log(2) / math.log(1.1)
    enough, short = math.ceil(0.5 * tenths / 100 * N), math.floor(0.5 * tenths / 100 * N)
    base = measured("base", 1.0, 200)
    assert choose([base, measured("up", slow, 200 + enough)]).chosen == "up"
    decision = choose([base, measured("up", slow, 200 + short)])
    assert decision.chosen == "base"
    assert "the recipe requires 0.5" in decision.reasons["up"]
    assert choose([base, measured("up", slow, 200 + short)], exchange=0.1).chosen == "up"


def test_a_poor_candidate_is_skipped():
    base, poor, good = measured("base", 1, 200), measured("poor", 2, 204), measured("good", 2.2, 300)
    decision = choose([base, poor, good])
    assert decision.chosen == "good"
    assert "over base" in decision.why


def test_the_ratio_of_accuracy_to_latency_is_not_the_criterion():
    tiny, good = measured("tiny", 1, 280), measured("good", 3, 340)
    assert tiny.accuracy / tiny.p50_ms > good.accuracy / good.p50_ms
    assert choose([tiny, good]).chosen == "good"
    assert choose([tiny, good], budget=4.0).chosen == "good"


# ------------------------------------------------------------------------------------------ constraints
@pytest.mark.parametrize(
    ("rule", "change", "word"),
    [
        ({"min_accuracy": 0.8}, {"accuracy": 0.79}, "min_accuracy"),
        ({"min_macro_f1": 0.8}, {"macro_f1": 0.79}, "min_macro_f1"),
        ({"max_megabytes": 2.0}, {"megabytes": 2.01}, "max_megabytes"),
        ({"max_joules": 0.02}, {"joules": 0.021}, "0.021 J a clip is over max_joules 0.02"),
        ({"max_joules": 0.02}, {"joules": None}, "joules were not measured"),
        ({}, {"rejection_reason": "agreement 0.5 with FP32"}, "agreement 0.5"),
    ],
)
@pytest.mark.parametrize("budget", [None, 10.0])
def test_a_candidate_that_violates_a_constraint_is_never_chosen(rule, change, word, budget):
    good = measured("good", 5, 330, joules=0.012)
    out = replace(measured("out", 1, 390), **change)
    decision = choose([good, out], budget, **rule)
    assert decision.chosen == "good"
    assert word in decision.reasons["out"]
    assert (
        choose([good, replace(out, rejection_reason=None, accuracy=0.9, macro_f1=0.9, megabytes=1.0)], budget).chosen
        == "out"
    )
    assert choose([out], budget, **rule).chosen is None


# ------------------------------------------------------------------------------------------ the metric
def test_the_metric_of_the_recipe_decides_not_accuracy():
    """``lazy`` knows only the largest class and has the higher accuracy."""
    labels = np.repeat([0, 1, 2], [300, 50, 50])
    fair = np.where(np.arange(N) % 4 == 0, (labels + 1) % 3, labels)

    def decide(metric, budget):
        clips = ChoiceMetric(metric, labels, GROUPS)
        shares = {"lazy": np.zeros(N, np.int64), "fair": fair}
        rows = [
            CandidateMetrics(name, ms, clips.compute_value(p), p, float((p == labels).mean()), 0.5, 1.0)
            for (name, p), ms in zip(shares.items(), (2.0, 2.1), strict=True)
        ]
        return select_candidate(rows, SelectionRule(metric=metric), budget, clips)

    for budget in (5.0, None):
        assert decide("accuracy", budget).chosen == "lazy"
        for metric in ("balanced", "macro-f1"):
            decision = decide(metric, budget)
            assert decision.chosen == "fair"
            assert set(decision.pareto_front) == {"lazy", "fair"}
    decision = decide("balanced", 5.0)
    assert decision.why.startswith("the one with the highest balanced accuracy within the budget")
    assert decision.reasons["lazy"].startswith("fair is ahead by +41.7 points")


def test_a_faster_candidate_must_be_shown_to_be_as_good_by_the_metric():
    """It loses two clips of 400, but they are two of the five of a class: 13 points of balanced accuracy."""
    labels = np.repeat([0, 1, 2], [300, 95, 5])
    best, rare = labels.copy(), labels.copy()
    rare[-2:] = 0
    rows = [
        CandidateMetrics("best", 2.0, 1.0, best, 1.0, 1.0, 1.0),
        CandidateMetrics("quick", 1.0, 0.86, rare, 0.995, 1.0, 1.0),
    ]
    rule = SelectionRule(margin=2.0, metric="accuracy")
    assert select_candidate(rows, rule, 5.0, ChoiceMetric("accuracy", labels, GROUPS)).chosen == "quick"
    assert select_candidate(rows, rule, 5.0, ChoiceMetric("balanced", labels, GROUPS)).chosen == "best"


# ------------------------------------------------------------------------------------------ properties
@st.composite
def problems(draw):
    """Similar candidates, so that every branch of the rule is reached; a rule, a budget and groups."""
    n, rng = draw(st.sampled_from([20, 60])), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base = rng.random(n)
    candidates = []
    for i in range(draw(st.integers(1, 5))):
        correct = base + rng.normal(0, draw(st.sampled_from([0.0, 0.05, 0.3])), n) < draw(st.floats(0.3, 0.9))
        ms, f1 = draw(st.sampled_from([0.5, 1.0, 1.1, 2.0, 4.0])), draw(st.floats(0, 1))
        rejected = draw(st.sampled_from([None, None, None, "bad"]))
        joules = draw(st.sampled_from([None, 0.01, 0.03]))
        megabytes = draw(st.floats(0.1, 5))
        candidates.append(candidate(f"c{i}", ms, correct, f1, megabytes, rejected, joules))
    rule = SelectionRule(
        margin=draw(st.sampled_from([0.0, 1.0, 5.0, 20.0])),
        exchange=draw(st.sampled_from([0.0, 0.5, 3.0])),
        min_accuracy=draw(st.sampled_from([None, 0.5])),
        max_megabytes=draw(st.sampled_from([None, 2.5])),
        max_joules=draw(st.sampled_from([None, None, 0.02])),
    )
    metric = on_clips(np.arange(n) // draw(st.sampled_from([1, 3])))
    return candidates, rule, draw(st.sampled_from([None, 1.5, 3.0])), metric


def allowed(c: CandidateMetrics, rule: SelectionRule, budget: float | None) -> bool:
    return (
        c.rejection_reason is None
        and (budget is None or c.p50_ms <= budget)
        and (rule.min_accuracy is None or c.accuracy >= rule.min_accuracy)
        and (rule.max_megabytes is None or c.megabytes <= rule.max_megabytes)
        and (rule.max_joules is None or (c.joules is not None and c.joules <= rule.max_joules))
    )


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_choice_is_allowed_on_the_front_and_has_a_reason_for_every_candidate(problem):
    candidates, rule, budget, metric = problem
    decision = select_candidate(candidates, rule, budget, metric)
    left = {c.name: c for c in candidates if allowed(c, rule, budget)}
    assert (decision.chosen is None) == (not left)
    assert set(decision.reasons) == {c.name for c in candidates}
    assert all(decision.reasons.values())
    if decision.chosen:
        chosen = left[decision.chosen]
        assert chosen.name in find_pareto_front(list(left.values()))
        best = max(left.values(), key=lambda c: c.accuracy)
        if budget:
            loss = metric.compute_difference(best.predictions, chosen.predictions)
            assert chosen.accuracy == best.accuracy or 100 * loss.high <= rule.margin
    assert select_candidate(candidates, rule, budget, metric) == decision


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_a_dominated_candidate_never_changes_the_choice(problem, data):
    candidates, rule, budget, metric = problem
    before = select_candidate(candidates, rule, budget, metric)
    better = [c for c in candidates if allowed(c, rule, budget)]
    if not better:
        return
    above = data.draw(st.sampled_from(better))
    correct = data.draw(st.sampled_from(candidates)).predictions == 0  # errs with anybody, and a little more
    wrong = data.draw(st.integers(1, 3))
    keep = max(int((above.predictions == 0).sum()) - wrong, 0)
    correct[np.flatnonzero(correct)[keep:]] = False
    slower = above.p50_ms * data.draw(st.floats(1.01, 3))
    worse = candidate("worse", slower, correct, 1.0, 0.1)
    place = data.draw(st.integers(0, len(candidates)))
    after = select_candidate([*candidates[:place], worse, *candidates[place:]], rule, budget, metric)
    assert after.chosen == before.chosen


@settings(max_examples=40, deadline=None)
@given(problems())
def test_no_candidate_is_faster_and_more_accurate_than_the_front(problem):
    candidates = problem[0]
    front = find_pareto_front(candidates)
    by_name = {c.name: c for c in candidates}
    on = [by_name[name] for name in front]
    assert all(a.p50_ms < b.p50_ms and a.accuracy < b.accuracy for a, b in itertools.pairwise(on))
    for c in candidates:
        assert any(f.p50_ms <= c.p50_ms and f.accuracy >= c.accuracy for f in on)
