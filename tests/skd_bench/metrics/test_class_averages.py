import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from skd_bench.errors import UserError
from skd_bench.metrics.class_averages import (
    METRIC_NAMES,
    compute_class_averages,
    compute_metric,
    compute_metric_difference,
    compute_metric_value,
    count_effective_clips,
    has_unequal_classes,
)
from skd_bench.stats import Interval, mean_interval, paired_difference, resolvable_points

quick = settings(max_examples=40, deadline=None)
classes = st.integers(0, 4)
CLASS_METRICS = ["balanced", "macro-f1"]


@quick
@given(st.lists(st.tuples(classes, classes), min_size=1, max_size=60))
def test_the_averages_equal_those_of_scikit_learn(pairs):
    labels, predictions = map(np.array, zip(*pairs, strict=True))
    got = compute_class_averages(labels, predictions, resamples=20)
    present = np.unique(labels)
    recall = recall_score(labels, predictions, labels=present, average="macro", zero_division=0)
    assert got.balanced.value == pytest.approx(recall)
    assert got.macro_f1.value == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
    if set(predictions) <= set(labels):
        assert got.balanced.value == pytest.approx(balanced_accuracy_score(labels, predictions))
    for interval in (got.balanced, got.macro_f1):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


@quick
@given(st.lists(st.tuples(classes, classes), min_size=1, max_size=40), st.integers(2, 5))
def test_more_clips_of_one_class_change_accuracy_but_not_its_recall(pairs, times):
    labels, predictions = map(np.array, zip(*pairs, strict=True))
    more = np.where(labels == labels[0], times, 1)
    got = compute_class_averages(labels.repeat(more), predictions.repeat(more), resamples=5).balanced.value
    assert got == pytest.approx(compute_class_averages(labels, predictions, resamples=5).balanced.value)


@quick
@given(st.lists(st.tuples(classes, classes), min_size=1, max_size=40), st.permutations(range(5)))
def test_names_of_classes_do_not_matter(pairs, order):
    labels, predictions = map(np.array, zip(*pairs, strict=True))
    renamed = np.array(order)
    got = compute_class_averages(renamed[labels], renamed[predictions], resamples=20)
    want = compute_class_averages(labels, predictions, resamples=20)
    for one, other in ((got.balanced, want.balanced), (got.macro_f1, want.macro_f1)):
        assert [one.value, one.low, one.high] == pytest.approx([other.value, other.low, other.high])


def test_a_network_that_knows_only_the_largest_class_is_not_good():
    labels = np.repeat([0, 1, 2], [80, 10, 10])
    got = compute_class_averages(labels, np.zeros(100, int))
    assert got.balanced.value == pytest.approx(1 / 3)
    assert got.balanced.high < 0.34  # every resample recalls one class of three
    assert compute_metric("accuracy", labels, np.zeros(100, int)).value == 0.8


@pytest.mark.parametrize("metric", list(METRIC_NAMES))
@quick
@given(st.lists(st.tuples(classes, classes, classes, st.integers(0, 6)), min_size=1, max_size=50))
def test_a_difference_is_that_of_the_two_values_and_changes_sign_when_swapped(metric, rows):
    labels, one, other, groups = map(np.array, zip(*rows, strict=True))
    forward = compute_metric_difference(metric, labels, one, other, groups.tolist(), resamples=40)
    backward = compute_metric_difference(metric, labels, other, one, groups.tolist(), resamples=40)
    apart = compute_metric(metric, labels, one).value - compute_metric(metric, labels, other).value
    assert forward.value == pytest.approx(apart)
    assert forward.low <= forward.value <= forward.high
    assert [forward.value, forward.low, forward.high] == pytest.approx([-backward.value, -backward.high, -backward.low])


@pytest.mark.parametrize("metric", CLASS_METRICS)
def test_a_model_does_not_differ_from_itself(metric):
    labels, predictions = np.arange(40) % 4, np.arange(40) % 3
    assert compute_metric_difference(metric, labels, predictions, predictions) == Interval(0, 0, 0)


@pytest.mark.parametrize("metric", list(METRIC_NAMES))
def test_a_value_alone_is_that_of_the_interval(metric):
    labels, predictions = np.random.default_rng(0).integers(4, size=(2, 50))
    assert compute_metric_value(metric, labels, predictions) == compute_metric(metric, labels, predictions).value


