"""One walk finds the clips of a folder, and states what it left out."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.listing.folder_walk import VIDEO_SUFFIXES, LeftOut, expand_folders, find_clips, is_video_name
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import Preprocessing, Sampling


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(root, left_out=None, **options):
    return [clip.name for clip in find_clips(root, left_out or LeftOut(), **options)]


def test_hidden_files_and_folders_are_left_out_and_counted(tmp_path):
    root = touch(tmp_path, "a/1.mp4", "a/._1.mp4", "a/.ipynb_checkpoints/1.mp4", "b/2.MTS", "b/x.srt", "b/y.srt", "c/z")
    left_out = LeftOut()
    assert names(root, left_out) == ["a/1.mp4", "b/2.MTS"]
    assert left_out.to_text() == "left out: 2 .srt (b), 1 hidden file (a), 1 hidden folder (a), 1 without an ending (c)"


def test_links_are_followed_once(tmp_path):
    root, other = touch(tmp_path / "root", "a/1.mp4", "b/2.mp4"), touch(tmp_path / "other", "3.mp4", "deep/4.mp4")
    (root / "a" / "more").symlink_to(other)
    (root / "a" / "again").symlink_to(root / "b")  # a real folder of the same set: its clip belongs to b
    (root / "b" / "loop").symlink_to(root)
    (other / "deep" / "up").symlink_to(other)
    (root / "b" / "file.mp4").symlink_to(root / "a" / "1.mp4")
    (root / "b" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    left_out = LeftOut()
    found = names(root, left_out)
    assert found == ["a/1.mp4", "a/more/3.mp4", "a/more/deep/4.mp4", "b/2.mp4", "b/file.mp4"]
    text = left_out.to_text()
    assert "3 linked folder that is read already" in text
    assert "1 broken link or device (b)" in text


def test_links_that_form_a_loop_of_their_own_are_counted(tmp_path):
    """The system refuses even to say whether such a link is a folder."""
    root = touch(tmp_path, "a/1.mp4", "b/2.mp4")
    for name in ("a/loop.mp4", "b/.loop"):
        (root / name).symlink_to(Path(name).name)
    left_out = LeftOut()
    assert names(root, left_out, by_class=True) == ["a/1.mp4", "b/2.mp4"]
    assert left_out.to_text() == "left out: 1 broken link or device (a), 1 hidden file (b)"


def test_class_folders(tmp_path):
    root = touch(tmp_path, "loose.mp4", "index.csv", "a/1.mp4", "b/deep/2.mp4", "skip/3.mp4")
    left_out = LeftOut()
    assert names(root, left_out, by_class=True, excluded=[root / "skip", None]) == ["a/1.mp4", "b/deep/2.mp4"]
    assert left_out.to_text() == "left out: 1 .mp4 outside of the class folders (.)"


def test_folders_of_pictures(tmp_path):
    root = touch(tmp_path, "a/x/1.jpg", "a/x/2.jpg", "a/loose.png", "b/y/1.PNG", "b/y/2.PNG", "b/y/t.txt", "b/z/1.png")
    left_out = LeftOut()
    assert names(root, left_out, by_class=True) == ["a/x", "b/y"]
    assert left_out.to_text() == "left out: 2 .png (a, b/z), 1 .txt (b/y)"
    touch(root, "a/film.mp4")  # beside videos they are thumbnails, unless the recipe says otherwise
    left_out = LeftOut()
    assert names(root, left_out, by_class=True) == ["a/film.mp4"]
    assert "2 .jpg (a/x)" in left_out.to_text()
    assert names(root, by_class=True, pictures="always") == ["a/film.mp4", "a/x", "b/y"]


def test_names_that_are_not_utf8_stay_apart(tmp_path):
    (tmp_path / "a").mkdir()
    for raw in (b"caf\xe9.mp4", b"caf\xe8.mp4"):
        with open(os.fsencode(tmp_path) + b"/a/" + raw, "wb") as file:
            file.write(b"x")
    assert names(tmp_path) == ["a/caf\\xe8.mp4", "a/caf\\xe9.mp4"]
    assert all(clip.path.is_file() for clip in find_clips(tmp_path, LeftOut()))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_counted(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "b").chmod(0)
    left_out = LeftOut()
    assert names(tmp_path, left_out) == ["a/1.mp4"]
    (tmp_path / "b").chmod(0o755)
    assert "cannot be read (b)" in left_out.to_text()


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=1))
def test_every_left_out_file_is_counted(folders):
    left_out = LeftOut()
    for folder, count in folders.items():
        left_out.add(".txt", folder, count)
    assert left_out.to_text().startswith(f"left out: {sum(folders.values())} .txt (")


# ------------------------------------------------------------------------------------------ endings
@pytest.mark.parametrize("ending", [".MTS", ".gif", ".AVI", ".ogv", ".Mpg", ".webm", ".flv", ".3gp", ".nut", ".mjpeg"])
def test_what_ffmpeg_writes_with_this_ending_is_found_and_read(tmp_path, ending, recorder):
    file = tmp_path / f"clip{ending}"
    recorder(file)
    assert names(tmp_path) == [file.name]
    clip = decode_clip(file, Sampling(2), Preprocessing(16, 16, "crop", (0, 0, 0), (1, 1, 1)))
    assert clip.shape == (2, 16, 16, 3)


@pytest.fixture
def recorder():
    """Writes a short video with the container that FFmpeg chooses for an ending, and its usual codec."""

    def record(file: Path) -> None:
        codecs = {".gif": "gif", ".ogv": "mpeg4", ".webm": "libvpx", ".flv": "flv", ".mjpeg": "mjpeg"}
        formats = {".mts": "mpegts", ".ogv": "matroska", ".mjpeg": "mjpeg"}
        ending = file.suffix.lower()
        with av.open(str(file), "w", format=formats.get(ending)) as container:
            stream = container.add_stream(codecs.get(ending, "mpeg1video" if ending == ".mpg" else "mpeg4"), rate=25)
            stream.width = stream.height = 32
            stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codecs.get(ending, ""), "yuv420p")
            for i in range(8):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())

    return record


# What FFmpeg's readers of videos announce, and what is left out on purpose: sound, still pictures.
READERS = [
    "mov",
    "matroska",
    "avi",
    "flv",
    "h264",
    "hevc",
    "av1",
    "vvc",
    "mjpeg",
    "gif",
    "dv",
    "ivf",
    "nut",
    "mxf",
    "ogg",
]
NO_VIDEOS = {"m4a", "m4b", "isma", "ism", "mka", "mks", "heic", "heif", "avif", "mpo", "ogg"}


def test_the_endings_of_ffmpegs_readers_are_known():
    announced = {ending for name in READERS for ending in av.format.ContainerFormat(name, "r").extensions}
    assert len(announced) > 20
    assert {ending for ending in announced - NO_VIDEOS if not is_video_name(f"x.{ending}")} == set()
    assert {".txt", ".jpg", ".srt", ".wav", ".json"}.isdisjoint(VIDEO_SUFFIXES)


def test_folders_are_expanded_to_their_clips(tmp_path):
    videos = touch(tmp_path / "v", "b/2.mp4", "a/1.MTS", "a/x.srt")
    pictures = touch(tmp_path / "p", "1.jpg", "2.jpg")
    left_out = LeftOut()
    expanded = expand_folders([videos, pictures, tmp_path / "gone.mp4"], left_out)
    assert expanded == [videos / "a/1.MTS", videos / "b/2.mp4", pictures, tmp_path / "gone.mp4"]
    assert left_out.to_text() == "left out: 1 .srt (a)"


def test_a_folder_of_pictures_is_a_clip_although_flow_lies_in_it(tmp_path):
    clip = touch(tmp_path / "c", *(f"{part}{i}.jpg" for part in ("img_", "flow/") for i in range(3)))
    assert expand_folders([clip], LeftOut()) == [clip]
    several = touch(tmp_path / "d", "cover.jpg", *(f"{part}/{i}.jpg" for part in "ab" for i in range(3)))
    assert expand_folders([several], LeftOut()) == [several / "a", several / "b"]
    videos = touch(tmp_path / "e", "1.jpg", "2.jpg", "a/1.mp4")  # beside videos they are thumbnails
    assert expand_folders([videos], LeftOut()) == [videos / "a/1.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_costs_only_itself(tmp_path):
    closed, videos = touch(tmp_path / "closed", "1.mp4"), touch(tmp_path / "v", "1.mp4")
    closed.chmod(0)
    expanded = expand_folders([closed, videos], LeftOut())
    closed.chmod(0o755)
    assert expanded == [closed, videos / "1.mp4"]
