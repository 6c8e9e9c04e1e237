"""Aggregated votes: the equations of Dawid and Skene, a peer library, and properties that hold for any votes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.labels.sources.label_model import aggregate_votes, dawid_skene, majority_vote
from skd_edge.labels.sources.noise_simulation import simulate_votes
from skd_edge.recipe.labels import NoiseSettings

METHODS = ("majority", "dawid-skene")


def planted(n=600, classes=5, errors=(0.05, 0.2, 0.5, 0.6, 0.65), abstain=0.2, seed=0):
    """True labels, and votes of annotators whose errors are spread evenly, each with an error rate of their own."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    wrong = [np.where(rng.random(n) < e, (truth + rng.integers(1, classes, n)) % classes, truth) for e in errors]
    votes = np.stack(wrong, 1)
    votes[rng.random(votes.shape) < abstain] = -1
    return truth, votes


@st.composite
def random_votes(draw):
    """Any votes: ``(N, A)`` with abstentions, and the number of classes."""
    n, annotators, classes = draw(st.integers(1, 25)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(-1, classes, (n, annotators)), classes


# ------------------------------------------------------------------------------- against the equations, and a library
def solve_equations(votes, classes, smoothing, rounds):
    """Dawid-Skene EM, clip by clip and vote by vote, in plain Python floats and without logarithms."""
    people = range(len(votes[0]))

    def scaled(row):
        total = math.fsum(row)
        return [x / total if total else 1 / len(row) for x in row]

    belief = [scaled([sum(v == c for v in row) for c in range(classes)]) for row in votes]
    extra = []
    for a in people:
        result = [belief[i][row[a]] for i, row in enumerate(votes) if row[a] >= 0]
        right = (math.fsum(result) + 1) / (len(result) + 2)
        extra.append(
            [[right if c == k else (1 - right) / (classes - 1) for k in range(classes)] for c in range(classes)]
        )
    for _ in range(rounds):
        prior = scaled([math.fsum(b[c] for b in belief) + smoothing / classes for c in range(classes)])
        matrices = []
        for a in people:
            counts = [[smoothing * x for x in row] for row in extra[a]]
            for i, row in enumerate(votes):
                for c in range(classes):
                    if row[a] >= 0:
                        counts[c][row[a]] += belief[i][c]
            matrices.append([scaled(row) for row in counts])
        belief = [
            scaled(
                [prior[c] * math.prod(matrices[a][c][row[a]] for a in people if row[a] >= 0) for c in range(classes)]
            )
            for row in votes
        ]
    return np.array(belief), np.array(prior), np.array(matrices)


@pytest.mark.parametrize("smoothing", [0.3, 10.0])
def test_dawid_skene_equals_the_equations(smoothing):
    _, votes = planted(n=80, classes=3, seed=4)
    votes = votes[(votes >= 0).any(1)]
    for rounds in (1, 2, 7):
        result = dawid_skene(votes, 3, smoothing=smoothing, rounds=rounds)
        belief, prior, confusion = solve_equations(votes.tolist(), 3, smoothing, rounds)
        assert result.rounds == rounds
        assert np.abs(result.probabilities - belief).max() < 1e-12
        assert np.abs(result.prior - prior).max() < 1e-12
        assert np.abs(result.confusion - confusion).max() < 1e-12


# Votes, and the result of crowd-kit 1.4.2 (Apache-2.0), DawidSkene(n_iter=2, tol=-1), which has no smoothing.
CROWD_VOTES = np.array(
    [
        [2, 2, 0, 2],
        [1, -1, 0, -1],
        [1, 1, 2, 2],
        [-1, -1, 0, 0],
        [0, 2, -1, 2],
        [0, 1, 1, 0],
        [0, 0, 0, 2],
        [0, 2, 0, 0],
        [0, -1, 0, 0],
        [2, 1, -1, 0],
        [1, 1, 1, 0],
        [2, 2, 1, 0],
        [1, 1, 2, -1],
        [1, 1, 0, 0],
        [2, 1, 2, -1],
        [2, 2, 2, 0],
        [1, 1, 1, 1],
        [-1, 1, 0, -1],
        [-1, 1, 1, 0],
        [-1, -1, 1, 2],
        [0, -1, 0, -1],
        [-1, 2, 2, 0],
        [2, 2, 2, 2],
        [1, 2, 0, 1],
        [1, 1, 0, 1],
        [2, 2, 2, 0],
        [1, 2, 2, 0],
        [0, 0, -1, 0],
        [2, 2, -1, 0],
        [-1, 2, 2, 1],
        [2, 0, 0, 2],
        [0, 0, 0, 2],
        [2, -1, 0, 1],
        [-1, -1, 2, 0],
        [0, 2, 0, 1],
        [1, 1, 1, 1],
        [-1, -1, 0, 0],
        [-1, 2, 0, 2],
        [1, 1, 0, -1],
        [1, 0, 1, 2],
        [1, 1, 2, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
        [0, -1, 0, -1],
        [2, 2, 0, 1],
        [1, 0, 1, 2],
        [1, 1, 2, 2],
        [-1, 0, 0, 1],
        [1, -1, -1, 1],
        [2, 2, 2, 2],
        [1, 1, 0, 0],
        [1, 1, -1, 0],
        [2, 1, 0, 2],
        [-1, 2, -1, -1],
        [2, 2, -1, 0],
        [1, 1, 1, 1],
        [-1, 2, 1, 2],
        [-1, 2, 0, -1],
        [1, 1, 0, 0],
    ]
)
CROWD_KIT_PROBABILITIES = np.array(
    [
        [0.1348578, 0.0062062, 0.8589360],
        [0.3189856, 0.5785775, 0.1024369],
        [0.0219432, 0.8216260, 0.1564307],
        [0.6304192, 0.1852684, 0.1843123],
        [0.6864011, 0.0088941, 0.3047047],
        [0.7520529, 0.2086681, 0.0392790],
        [0.9856015, 0.0047561, 0.0096424],
        [0.9111980, 0.0047165, 0.0840855],
        [0.9472303, 0.0159165, 0.0368533],
        [0.2634765, 0.2138506, 0.5226730],
        [0.0453348, 0.9398324, 0.0148327],
        [0.1349970, 0.0278661, 0.8371369],
        [0.0196546, 0.8915194, 0.0888260],
        [0.1985262, 0.7693753, 0.0320985],
        [0.0339177, 0.1535051, 0.8125772],
        [0.0150782, 0.0047137, 0.9802082],
        [0.0131584, 0.9816015, 0.0052401],
        [0.3896847, 0.5107300, 0.0995852],
        [0.1601222, 0.7770331, 0.0628446],
        [0.2436348, 0.4567787, 0.2995865],
        [0.9297658, 0.0225711, 0.0476630],
        [0.0608121, 0.0446004, 0.8945876],
        [0.0073266, 0.0027316, 0.9899418],
        [0.3230724, 0.4496104, 0.2273171],
        [0.0660401, 0.9209636, 0.0129963],
        [0.0150782, 0.0047137, 0.9802082],
        [0.0609890, 0.1910868, 0.7479241],
        [0.9809811, 0.0083317, 0.0106872],
        [0.1223447, 0.0099096, 0.8677457],
        [0.0464158, 0.1224981, 0.8310861],
        [0.7348324, 0.0264351, 0.2387325],
        [0.9856015, 0.0047561, 0.0096424],
        [0.3307615, 0.1490950, 0.5201435],
        [0.1043512, 0.2484428, 0.6472061],
        [0.8842158, 0.0164696, 0.0993146],
        [0.0131584, 0.9816015, 0.0052401],
        [0.6304192, 0.1852684, 0.1843123],
        [0.3922730, 0.0423523, 0.5653747],
        [0.1467995, 0.8219268, 0.0312737],
        [0.3275798, 0.6317946, 0.0406256],
        [0.0279126, 0.8763490, 0.0957385],
        [0.9697724, 0.0209904, 0.0092372],
        [0.9913227, 0.0040111, 0.0046662],
        [0.9297658, 0.0225711, 0.0476630],
        [0.2053916, 0.0285201, 0.7660883],
        [0.3275798, 0.6317946, 0.0406256],
        [0.0219432, 0.8216260, 0.1564307],
        [0.7705911, 0.1962330, 0.0331759],
        [0.0895308, 0.8489975, 0.0614716],
        [0.0073266, 0.0027316, 0.9899418],
        [0.1985262, 0.7693753, 0.0320985],
        [0.1051653, 0.8554800, 0.0393547],
        [0.3083971, 0.1422193, 0.5493837],
        [0.2950477, 0.0810008, 0.6239515],
        [0.1223447, 0.0099096, 0.8677457],
        [0.0131584, 0.9816015, 0.0052401],
        [0.2225137, 0.1285118, 0.6489745],
        [0.4891206, 0.0639729, 0.4469065],
        [0.1985262, 0.7693753, 0.0320985],
    ]
)


def test_dawid_skene_equals_crowd_kit():
    result = dawid_skene(CROWD_VOTES, 3, smoothing=0, rounds=2)
    assert np.abs(result.probabilities - CROWD_KIT_PROBABILITIES).max() < 1e-6


# ------------------------------------------------------------------------------------------ properties for any votes
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25)
@given(random_votes())
def test_shapes_and_sums_of_the_result(method, case):
    votes, classes = case
    result = aggregate_votes(votes, classes, method)
    voted = (votes >= 0).any(1)
    assert np.allclose(result.probabilities.sum(1), 1)
    assert np.allclose(result.prior.sum(), 1)
    assert np.array_equal(result.hard >= 0, voted)
    own = np.take_along_axis(result.probabilities, np.maximum(result.hard, 0)[:, None], 1)[:, 0]
    assert (own[voted] >= result.probabilities[voted].max(1) - 1e-8).all()
    assert np.allclose(result.probabilities[~voted], result.prior)
    assert np.array_equal(result.vote_counts, (votes >= 0).sum(0))
    assert np.array_equal(np.isnan(result.accuracy), result.vote_counts == 0)
    assert ((result.accuracy >= 0) & (result.accuracy <= 1 + 1e-9) | np.isnan(result.accuracy)).all()
    if method == "dawid-skene":
        assert result.confusion.shape == (votes.shape[1], classes, classes)
        assert np.allclose(result.confusion.sum(2), 1)
        assert result.rounds <= 100


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25)
@given(random_votes(), st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(method, case, random):
    """Permuting annotators, classes or clips permutes the result in the same way."""
    votes, classes = case
    n, annotators = votes.shape
    people, names, clips = (np.array(random.sample(range(k), k)) for k in (annotators, classes, n))
    result = aggregate_votes(votes, classes, method)
    other = aggregate_votes(votes[clips][:, people], classes, method)
    assert np.allclose(other.probabilities, result.probabilities[clips], atol=1e-6)
    assert np.array_equal(other.hard, result.hard[clips])
    assert np.allclose(other.accuracy, result.accuracy[people], atol=1e-6, equal_nan=True)
    renamed = aggregate_votes(np.append(names, -1)[votes], classes, method)
    assert np.allclose(renamed.probabilities[:, names], result.probabilities, atol=1e-6)
    assert np.allclose(renamed.prior[names], result.prior, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25)
@given(random_votes(), st.integers(0, 3), st.integers(0, 3))
def test_abstentions_never_matter(method, case, silent, empty):
    """Annotators who never vote and clips that nobody voted on change nothing for the others."""
    votes, classes = case
    result = aggregate_votes(votes, classes, method)
    more = aggregate_votes(np.pad(votes, ((0, empty), (0, silent)), constant_values=-1), classes, method)
    n, annotators = votes.shape
    assert np.allclose(more.probabilities[:n], result.probabilities, atol=1e-9)
    assert np.array_equal(more.hard, [*result.hard, *[-1] * empty])
    assert np.allclose(more.accuracy[:annotators], result.accuracy, equal_nan=True)
    assert np.isnan(more.accuracy[annotators:]).all()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25)
