"""The clip store: every file is decoded once; unreadable clips are listed and do not shift labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.sources.registry import ClipEntry, ClipListing, list_clips
from skd_edge.data.store import store_check
from skd_edge.data.store.builder import Decoding
from skd_edge.data.store.clip_store import format_file_stamp, is_store_built, open_store
from skd_edge.data.store.fingerprints import FINGERPRINT_FILE
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.data import FolderData, TableData
from skd_edge.recipe.schema import Recipe

SAMPLING, PREPROCESS = Sampling(4), Preprocessing(16, 16, "crop", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="session")
def videos(film, tmp_path_factory) -> Path:
    """Two classes of twelve real clips each, in a folder with a space and a letter beyond ASCII."""
    root = tmp_path_factory.mktemp("videos") / "meine Vidéos"
    for label in ("spin_cw", "blink"):
        for i in range(12):
            film(root / label / f"clip {i} ü.mp4", label, seed=i)
    return root


@pytest.fixture
def root(videos, tmp_path) -> Path:
    return shutil.copytree(videos, tmp_path / "my clips ß")


def opened(listing, cache, min_clips=0.5, sampling=SAMPLING, allow_test_copies=False, **kw):
    decoding = Decoding(sampling, PREPROCESS, processes=1, **kw)
    return open_store(listing, decoding, cache, min_clips=min_clips, allow_test_copies=allow_test_copies)


def folder(root, tmp_path, **kw):
    return list_clips(FolderData(kind="folder", root=root, val=0.25, test=0.25, **kw), seed=0, cache=tmp_path)


def check_every_clip(clips, listing):
    """Each clip's pixels and label are those of the file with its name and split."""
    for split in ("train", "val", "test"):
        subset = clips.test.unseal() if split == "test" else getattr(clips, split)
        entries = {e.name: e for e in listing.entries if e.split == split}
        for name, pixels, label in zip(subset.names, subset.clips, subset.labels, strict=True):
            entry = entries[name]
            assert clips.classes[label] == entry.label
            assert np.array_equal(pixels, decode_clip(entry.path, SAMPLING, PREPROCESS))


