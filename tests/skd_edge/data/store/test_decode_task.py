"""The task of a decoding process: each clip goes into its row of the file, unreadable clips return a reason."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from skd_bench.video.clip import decode_clip
from skd_bench.video.types import WHOLE_FILE, ClipSpan, Preprocessing, Sampling
from skd_edge.data.store.decode_task import count_row_bytes, make_clip_decoder

SAMPLING, PREPROCESS = Sampling(3), Preprocessing(12, 16, "crop", (0.5,) * 3, (0.25,) * 3)
SHAPE = (4, 3, 12, 16, 3)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "clips.npy"
    np.save(path, np.full(SHAPE, 7, np.uint8))
    return path


def test_the_size_of_a_row(store):
    assert count_row_bytes(SAMPLING, PREPROCESS) == np.load(store)[0].nbytes


@pytest.mark.parametrize("row", range(4))
def test_a_clip_is_written_into_its_row_only(film, store, tmp_path, row):
    video = film(tmp_path / "a b.mp4")
    decode = make_clip_decoder(store, SAMPLING, PREPROCESS, "pyav")
    assert decode(row, (str(video), WHOLE_FILE)) is None
    clips = np.load(store)
    assert clips.shape == SHAPE
    assert np.array_equal(clips[row], decode_clip(video, SAMPLING, PREPROCESS))
    assert (np.delete(clips, row, axis=0) == 7).all()


def test_parts_of_files(film, store, tmp_path):
    """A span of time, and a video inside a tar file."""
    video = film(tmp_path / "v.mp4", frames=30)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(video, "v.mp4")
    with tarfile.open(tmp_path / "shard.tar") as tar:
        member = tar.getmembers()[0]
    decode = make_clip_decoder(store, SAMPLING, PREPROCESS, "pyav")
    assert decode(0, (str(video), WHOLE_FILE)) is None
    assert decode(1, (str(tmp_path / "shard.tar"), ClipSpan(offset=member.offset_data, size=member.size))) is None
    assert decode(2, (str(video), ClipSpan(0.5, 1.5))) is None
    clips = np.load(store)
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (None, "no such file"), (b"not a video" * 9, "")])
def test_an_unreadable_clip_returns_a_reason_and_writes_nothing(store, tmp_path, content, reason):
    video = tmp_path / "v.mp4"
    if content is not None:
        video.write_bytes(content)
    answer = make_clip_decoder(store, SAMPLING, PREPROCESS, "pyav")(1, (str(video), WHOLE_FILE))
    assert answer
    assert reason in answer
    assert str(tmp_path) not in answer  # reasons are counted by text, so they do not contain the path
    assert (np.load(store) == 7).all()


def test_the_file_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_clip_decoder(tmp_path / "clips.npy", SAMPLING, PREPROCESS, "pyav")