@given(random_votes(), st.integers(0, 2**32 - 1))
def test_unanimous_votes_are_the_label(method, case, seed):
    """All votes on a clip are equal, the true label; any of them may be missing."""
    pattern, classes = case
    truth = np.random.default_rng(seed).integers(0, classes, len(pattern))
    votes = np.where(pattern >= 0, truth[:, None], -1)
    result = aggregate_votes(votes, classes, method)
    assert np.array_equal(result.hard, np.where((pattern >= 0).any(1), truth, -1))


def test_unanimous_clips_retain_their_label_among_disputed_ones():
    _, votes = planted()
    agreed = np.array([len(set(row[row >= 0])) == 1 and (row >= 0).sum() > 1 for row in votes])
    assert agreed.sum() > 20
    for method in METHODS:
        assert np.array_equal(aggregate_votes(votes, 5, method).hard[agreed], votes[agreed].max(1))


def test_a_tie_goes_to_the_lowest_class():
    votes = np.array([[2, 1], [1, 2], [0, 0], [2, 0], [-1, 2]])
    assert majority_vote(votes, 3).hard.tolist() == [1, 1, 0, 0, 2]
    even = np.array([[0, 1], [1, 0]])  # both classes are equally probable
    assert dawid_skene(even, 2).hard.tolist() == [0, 0]


