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
STILL = {"shift": 0, "brightness": 0, "contrast": 0}
FULL = AugmentationSettings(
    shift=3, brightness=0.3, contrast=0.4, flip=True, scale=0.4, time=0.5, saturation=0.6, reverse=True
)


def to_pixels(x: torch.Tensor) -> torch.Tensor:
    """Network input ``(B, 3, T, H, W)`` as pixels, 0..255."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    return 255 * (x * std + mean)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(0, 8), min_size=1, max_size=12),
    view=st.integers(0, 63),
    shift=st.integers(0, 20),
    brightness=st.floats(0, 1),
    contrast=st.floats(0, 1),
    flip=st.booleans(),
    further=st.fixed_dictionaries(
        {},
        optional={
            "scale": st.floats(0, 0.9),
            "time": st.floats(0, 0.9),
            "saturation": st.floats(0, 1),
            "reverse": st.booleans(),
        },
    ),
)
def test_equal_pixels_in_every_batch(rows, view, shift, brightness, contrast, flip, further):
    augment = AugmentationSettings(shift=shift, brightness=brightness, contrast=contrast, flip=flip, **further)
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
        AugmentationSettings(**STILL, flip=True),
        AugmentationSettings(**STILL, scale=0.3),
        AugmentationSettings(**STILL, time=0.8),
        AugmentationSettings(**STILL, saturation=0.3),
        AugmentationSettings(**STILL, reverse=True),
    ],
    ids=["shift", "brightness", "contrast", "flip", "scale", "time", "saturation", "reverse"],
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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 63), st.floats(0.1, 0.9))
def test_a_crop_is_a_part_of_the_frame_and_the_same_in_all_frames(view, scale):
    """On a ramp of brightness, a crop shows which part of the frame it is: bilinear interpolation keeps the ramp."""
    ramp = np.arange(16, dtype=np.uint8)[None, :, None] * 8 + np.arange(16, dtype=np.uint8)[None, None, :] * 2
    clips = np.repeat(np.repeat(ramp[None, ..., None], 3, axis=-1), 20, axis=0).repeat(4, axis=1)
    views = to_pixels(augment_batch(clips, np.arange(20), view, AugmentationSettings(**STILL, scale=scale), PREPROCESS))
    assert views.shape == (20, 3, 4, 16, 16)
    assert views.min() >= -0.01
    assert views.max() <= 150.01
    assert torch.allclose(views, views[:, :, :1].expand_as(views), atol=1e-3)
    inside = views[:, 0, 0, 4:12, 4:12]  # the edge of the frame is repeated beyond its outermost pixels' centres
    down, right = (inside.diff(dim=1) / 8, inside.diff(dim=2) / 2)
    sides = down.mean(dim=(1, 2))
    assert torch.allclose(down, sides[:, None, None].expand_as(down), atol=1e-3)
    assert torch.allclose(right, sides[:, None, None].expand_as(right), atol=1e-3)  # square
    assert 1 - scale - 1e-3 <= sides.min()
    assert sides.max() <= 1 + 1e-3
    assert len(sides.unique()) > 10


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 63), st.floats(0, 0.9), st.booleans())
def test_time_jitter_keeps_the_order_of_frames_and_reversal_inverts_it(frames, view, time, reverse):
    clips = np.broadcast_to(np.arange(frames, dtype=np.uint8)[None, :, None, None, None], (40, frames, 2, 2, 3)).copy()
    augment = AugmentationSettings(**STILL, time=time, reverse=reverse)
    orders = to_pixels(augment_batch(clips, np.arange(40), view, augment, PREPROCESS))[:, 0, :, 0, 0].round().int()
    assert orders.min() >= 0
    assert orders.max() < frames
    steps = orders.diff(dim=1)
    forwards, backwards = (steps >= 0).all(dim=1), (steps <= 0).all(dim=1)
    assert (forwards | backwards).all()
    if not reverse:
        assert forwards.all()
    elif frames > 9 and time < 0.5:
        assert 5 < backwards.sum() < 35
    spans = (orders.max(dim=1).values - orders.min(dim=1).values + 1) / frames
    assert spans.min() >= 1 - time - 2 / frames
    if time == 0:
        assert spans.min() == 1


def test_saturation_changes_colours_but_not_their_brightness():
    views = to_pixels(
        augment_batch(
            np.repeat(CLIPS[:1], 300, 0), np.arange(300), 0, AugmentationSettings(**STILL, saturation=0.5), PREPROCESS
        )
    )
    plain = to_pixels(preprocess_batch(CLIPS[:1], PREPROCESS))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1, 1)
    grey = (plain * weights).sum(1, keepdim=True)
    assert torch.allclose((views * weights).sum(1, keepdim=True), grey.expand(300, 1, 3, 8, 8), atol=1e-2)
    factors = ((views - grey) * (plain - grey)).sum(dim=(1, 2, 3, 4)) / ((plain - grey) ** 2).sum()
    assert torch.allclose(views, grey + factors.view(-1, 1, 1, 1, 1) * (plain - grey), atol=1e-2)
    assert 0.5 - 1e-4 <= factors.min() < 0.55
    assert 1.45 < factors.max() <= 1.5 + 1e-4


def test_grey_clips_have_no_colour_to_change():
    grey = np.repeat(CLIPS[..., :1], 3, axis=-1)
    still, colour = AugmentationSettings(**STILL), AugmentationSettings(**STILL, saturation=1)
    one, other = (augment_batch(grey, IDS, 0, augment, PREPROCESS) for augment in (still, colour))
    assert torch.allclose(one, other, atol=1e-5)


def test_further_augmentations_do_not_change_the_draws_of_the_others():
    """A recipe that adds one keeps the shifts, flips and gains that its views had."""
    before = augment_batch(CLIPS, IDS, 3, AugmentationSettings(flip=True), PREPROCESS)
    grey = augment_batch(CLIPS, IDS, 3, AugmentationSettings(flip=True, saturation=1e-7, scale=1e-7), PREPROCESS)
    assert torch.allclose(before, grey, atol=1e-4)


def test_augmentations_that_are_off_do_not_enter_the_hash():
    assert {*AugmentationSettings().model_dump()} == {"shift", "brightness", "contrast", "flip", "mixup", "views"}
