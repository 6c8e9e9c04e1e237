"""Copies across splits: equal pixels and re-encoded videos are found, other clips of the same class are not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from skd_bench.video.clip import decode_clip
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.sources.listing import ClipEntry
from skd_edge.data.store.copies import describe_copies, explain_refused_copies, find_near_copies, find_split_copies
from skd_edge.data.store.fingerprints import Fingerprints, compute_fingerprints

SAMPLING, PREPROCESS = Sampling(8), Preprocessing(48, 48, "crop", (0, 0, 0), (1, 1, 1))


def encode_again(source: Path, target: Path, **options: str) -> None:
    with av.open(str(source)) as read:
        frames = [frame.to_ndarray(format="rgb24") for frame in read.decode(video=0)]
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.time_base = Fraction(1, 30)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def clip(name, split, label="a"):
    return ClipEntry(Path(name), name, label, split, name)


@pytest.fixture(scope="module")
def pixels(film, tmp_path_factory):
    """Three clips of one motion, and the second one encoded again: ``(4, T, H, W, 3)``."""
    folder = tmp_path_factory.mktemp("films")
    files = [film(folder / f"{i}.mp4", "move_left", seed=i, frames=16, size=64) for i in range(3)]
    encode_again(files[1], folder / "again.mp4", crf="24")
    return np.stack([decode_clip(file, SAMPLING, PREPROCESS) for file in [*files, folder / "again.mp4"]])


def test_equal_and_encoded_again(pixels):
    order = [0, 1, 2, 3, 0]  # training 0, 1; validation 2, 3 (near 1); test 0
    entries = [clip("t0", "train"), clip("t1", "train"), clip("v2", "val"), clip("v3", "val"), clip("e0", "test")]
    copies = find_split_copies(compute_fingerprints(pixels[order]), entries)
    assert [(c.clip, c.original, c.kind, c.refused) for c in copies] == [
        ("v3", "t1", "near", False),
        ("e0", "t0", "equal", True),
    ]
    assert describe_copies(copies) == [
        "1 val clips are nearly the same as train clips (first: v3 and t1)",
        "1 test clips have the same pixels as train clips (first: e0 and t0)",
    ]
    assert "e0 has the same pixels as t0 in train" in (explain_refused_copies(copies) or "")
    assert explain_refused_copies(copies[:1]) is None


def test_a_test_clip_that_is_a_validation_clip_is_refused(pixels):
    entries = [clip("t", "train"), clip("v", "val"), clip("e", "test")]
    (copy,) = find_split_copies(compute_fingerprints(pixels[[0, 1, 1]]), entries)
    assert (copy.original, copy.original_split, copy.refused) == ("v", "val", True)


@pytest.mark.parametrize(
    ("labels", "refused"),
    [("a", True), ("b", True), ("ab", False), ("aab", True), ("aabb", False), ("abb", False), ([""], True)],
)
def test_copies_that_contradict_each_other_give_no_answer_away(pixels, labels, refused):
    entries = [*(clip(f"t{i}", "train", label) for i, label in enumerate(labels)), clip("e", "test", "a")]
    (copy,) = find_split_copies(compute_fingerprints(pixels[[0] * len(entries)]), entries)
    assert copy.refused == refused


def test_still_clips_are_no_near_copies(pixels):
    still = np.repeat(pixels[:, :1], 8, axis=1)
    noisy = np.clip(still.astype(int) + np.random.default_rng(0).integers(-1, 2, still.shape), 0, 255).astype(np.uint8)
    entries = [clip("t", "train"), clip("e", "test")]
    assert find_split_copies(compute_fingerprints(np.stack([still[0], noisy[0]])), entries) == ()


def test_clips_of_other_seeds_are_no_copies(film, tmp_path):
    motions = ("move_left", "move_right", "spin_cw", "blink", "orbit")
    files = [film(tmp_path / f"{m}{i}.mp4", m, seed=i, frames=8, size=48) for m in motions for i in range(12)]
    fingerprints = compute_fingerprints(np.stack([decode_clip(file, SAMPLING, PREPROCESS) for file in files]))
    rows = np.arange(len(files))
    assert [pair for pair in find_near_copies(fingerprints, rows, rows) if pair[0] != pair[1]] == []


def test_one_of_many_is_found():
    """Among 3,000 clips, each one's copy is found, whatever the number of others with similar hashes."""
    rng = np.random.default_rng(0)
    count = 1500
    hashes = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    pictures = rng.uniform(0, 255, (count, 8, 16, 16)).astype(np.float16)
    flipped = hashes.copy()
    flipped[:, 0] ^= 0xFF  # eight bits
    both = Fingerprints(
        np.zeros((2 * count, 16), np.uint8),
        np.concatenate([hashes, flipped]),
        np.concatenate([pictures, pictures + rng.normal(0, 3, pictures.shape).astype(np.float16)]),
    )
    found = list(find_near_copies(both, np.arange(count), np.arange(count, 2 * count)))
    assert sorted(found) == [(i, i + count) for i in range(count)]


def test_empty_splits():
    none = compute_fingerprints(np.empty((0, 8, 16, 16, 3), np.uint8))
    assert find_split_copies(none, []) == ()