# ------------------------------------------------------------------------------------------ better than a majority
@pytest.mark.parametrize("seed", range(3))
def test_good_annotators_are_found_and_labels_are_better_than_by_majority(seed):
    truth, votes = planted(seed=seed)
    voted = (votes >= 0).any(1)
    result, counted = dawid_skene(votes, 5), majority_vote(votes, 5)
    right, by_majority = ((x.hard == truth)[voted].mean() for x in (result, counted))
    assert right > by_majority + 0.03
    assert np.abs(result.accuracy - (1 - np.array([0.05, 0.2, 0.5, 0.6, 0.65]))).max() < 0.12
    assert result.accuracy.argmax() == 0


def test_an_annotator_who_swaps_two_classes_still_gives_evidence():
    """One of three annotators swaps two classes: their votes become evidence for the other class."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 900)
    swapped = np.array([1, 0, 2])[truth]
    fair = [np.where(rng.random(900) < 0.35, (truth + rng.integers(1, 3, 900)) % 3, truth) for _ in range(2)]
    votes = np.stack([swapped, *fair], 1)
    result = dawid_skene(votes, 3)
    assert result.confusion[0].round().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert (result.hard == truth).mean() > 0.95


def test_simulated_annotators_with_habits():
    truth = np.random.default_rng(1).integers(0, 10, 1500)
    votes = simulate_votes(truth, 10, NoiseSettings(kind="voters", rate=0.4), 0)
    assert (dawid_skene(votes, 10).hard == truth).mean() > (majority_vote(votes, 10).hard == truth).mean() + 0.02


def test_a_known_prior_decides_between_equal_votes():
    votes = np.array([[0, 1]] * 10 + [[0, 0], [1, 1]])
    assert dawid_skene(votes, 2, prior=np.array([0.1, 0.9])).hard[:10].tolist() == [1] * 10
    result = dawid_skene(votes, 2, prior=np.array([0.0, 3.0]))
    assert result.hard.tolist() == [1] * 12
    assert result.prior.tolist() == [0, 1]


def test_many_clips_do_not_underflow():
    """A thousand annotators: the product of their probabilities is far below the smallest float."""
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 2, (20, 1000))
    votes[:, :600] = np.arange(20)[:, None] % 2
    result = dawid_skene(votes, 2)
    assert np.isfinite(result.probabilities).all()
    assert np.array_equal(result.hard, np.arange(20) % 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (4, 0)])
def test_without_votes_every_clip_is_unlabelled(method, shape):
    result = aggregate_votes(np.full(shape, -1), 3, method)
    assert result.hard.tolist() == [-1] * shape[0]
    assert np.allclose(result.probabilities, 1 / 3)


@pytest.mark.parametrize(
    ("votes", "words"),
    [
        (np.array([[0, 3]]), "class index below 3"),
        (np.array([[0, -2]]), "class index below 3"),
        (np.array([0, 1]), "an .* array"),
        (np.array([[0.0, 1.0]]), "an .* array"),
    ],
)
def test_votes_of_another_form(votes, words):
    for call in (majority_vote, dawid_skene):
        with pytest.raises(ValueError, match=words):
            call(votes, 3)


@pytest.mark.parametrize("prior", [[1.0, 1.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [np.nan, 1.0, 1.0]])
def test_priors_of_another_form(prior):
    with pytest.raises(ValueError, match="prior must give each of the 3 classes a share"):
        dawid_skene(np.array([[0, 1]]), 3, prior=np.array(prior))
