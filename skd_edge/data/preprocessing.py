"""How clips are sampled and preprocessed at inference, from the recipe's section ``clip``."""

from __future__ import annotations

from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.recipe.sections import ClipSettings


def inference_preprocessing(clip: ClipSettings) -> tuple[Sampling, Preprocessing]:
    """Convert the recipe's section ``clip`` to the sampling and preprocessing of the device.

    Training, validation, benchmarks and the exported bundle all use this result, so that they agree.
    """
    sampling = Sampling(clip.frames, clip.sampling, clip.stride, clip.segments)
    return sampling, Preprocessing(clip.size, clip.size, clip.fit, clip.mean, clip.std)
