"""Several views of one video are disjoint; one view is the deployed sampling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import softmax
from skd_bench.video.clip import decode_clip
from skd_bench.video.multi_view import average_view_logits, decode_views
from skd_bench.video.types import Preprocessing, Sampling

SIZE = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def greys_of(clip):
    """The numbers of the frames of `ramp`, from their grey."""
    return [round(float(frame.mean()) / 4) for frame in clip]


def test_views_are_disjoint_and_one_view_is_the_deployed_sampling(ramp):
    one = decode_views(ramp, Sampling(5), SIZE, 1)
    assert (one[0] == decode_clip(ramp, Sampling(5), SIZE)).all()
    three = [greys_of(view) for view in decode_views(ramp, Sampling(5), SIZE, 3)]
    assert all(a < b < c for a, b, c in zip(*three, strict=True))
    dense = [greys_of(view) for view in decode_views(ramp, Sampling(4, "dense", 2), SIZE, 2)]
    assert dense[0][-1] < dense[1][0]
    with pytest.raises(UserError, match="views must be at least 1"):
        decode_views(ramp, Sampling(5), SIZE, 0)


@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 10**6))
def test_the_softmax_of_averaged_views_is_the_mean_probability(views, classes, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(classes), views)
    got = softmax(average_view_logits(probabilities)[np.newaxis])[0]
    np.testing.assert_allclose(got, probabilities.mean(axis=0), atol=1e-12)


def test_a_class_of_probability_zero_has_a_finite_logit():
    logits = average_view_logits(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert np.isfinite(logits).all()
    assert logits.argmax() == 0
