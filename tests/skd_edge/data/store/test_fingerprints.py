"""Fingerprints: equal for equal pixels only, and stable under what re-encoding changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.data.store.fingerprints import FINGERPRINT_FILE, HASH_BITS, compute_fingerprints, load_fingerprints


def draw_clips(seed, count=2, frames=6, height=24, width=32):
    """Smooth random clips: noise of 6x6 fields, enlarged."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256, (count, frames, 6, 6, 3), dtype=np.uint8)
    return fields.repeat(-(-height // 6), 2).repeat(-(-width // 6), 3)[:, :, :height, :width]


def count_different_bits(one, other):
    return int(np.unpackbits(one ^ other).sum())


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(8, 40), st.integers(9, 40), st.integers(0, 3))
def test_the_perceptual_hash_survives_noise_and_brightness(seed, frames, height, width, noise):
    clips = draw_clips(seed, 2, frames, height, width)
    rng = np.random.default_rng(seed)
    changed = np.clip(clips.astype(int) + 5 + rng.integers(-noise, noise + 1, clips.shape), 0, 255).astype(np.uint8)
    before, after = compute_fingerprints(clips), compute_fingerprints(changed)
    assert before.perceptual.shape == (2, HASH_BITS // 8)
    assert before.exact.tolist() == compute_fingerprints(clips.copy()).exact.tolist()
    assert before.exact[0].tolist() != after.exact[0].tolist()
    for i in range(2):
        assert count_different_bits(before.perceptual[i], after.perceptual[i]) <= HASH_BITS // 8
    # Different clips differ in about as many bits as two coins; a single small picture has too few for that.
    if frames >= 4:
        assert count_different_bits(before.perceptual[0], before.perceptual[1]) > HASH_BITS // 8


def test_pictures_are_means_of_fields():
    clips = draw_clips(0, 3, 8, 32, 48)
    grey = clips.mean(axis=-1).reshape(3, 8, 16, 2, 16, 3).mean(axis=(3, 5))
    assert np.abs(compute_fingerprints(clips).pictures - grey).max() < 0.1


@pytest.mark.parametrize("count", [0, 3, 500])
def test_they_are_computed_once_for_a_store(tmp_path, count):
    clips = draw_clips(1, count)
    np.save(tmp_path / "clips.npy", clips)
    calls = []
    first = load_fingerprints(tmp_path, "a", lambda done, total: calls.append((done, total)))
    assert calls[-1] == (count, count)
    again = load_fingerprints(tmp_path, "a", lambda *_: pytest.fail("computed again"))
    assert np.array_equal(first.exact, again.exact)
    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(again.perceptual, compute_fingerprints(clips).perceptual)


def test_those_of_other_pixels_are_computed_again(tmp_path):
    for seed in (1, 2):
        clips = draw_clips(seed, 3)
        np.save(tmp_path / "clips.npy", clips)
        found = load_fingerprints(tmp_path, f"the hash of {seed}")
        assert np.array_equal(found.exact, compute_fingerprints(clips).exact)


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: content[:90] + b"x" + content[91:]])
def test_a_damaged_file_is_named_and_computed_again(tmp_path, caplog, damage):
    np.save(tmp_path / "clips.npy", draw_clips(1, 3))
    first, file = load_fingerprints(tmp_path, "a"), tmp_path / FINGERPRINT_FILE
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert np.array_equal(load_fingerprints(tmp_path, "a").exact, first.exact)
    assert f"{file} is damaged" in caplog.text
    assert file.read_bytes() == whole
