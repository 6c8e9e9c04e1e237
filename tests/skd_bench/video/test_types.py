"""Settings of a clip refuse invalid values."""

from pathlib import Path

import pytest

from skd_bench.errors import UserError
from skd_bench.video.types import WHOLE_FILE, ClipError, ClipSpan, Preprocessing, Sampling


@pytest.mark.parametrize("bad", [{"frames": 0}, {"frames": 4, "stride": 0}, {"frames": 4, "kind": "random"}])
def test_invalid_sampling_is_refused(bad):
    with pytest.raises(UserError, match="sampling"):
        Sampling(**bad)


@pytest.mark.parametrize(
    "bad", [{"height": 0}, {"width": -1}, {"fit": "fill"}, {"std": (1.0, 0.0, 1.0)}, {"mean": (0.5, 0.5)}]
)
def test_invalid_preprocessing_is_refused(bad):
    with pytest.raises(UserError):
        Preprocessing(**{"height": 8, "width": 8, "fit": "crop", "mean": (0.5,) * 3, "std": (0.5,) * 3, **bad})


@pytest.mark.parametrize("bad", [(6, "segment", 1, 4), (6, "uniform", 1, 2), (6, "segment", 1, 0)])
def test_segments_that_do_not_divide_the_frames_are_refused(bad):
    with pytest.raises(UserError, match="equal parts"):
        Sampling(*bad)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Sampling(4, "random"), "unknown sampling 'random'; choose from uniform, dense, segment"),
        (
            lambda: Preprocessing(8, 8, "fill", (0.5,) * 3, (0.5,) * 3),
            "unknown fit 'fill'; choose from crop, stretch",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(wrong, words):
    with pytest.raises(UserError, match=words):
        wrong()


@pytest.mark.parametrize(
    ("span", "timed"),
    [
        (WHOLE_FILE, False),
        (ClipSpan(offset=512, size=10), False),
        (ClipSpan(1.0), True),
        (ClipSpan(end=2.0), True),
        (ClipSpan(0.0, 0.0), True),
    ],
)
def test_a_span_is_timed_if_it_has_a_start_or_an_end(span, timed):
    assert span.is_timed == timed


def test_a_clip_error_has_its_path_and_reason():
    error = ClipError("a/b.mp4", "it is damaged")
    assert (error.path, error.reason) == (Path("a/b.mp4"), "it is damaged")
    assert str(error) == "cannot read the clip a/b.mp4: it is damaged"