def test_accuracy_is_that_of_the_other_reports():
    rng = np.random.default_rng(0)
    labels, one, other, groups = rng.integers(3, size=(4, 60))
    assert compute_metric("accuracy", labels, one, groups.tolist()) == mean_interval(one == labels, groups.tolist())
    got = compute_metric_difference("accuracy", labels, one, other, groups.tolist())
    assert got == paired_difference(one == labels, other == labels, groups.tolist())


@pytest.mark.parametrize("metric", CLASS_METRICS)
def test_groups_that_agree_count_as_one_observation(metric):
    labels = np.arange(40) % 2
    predictions = np.where(np.arange(40) % 3 > 0, labels, 1 - labels)
    repeated = labels.repeat(25), predictions.repeat(25)
    alone = compute_metric(metric, *repeated)
    grouped = compute_metric(metric, *repeated, np.arange(40).repeat(25).tolist())
    assert alone.value == grouped.value
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(5, rel=0.25)  # sqrt(25)


@pytest.mark.parametrize("metric", CLASS_METRICS)
def test_one_group_shows_no_spread(metric):
    labels, predictions, groups = [0, 1, 0, 1], [0, 1, 1, 1], ["s"] * 4
    got = compute_metric(metric, labels, predictions, groups)
    assert (got.low, got.high) == (0, 1)
    got = compute_metric_difference(metric, labels, predictions, labels, groups)
    assert (got.low, got.high) == (-1, 1)


def test_a_perfect_score_is_not_certain():
    labels = np.repeat([0, 1], [90, 10])  # 36 clips of equal classes would say as much
    got = compute_class_averages(labels, labels)
    assert got.balanced == Interval(1.0, pytest.approx(0.025 ** (1 / 36)), 1.0)
    assert compute_class_averages(labels, 1 - labels).macro_f1 == Interval(
        0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 36))
    )
    in_groups = compute_class_averages(labels, labels, (np.arange(100) // 20).tolist())
    assert in_groups.balanced.low == pytest.approx(0.025 ** (1 / 5))


@pytest.mark.parametrize("groups", [6, 15])
def test_few_groups_still_cover_the_truth(groups):
    rng, covered, rounds = np.random.default_rng(1), 0, 150
    for _ in range(rounds):
        rates = np.clip(rng.normal(0.75, 0.12, groups), 0, 1).repeat(20)  # people are hard or easy
        labels = rng.integers(3, size=len(rates))
        predictions = np.where(rng.random(len(rates)) < rates, labels, (labels + 1) % 3)
        got = compute_class_averages(labels, predictions, np.arange(groups).repeat(20).tolist(), resamples=300)
        covered += got.balanced.low <= 0.7495 <= got.balanced.high  # the mean of the clipped rates
    assert covered / rounds >= 0.9


def test_clips_of_equal_classes_say_as_much_as_their_number():
    assert count_effective_clips(np.arange(60) % 6) == pytest.approx(60)
    assert count_effective_clips([3]) == 1
    assert count_effective_clips(np.repeat([0, 5], [90, 10])) == pytest.approx(36)


def test_effective_clips_predict_the_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [150, 40, 40, 40])
    predictions = np.where(rng.random(270) < 0.8, labels, (labels + 1) % 4)
    got = compute_class_averages(labels, predictions).balanced
    half_width = 100 * (got.high - got.low) / 2
    assert half_width == pytest.approx(resolvable_points(int(count_effective_clips(labels)), got.value), rel=0.2)


@pytest.mark.parametrize(
    ("counts", "unequal"), [([10, 10], False), ([15, 10], False), ([16, 10], True), ([10, 0, 9], False), ([4], False)]
)
def test_classes_are_unequal_from_half_as_many_clips_more(counts, unequal):
    assert has_unequal_classes(np.arange(len(counts)).repeat(counts)) is unequal


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="at least one clip"):
        compute_metric("balanced", np.array([], int), np.array([], int))
    for metric in METRIC_NAMES:
        with pytest.raises(ValueError, match="a prediction for each label"):
            compute_metric(metric, [0, 1], [0])
        with pytest.raises(ValueError, match="whole numbers from 0"):
            compute_metric(metric, [0, -1], [0, 0])
        with pytest.raises(ValueError, match="whole numbers from 0"):
            compute_metric_difference(metric, [0, 1], [0, 1], [0.5, 1])
    with pytest.raises(ValueError, match="as many group labels"):
        compute_metric("macro-f1", [0, 1], [0, 0], ["a"])
