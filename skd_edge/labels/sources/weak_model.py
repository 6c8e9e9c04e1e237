"""Label noise of a weak model, for studies: its errors lie together in feature space, as those of real models do.

A logistic regression on motion-energy features answers for every training clip. It is fitted on clips that are taken
out of the training clips before anything else (``draw_held_out_clips``): they are in no split afterwards. How many of
them it is fitted on decides how often it is wrong, so that number is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_edge.recipe.labels import NoiseSettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_BLOCKS = 6  # features are means over so many blocks in each direction
_STEPS = 2  # and over so many parts of the clip, one after the other
_TOLERANCE = 0.03  # an error rate that is further than this from the requested one is refused


@dataclass(frozen=True)
class WeakModelAnswers:
    """What a weak model answers.

    Attributes:
        labels: ``(N,)`` class indices, -1 where it abstains.
        fitted_count: number of clips that it was fitted on.
        error_rate: share of wrong answers among those on clips with a known label, in [0, 1].
    """

    labels: Ints
    fitted_count: int
    error_rate: float


def draw_held_out_clips(labels: Ints, noise: NoiseSettings, seed: int) -> NDArray[np.bool_]:
    """Draw the clips that the weak model is fitted on: the same share of each class, by seed.

    Args:
        labels: ``(N,)`` class indices of the training clips, -1 for unlabelled clips, which are never drawn.
        noise: the share (``held_out``).
        seed: draws the clips.

    Returns:
        ``(N,)`` whether a clip is held out. Every class with two clips or more keeps one at least.
    """
    rng, held_out = np.random.default_rng((seed, 40_963)), np.zeros(len(labels), bool)
    for c in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == c)
        held_out[rng.permutation(members)[: min(round(noise.held_out * len(members)), len(members) - 1)]] = True
    return held_out


def answer_as_weak_model(
    features: tuple[Floats, Floats], labels: tuple[Ints, Ints], noise: NoiseSettings, seed: int
) -> WeakModelAnswers:
    """Label clips as a weak model would that is wrong on ``noise.rate`` of its answers, as nearly as it can be.

    Args:
        features: ``(M, D)`` of the held-out clips and ``(N, D)`` of the training clips; see ``compute_motion_energy``.
        labels: ``(M,)`` and ``(N,)`` true class indices; -1 in the second where unknown. The second decide only when
            the bisection ends.
        noise: error rate, temperature and share of abstentions.
        seed: orders the held-out clips, and draws the answers at a temperature above 0.

    Raises:
        UserError: The requested error rate cannot be reached: the model is wrong more often on all held-out clips, or
            less often on one clip of each class.
    """
    (fit_x, x), (fit_y, truth) = features, labels
    order = _order_by_class(fit_y, seed)
    classes = len(np.unique(fit_y))
    if classes < 2 or not (truth >= 0).any():
        raise UserError(
            "labels.noise.kind: model needs labelled clips of two classes at least to fit its model on; raise "
            "labels.noise.held_out"
        )

    def answer(count: int) -> WeakModelAnswers:
        rows = order[:count]
        answers = _give_answers(_fit_and_predict(fit_x[rows], fit_y[rows], x), np.unique(fit_y[rows]), noise, seed)
        judged = (answers >= 0) & (truth >= 0)
        return WeakModelAnswers(answers, count, float((answers != truth)[judged].mean()) if judged.any() else 0.0)

    low, high = answer(classes), answer(len(order))  # one clip of each class; all
    best = min((low, high), key=lambda a: abs(a.error_rate - noise.rate))
    while high.fitted_count - low.fitted_count > 1 and best.error_rate != noise.rate:
        middle = answer((low.fitted_count + high.fitted_count) // 2)
        best = min((best, middle), key=lambda a: abs(a.error_rate - noise.rate))
        low, high = (middle, high) if middle.error_rate > noise.rate else (low, middle)
    if abs(best.error_rate - noise.rate) > _TOLERANCE:
        more = best.error_rate > noise.rate
        way = "raise labels.noise.rate or labels.noise.held_out" if more else "lower labels.noise.rate"
        raise UserError(
            f"labels.noise.kind: model cannot reach an error rate of {noise.rate:.0%}: fitted on {best.fitted_count} "
            f"of {len(order)} held-out clips it is wrong on {best.error_rate:.0%} of its answers; {way}"
        )
    return best


def compute_motion_energy(clips: NDArray[np.uint8]) -> Floats:
    """Motion energy of each clip: how much changes where and in which direction, but not what moves.

    From the gradients of the brightness in space and time (``x``, ``y``, ``t``), means of ``|t|`` over blocks and parts
    of the clip; over the whole clip the energy of each step in time, and ``t*x`` and ``t*y`` (the direction of motion),
    ``t*r`` and ``t*a`` (growth and turn about the centre of motion). Nearest: the spatiotemporal energy of Adelson and
    Bergen, 1985.

    Args:
        clips: ``(N, T, H, W, 3)`` uint8.

    Returns:
        ``(N, D)``, rounded, so that the last digits of a sum decide nothing.
    """
    described = np.stack([_describe_motion(clip) for clip in clips])  # one by one, to save memory
    return np.asarray(np.round(described, 5), np.float64)


def _describe_motion(clip: NDArray[np.uint8]) -> Floats:
    gray = clip.astype(np.float64).mean(-1) / 255
    if len(gray) < 2:
        gray = np.repeat(gray, 2, axis=0)
    t = np.diff(gray, axis=0)
    between = (gray[1:] + gray[:-1]) / 2
    y, x = np.gradient(between, axis=(1, 2))
    energy = np.abs(t)
    blocks = [
        block.mean()
        for part in np.array_split(energy, min(_STEPS, len(energy)))
        for row in np.array_split(part, min(_BLOCKS, part.shape[1]), axis=1)
        for block in np.array_split(row, min(_BLOCKS, part.shape[2]), axis=2)
    ]
    weight = energy / max(energy.sum(), 1e-9)
    rows, columns = np.mgrid[: gray.shape[1], : gray.shape[2]]
    down, right = rows - (weight * rows).sum(), columns - (weight * columns).sum()
    scale = max(float((x**2 + y**2).mean()), 1e-9)
    flow = [
        (t * g).mean() / scale
        for g in (x, y, (x * right + y * down) / gray.shape[1], (y * right - x * down) / gray.shape[1])
    ]
    return np.array([*np.sqrt(blocks), *np.sqrt(energy.mean((1, 2))), *flow])


def _order_by_class(labels: Ints, seed: int) -> Ints:
    """Rows in an order in which every beginning has each class equally often, as far as there are clips."""
    rng = np.random.default_rng((seed, 40_966))
    rank = np.zeros(len(labels), np.int64)
    shuffled = rng.permutation(len(labels))
    for c in np.unique(labels):
        members = shuffled[labels[shuffled] == c]
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))


def _fit_and_predict(fit_x: Floats, fit_y: Ints, x: Floats) -> Floats:
    """Class probabilities ``(N, C)`` by a logistic regression on standardised features, in one thread."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the order of a sum, and so its last digits, depends on the number of threads
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, tol=1e-6)).fit(fit_x, fit_y)
        return np.asarray(np.round(model.predict_proba(x), 5), np.float64)


def _give_answers(probabilities: Floats, classes: Ints, noise: NoiseSettings, seed: int) -> Ints:
    """The answer for each clip ``(N,)``: the most probable class, or at a temperature above 0 one that is drawn.

    The model abstains on the share ``abstain`` of the clips on which its highest probability is lowest.
    """
    chosen = probabilities.argmax(1)
    if noise.temperature > 0:
        logits = np.log(probabilities + 1e-9) / noise.temperature
        gumbel = np.random.default_rng((seed, 40_967)).gumbel(size=logits.shape)
        chosen = (logits + gumbel).argmax(1)
    answers = classes[chosen]
    unsure = np.argsort(probabilities.max(1), kind="stable")[: round(noise.abstain_share * len(answers))]
    answers[unsure] = -1
    return np.asarray(answers, np.int64)