def test_clips_equal_those_that_the_device_decodes(root, tmp_path):
    listing, calls = folder(root, tmp_path), []
    assert not is_store_built(listing, SAMPLING, PREPROCESS, tmp_path)
    clips = opened(listing, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert is_store_built(listing, SAMPLING, PREPROCESS, tmp_path)
    assert calls[-1] == (24, 24)
    assert (len(clips.train), len(clips.val), len(clips.test)) == (12, 6, 6)
    assert clips.train.clips.shape == (12, 4, 16, 16, 3)
    assert clips.quarantined == ()
    assert len({int(i) for s in (clips.train, clips.val, clips.test.unseal()) for i in s.ids}) == 24
    check_every_clip(clips, listing)


def test_an_existing_store_is_not_decoded_again(root, tmp_path):
    listing = folder(root, tmp_path)
    first = opened(listing, tmp_path)
    again = opened(listing, tmp_path, progress=lambda done, total: pytest.fail("decoded again"))
    assert first.train.hash == again.train.hash
    assert np.array_equal(first.val.clips, again.val.clips)


def test_the_hash_depends_on_pixels_and_labels_not_on_paths(root, tmp_path):
    other = shutil.copytree(root, tmp_path / "elsewhere")
    one, two = opened(folder(root, tmp_path), tmp_path), opened(folder(other, tmp_path), tmp_path)
    assert one.train.hash == two.train.hash
    assert len({one.train.hash, one.val.hash, one.test.hash}) == 3
    listing = folder(root, tmp_path)
    relabelled = tuple(
        ClipEntry(e.path, e.name, "blink" if i == 0 else e.label, e.split, e.group)
        for i, e in enumerate(listing.entries)
    )
    swapped = opened(ClipListing(listing.classes, relabelled, ""), tmp_path)
    assert (swapped.train.hash == one.train.hash) == (listing.entries[0].label == "blink")
    assert opened(folder(root, tmp_path), tmp_path, sampling=Sampling(3)).train.hash != one.train.hash


def test_a_changed_file_is_decoded_again(root, tmp_path, film):
    listing = folder(root, tmp_path)
    before = opened(listing, tmp_path)
    film(listing.entries[0].path, "grow", seed=99)
    after = opened(listing, tmp_path)
    assert before.train.hash != after.train.hash
    check_every_clip(after, listing)


def test_unreadable_files_are_listed_and_the_others_are_used(root, tmp_path):
    listing = folder(root, tmp_path)
    train = [e for e in listing.entries if e.split == "train"]
    train[0].path.write_bytes(b"")
    train[2].path.write_text("this is not a video")
    whole = train[4].path.read_bytes()
    train[4].path.write_bytes(whole[: len(whole) // 3])
    train[5].path.unlink()
    clips = opened(listing, tmp_path)
    reasons = {q["path"]: q["reason"] for q in clips.quarantined}
    assert list(reasons) == [train[i].name for i in (0, 2, 4, 5)]
    assert "empty" in reasons[train[0].name]
    assert "no such file" in reasons[train[5].name]
    assert all(reasons.values())
    assert len(clips.train) == 8
    check_every_clip(clips, listing)
    # The reasons are stored, and are there when the store is opened again.
    assert opened(listing, tmp_path).quarantined == clips.quarantined


def test_too_few_readable_clips(root, tmp_path):
    listing = folder(root, tmp_path)
    for entry in listing.entries[:5]:
        entry.path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        opened(listing, tmp_path, min_clips=0.9)
    message = str(caught.value)
    assert "5 of 24 clips cannot be read" in message
    assert listing.entries[0].name in message
    assert "min_clips requires 90%" in message
    assert len(opened(listing, tmp_path, min_clips=0.7).train) == 7


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_without_readable_clips(root, tmp_path, split):
    listing = folder(root, tmp_path)
    for entry in listing.entries:
        if entry.split == split and entry.label == "blink":
            entry.path.write_bytes(b"")
    with pytest.raises(UserError, match="class 'blink' has no readable training clip or no readable validation clip"):
        opened(listing, tmp_path)


def test_a_test_split_without_readable_clips(root, tmp_path):
    listing = folder(root, tmp_path)
    for entry in listing.entries:
        if entry.split == "test":
            entry.path.write_bytes(b"")
    with pytest.raises(UserError, match="no test clip is readable"):
        opened(listing, tmp_path)


def test_equal_names_in_two_splits(root, videos, tmp_path):
    """``val/blink/x.mp4`` and ``train/blink/x.mp4`` are two clips; if one is unreadable, no label shifts."""
    checked = shutil.copytree(videos, tmp_path / "val")
    listing = folder(root, tmp_path, val_root=checked, test_root=shutil.copytree(videos, tmp_path / "test"))
    (root / "blink" / "clip 0 ü.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"24 test clips are copies of .* allow_test_copies: true"):
        opened(listing, tmp_path)
    clips = opened(listing, tmp_path, allow_test_copies=True)
    assert (len(clips.train), len(clips.val), len(clips.test)) == (23, 24, 24)
    assert {copy.kind for copy in clips.copies} == {"equal"}
    assert len(clips.copies) == 23 + 24
    assert clips.val.names[0] == "blink/clip 0 ü.mp4"
    check_every_clip(clips, listing)


def test_more_frames_than_the_video_has(root, tmp_path):
    clips = opened(folder(root, tmp_path), tmp_path, sampling=Sampling(20))
    assert clips.train.clips.shape[1] == 20
    assert clips.quarantined == ()
    assert len({frame.tobytes() for frame in clips.train.clips[0]}) <= 8  # frames repeat


def test_scattered_splits(root, tmp_path):
    """The splits of a listing may be mixed: the clips are the same."""
    listing = folder(root, tmp_path)
    mixed = ClipListing(listing.classes, tuple(sorted(listing.entries, key=lambda e: e.name)), "")
    check_every_clip(opened(mixed, tmp_path), mixed)


def test_groups_number_the_source_videos(root, tmp_path):
    listing = folder(root, tmp_path)
    paired = tuple(ClipEntry(e.path, e.name, e.label, e.split, f"g{i // 2}") for i, e in enumerate(listing.entries))
    groups = opened(ClipListing(listing.classes, paired, ""), tmp_path).train.groups
    assert groups.tolist() == [i // 2 for i in range(12)]


def test_label_noise_changes_weak_labels_but_not_the_clips(root, tmp_path):
    base = {
        "name": "g",
        "data": {"kind": "folder", "root": root, "val": 0.25, "test": 0.25},
        "students": [{"name": "s"}],
    }
    base["clip"] = {"frames": 4, "size": 16}
    clean = load_training_data(Recipe.model_validate(base), tmp_path)
    noisy = load_training_data(
        Recipe.model_validate(base | {"labels": {"noise": {"kind": "symmetric", "rate": 0.5}}}), tmp_path
    )
    assert clean.truth is None
    assert np.array_equal(clean.weak_labels, clean.clips.train.labels)
    assert np.array_equal(noisy.truth, clean.weak_labels)
    assert (noisy.weak_labels != noisy.truth).sum() == 6
    assert noisy.weak_hash != clean.weak_hash
    assert noisy.clips.train.hash == clean.clips.train.hash
    assert {label for _, label in clean.sample_files} == {"blink", "spin_cw"}
    assert all(path.is_file() for path, _ in clean.sample_files)


def test_real_camera_clips(tmp_path, shared):
    root = shared("decode") / "asl"
    files = sorted(p.name for p in root.iterdir())[:6]
    splits = ["train", "train", "val"]
    files.append(sorted(p.name for p in root.iterdir())[6])
    rows = [f"{root / f},{'aba'[i // 3]},{[*splits, *splits, 'test'][i]}" for i, f in enumerate(files)]
    (tmp_path / "index.csv").write_text("\n".join(["path,label,split", *rows]))
    rules = {s: {"split": [s]} for s in ("train", "val", "test")}
    listing = list_clips(TableData(kind="csv", root=tmp_path, **rules), seed=0, cache=tmp_path)
    clips = opened(listing, tmp_path)
    assert clips.quarantined == ()
    assert clips.train.clips.shape == (4, 4, 16, 16, 3)
    assert clips.train.clips.std() > 10  # not a uniform grey
    check_every_clip(clips, listing)


def damage(file: Path, how: str) -> None:
    """Change a file as a bad disk does: flip a byte in its middle, cut it, or empty it."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes({"flip": bytes(content), "cut": bytes(content[: len(content) // 2]), "empty": b""}[how])


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
@pytest.mark.parametrize("name", ["clips.npy", "clips.crc32", "store.json"])
@pytest.mark.parametrize("unreadable", [0, 1])
def test_a_damaged_store_is_named_and_repaired(root, tmp_path, caplog, name, how, unreadable):
    listing = folder(root, tmp_path)
    for entry in listing.entries[:unreadable]:
        entry.path.write_bytes(b"")
    before = opened(listing, tmp_path)
    (file,) = tmp_path.glob(f"stores/*/{name}")
    stored_fingerprints = (file.parent / FINGERPRINT_FILE).read_bytes()
    (file.parent / FINGERPRINT_FILE).write_bytes(b"those of other clips")
    damage(file, how)
    after = opened(listing, tmp_path)
    assert f"{name} is damaged: expected " in caplog.text
    assert "decoded again" in caplog.text
    assert FINGERPRINT_FILE not in caplog.text  # they went with the damaged store
    assert (file.parent / FINGERPRINT_FILE).read_bytes() == stored_fingerprints
    assert (after.train.hash, after.val.hash, after.test.hash) == (before.train.hash, before.val.hash, before.test.hash)
    check_every_clip(after, listing)
    assert after.quarantined == before.quarantined
    caplog.clear()
    opened(listing, tmp_path, progress=lambda done, total: pytest.fail("decoded again"))
    assert caplog.text == ""


def test_only_damaged_clips_are_decoded_again(root, tmp_path):
    listing, calls = folder(root, tmp_path), []
    opened(listing, tmp_path)
    (file,) = tmp_path.glob("stores/*/clips.npy")
    damage(file, "flip")
    opened(listing, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(24, 24)]


@pytest.mark.parametrize("name", ["clips.npy", "clips.crc32", "store.json"])
def test_a_store_that_another_process_has_repaired_is_left_as_it_is(root, tmp_path, monkeypatch, name):
    """Both saw the damage; the other one had the lock first."""
    listing, lock_store = folder(root, tmp_path), store_check.lock_store
    before = opened(listing, tmp_path)
    (file,) = tmp_path.glob(f"stores/*/{name}")
    damage(file, "flip")

    def lock_after_the_other(store):
        monkeypatch.setattr(store_check, "lock_store", lock_store)
        opened(listing, tmp_path)
        return lock_store(store)

    monkeypatch.setattr(store_check, "lock_store", lock_after_the_other)
    after = opened(listing, tmp_path, progress=lambda done, total: pytest.fail("decoded again"))
    assert (after.train.hash, after.val.hash, after.test.hash) == (before.train.hash, before.val.hash, before.test.hash)


def test_a_damaged_store_whose_videos_changed_is_another_store(root, tmp_path, film):
    """Nothing is taken from a damaged store for videos that are not those it was built from."""
    listing = folder(root, tmp_path)
    opened(listing, tmp_path)
    (file,) = tmp_path.glob("stores/*/clips.npy")
    damage(file, "flip")
    film(listing.entries[0].path, "grow", seed=99)
    check_every_clip(opened(listing, tmp_path), listing)


def test_a_broken_link_does_not_hide_replaced_pictures(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "1.png").write_bytes(b"one")
    whole = format_file_stamp(pictures)
    (pictures / "2.png").symlink_to("nowhere.png")
    linked = format_file_stamp(pictures)
    (pictures / "1.png").write_bytes(b"other")
    assert len({whole, linked, format_file_stamp(pictures), "missing"}) == 4
    assert format_file_stamp(tmp_path / "nowhere") == "missing"
