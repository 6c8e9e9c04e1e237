"""How clips are sampled and preprocessed at inference, from a recipe's ``clip``."""

from __future__ import annotations

from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.recipe.sections import ClipSettings


def inference_preprocessing(clip: ClipSettings) -> tuple[Sampling, Preprocessing]:
    """How the device samples and preprocesses: the one contract of training, measurement and prediction."""
    sampling = Sampling(clip.frames, clip.sampling, clip.stride, clip.segments)
    return sampling, Preprocessing(clip.size, clip.size, clip.fit, clip.mean, clip.std)
