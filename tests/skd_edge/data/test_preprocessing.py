"""The recipe's section ``clip`` becomes the sampling and preprocessing of the device."""

from __future__ import annotations

import pytest

from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.recipe.sections import ClipSettings


def test_every_setting_reaches_the_device():
    clip = ClipSettings(
        frames=6,
        size=48,
        sampling="segment",
        stride=3,
        segments=2,
        fit="pad",
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    sampling, preprocess = inference_preprocessing(clip)
    assert sampling == Sampling(6, "segment", 3, 2)
    assert preprocess == Preprocessing(48, 48, "pad", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_the_decoder_does_not_change_the_preprocessing():
    """The device always decodes with PyAV, so the decoder of the training clips is not part of its contract."""
    assert inference_preprocessing(ClipSettings()) == inference_preprocessing(ClipSettings(decoder="torchcodec"))


@pytest.mark.parametrize("change", [{"frames": 4}, {"size": 16}, {"sampling": "dense"}, {"fit": "stretch"}])
def test_a_changed_setting_gives_another_result(change):
    assert inference_preprocessing(ClipSettings(**change)) != inference_preprocessing(ClipSettings())
