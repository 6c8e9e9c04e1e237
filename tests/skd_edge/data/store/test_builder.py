"""Building a store: order and hash of the clips, interrupted builds, hanging decoders, unwritable folders."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from skd_bench.errors import UserError
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.listing import ClipEntry
from skd_edge.data.store import builder
from skd_edge.data.store.builder import Decoding, build_store
from skd_edge.recipe.loader import load_recipe

SAMPLING, PREPROCESS = Sampling(3), Preprocessing(16, 16, "crop", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def entries(film, tmp_path) -> list[ClipEntry]:
    """Six clips with other pixels each; the second and the fourth are unreadable."""
    paths = [film(tmp_path / f"{i}.mp4", seed=i, frames=6, size=16) for i in range(6)]
    for i in (1, 3):
        paths[i].write_text("not a video")
    return [ClipEntry(p, p.name, "a", "train", p.name) for p in paths]


def build(folder: Path, entries, **kw):
    build_store(folder, entries, Decoding(SAMPLING, PREPROCESS, processes=1, **kw))
    return np.load(folder / "clips.npy"), json.loads((folder / "store.json").read_text())


def interrupt_at(count: int):
    """A progress function that stops a build after ``count`` clips."""

    def progress(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


def test_readable_clips_are_in_the_order_of_their_entries(entries, tmp_path):
    pixels, info = build(tmp_path / "store", entries)
    readable = [0, 2, 4, 5]
    assert info["bad"] == [1, 3]
    assert [q["path"] for q in info["quarantined"]] == ["1.mp4", "3.mp4"]
    assert info["clips"] == 4
    for row, i in enumerate(readable):
        assert np.array_equal(pixels[row], decode_clip(entries[i].path, SAMPLING, PREPROCESS))
    assert info["hash"] == hashlib.sha256(pixels[:4].tobytes()).hexdigest()
    assert {p.name for p in (tmp_path / "store").iterdir()} == {"clips.npy", "clips.crc32", "store.json", "lock"}


def test_a_complete_store_is_not_built_again(entries, tmp_path):
    _, info = build(tmp_path / "store", entries)
    for entry in entries:
        entry.path.unlink()
    assert build(tmp_path / "store", entries, progress=lambda *_: pytest.fail("decoded again"))[1] == info


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_interrupted_build_gives_the_same_store(entries, tmp_path, count):
    whole, info = build(tmp_path / "whole", entries)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store", entries, progress=interrupt_at(count))
    numbers = []
    pixels, again = build(tmp_path / "store", entries, progress=lambda done, total: numbers.append((done, total)))
    assert numbers == [(n, 6) for n in range(count + 1, 7)]
    assert again == info
    assert np.array_equal(pixels, whole)


@pytest.mark.parametrize("name", ["clips.part.npy", "state.part", "bad.part.jsonl"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "no text"])
def test_a_damaged_interrupted_build_gives_the_same_store(entries, tmp_path, name, how):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store", entries, progress=interrupt_at(4))
    file = tmp_path / "store" / name
    content = bytearray(file.read_bytes())
    content[140 if name == "clips.part.npy" else 0] ^= 4
    half = bytes(content[: len(content) // 2])
    file.write_bytes({"flip": bytes(content), "cut": half, "empty": b"", "no text": b'\xff\n3\n{"entry": []}\n'}[how])
    pixels, info = build(tmp_path / "store", entries)
    whole, expected = build(tmp_path / "whole", entries)
    assert info == expected
    assert np.array_equal(pixels[: info["clips"]], whole[: info["clips"]])


def test_an_unreadable_clip_does_not_become_a_good_one(entries, tmp_path):
    """One byte of the states: its black pixels would be trained on."""
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store", entries, progress=interrupt_at(4))
    states = np.fromfile(tmp_path / "store" / "state.part", builder.BUILD_STATE)
    assert states["state"][1] == builder.BAD
    states["state"][1] = builder.GOOD
    states.tofile(tmp_path / "store" / "state.part")
    assert build(tmp_path / "store", entries)[1]["bad"] == [1, 3]


def test_a_clip_whose_reason_was_lost_is_tried_again(entries, tmp_path):
    """The state byte is on the disk, but the line with the reason was truncated."""
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store", entries, progress=interrupt_at(4))
    reasons = tmp_path / "store" / "bad.part.jsonl"
    whole = reasons.read_text()
    assert whole.count("\n") == 2
    reasons.write_text(whole[: whole.index("\n") + 10])
    assert build(tmp_path / "store", entries)[1] == build(tmp_path / "whole", entries)[1]


def test_a_list_of_another_length_starts_from_the_beginning(entries, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store", entries, progress=interrupt_at(2))
    pixels, info = build(tmp_path / "store", entries[:3])
    assert (info["clips"], info["bad"]) == (2, [1])
    assert np.array_equal(pixels[1], decode_clip(entries[2].path, SAMPLING, PREPROCESS))


def test_a_store_without_readable_clips(entries, tmp_path):
    _, info = build(tmp_path / "store", [entries[1], entries[3]])
    assert (info["clips"], info["bad"]) == (0, [0, 1])


def test_a_folder_that_cannot_be_written(entries, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        UserError, match=r"cannot build the clip store .*the store needs 0 MB.*SKD_EDGE_CACHE"
    ) as caught:
        build(tmp_path / "file" / "store", entries)
    assert caught.value.exit_code == 1


def test_a_clip_whose_decoder_hangs_is_unreadable(recipe, own_places, tmp_path, monkeypatch):
    """The clip is tried twice and then listed with the reason."""
    entries = [ClipEntry(p, p.name, "a", "train", p.name) for p in sorted((tmp_path / "videos/a").iterdir())[:3]]
    monkeypatch.setattr(builder, "make_clip_decoder", make_hanging_decoder)
    preprocessing = inference_preprocessing(load_recipe(str(recipe), ()).clip)
    decoding = builder.Decoding(*preprocessing, processes=1, timeout=1.0)
    builder.build_store(tmp_path / "store", entries, decoding)
    info = yaml.safe_load((tmp_path / "store/store.json").read_text())
    assert info["bad"] == [1]
    assert "did not end within 1 s" in info["quarantined"][0]["reason"]
    assert np.load(tmp_path / "store/clips.npy", mmap_mode="r")[:2].any(axis=(1, 2, 3, 4)).all()


def make_hanging_decoder(*arguments):
    decode = builder.make_clip_decoder(*arguments)  # in the worker process nothing is patched

    def decode_or_hang(number, source):
        if number == 1:
            time.sleep(600)
        return decode(number, source)

    return decode_or_hang
