"""A view is a pure function of clip id and view number: equal pixels in every batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_edge.data.augmentation import augment_batch, preprocess_batch
from skd_edge.recipe.sections import AugmentationSettings

PREPROCESS = Preprocessing(8, 8, "crop", (0.4, 0.45, 0.5), (0.2, 0.225, 0.25))
CLIPS = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8, 3), np.uint8)
IDS = np.array([0, 1, 2, 3, 1000, 5, 2**40, 7, 8])
FULL = AugmentationSettings(shift=3, brightness=0.3, contrast=0.4, flip=True)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(0, 8), min_size=1, max_size=12),
    view=st.integers(0, 63),
    shift=st.integers(0, 20),
    brightness=st.floats(0, 1),
    contrast=st.floats(0, 1),
    flip=st.booleans(),
)
def test_equal_pixels_in_every_batch(rows, view, shift, brightness, contrast, flip):
    augment = AugmentationSettings(shift=shift, brightness=brightness, contrast=contrast, flip=flip)
    together = augment_batch(CLIPS[rows], IDS[rows], view, augment, PREPROCESS)
    assert together.shape == (len(rows), 3, 3, 8, 8)
    assert together.dtype == torch.float32
    for row, clip in zip(rows, together, strict=True):
        alone = augment_batch(CLIPS[row : row + 1], IDS[row : row + 1], view, augment, PREPROCESS)[0]
        assert torch.equal(alone, clip)


@pytest.mark.parametrize("view", [-1, -5])
def test_a_negative_view_is_not_augmented(view):
    expected = normalise(CLIPS, PREPROCESS)
    assert np.array_equal(augment_batch(CLIPS, IDS, view, FULL, PREPROCESS).numpy(), expected)
    assert np.array_equal(preprocess_batch(CLIPS, PREPROCESS).numpy(), expected)


def test_zero_augmentation_is_the_plain_clip():
    still = AugmentationSettings(shift=0, brightness=0, contrast=0, flip=False)
    assert torch.equal(augment_batch(CLIPS, IDS, 3, still, PREPROCESS), preprocess_batch(CLIPS, PREPROCESS))


def test_the_input_is_not_changed():
    before = CLIPS.copy()
    augment_batch(CLIPS, IDS, 0, FULL, PREPROCESS)
    assert np.array_equal(CLIPS, before)


@pytest.mark.parametrize(
    "augment",
    [
        AugmentationSettings(shift=3, brightness=0, contrast=0),
        AugmentationSettings(shift=0, brightness=0.2, contrast=0),
        AugmentationSettings(shift=0, brightness=0, contrast=0.2),
        AugmentationSettings(shift=0, brightness=0, contrast=0, flip=True),
    ],
    ids=["shift", "brightness", "contrast", "flip"],
)
def test_views_and_clips_differ(augment):
    ids = np.arange(64)
    clips = np.repeat(CLIPS[:1], 64, axis=0)
    one, two = (augment_batch(clips, ids, view, augment, PREPROCESS) for view in (0, 1))
    assert not torch.equal(one, two)
    assert len({clip.numpy().tobytes() for clip in one}) > 1


def test_shift_moves_all_frames_equally_and_within_its_range():
    clip = np.zeros((1, 4, 8, 8, 3), np.uint8)
    clip[:, :, 4, 4] = 255
    shifts = set()
    for view in range(400):
        x = augment_batch(
            clip, np.array([7]), view, AugmentationSettings(shift=2, brightness=0, contrast=0), PREPROCESS
        )[0, 0]
        spots = [tuple((frame == frame.max()).nonzero()[0].tolist()) for frame in x]
        assert len(set(spots)) == 1
        shifts.add((spots[0][0] - 4, spots[0][1] - 4))
    assert shifts == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_flip_mirrors_half_of_the_clips():
    ids, clips = np.arange(2000), np.repeat(CLIPS[:1], 2000, axis=0)
    plain = preprocess_batch(CLIPS[:1], PREPROCESS)[0]
    views = augment_batch(clips, ids, 0, AugmentationSettings(shift=0, brightness=0, contrast=0, flip=True), PREPROCESS)
    mirrored = [torch.equal(v, plain.flip(-1)) for v in views]
    same = [torch.equal(v, plain) for v in views]
    assert sum(mirrored) + sum(same) == 2000
    assert abs(sum(mirrored) - 1000) < 5 * np.sqrt(500)


def test_brightness_is_a_share_of_white():
    black = np.zeros((500, 1, 8, 8, 3), np.uint8)
    views = augment_batch(
        black, np.arange(500), 0, AugmentationSettings(shift=0, brightness=0.2, contrast=0), PREPROCESS
    )
    std, mean = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (PREPROCESS.std, PREPROCESS.mean))
    share = (views * std + mean)[:, :, 0, 0, 0]
    assert share.abs().max() <= 0.2 + 1e-5
    assert share.min() < -0.15
    assert share.max() > 0.15
    assert torch.allclose(share[:, 0], share[:, 2], atol=1e-5)  # the same for all colours


@pytest.mark.parametrize(("height", "width", "reach"), [(1, 1, 3), (5, 7, 9), (16, 12, 3), (4, 4, 64)])
def test_a_shift_repeats_the_edge(height, width, reach):
    from skd_edge.data.augmentation import _shift_clips

    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (20, 2, height, width, 3), dtype=np.uint8)
    dy, dx = rng.integers(-reach, reach + 1, (2, 20))
    for clip, y, x, got in zip(clips, dy, dx, _shift_clips(clips, dy, dx), strict=True):
        rows, columns = (np.arange(height) + y).clip(0, height - 1), (np.arange(width) + x).clip(0, width - 1)
        assert np.array_equal(got, clip[:, rows][:, :, columns])
