"""Decoding a whole video: which frames are chosen, which files are refused, and how pixels are normalised."""

import random

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_bench.errors import UserError
from skd_bench.video import decoder
from skd_bench.video.clip import decode_clip, normalise, prepare_input
from skd_bench.video.types import ClipError, Preprocessing, Sampling

GREY = Preprocessing(32, 32, "stretch", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


def level(frame: int) -> int:
    """The grey that encodes a frame's number. Steps of 4 remain distinguishable after H.264."""
    return 20 + frame * 4


def grey(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), level(i), np.uint8) for i in range(count)]


def shown(path, sampling, preprocess=GREY) -> list[int]:
    """The numbers of the frames that were chosen, read back from their grey."""
    clip = decode_clip(path, sampling, preprocess)
    assert clip.dtype == np.uint8
    assert clip.shape == (sampling.frames, preprocess.height, preprocess.width, 3)
    numbers = (clip.mean(axis=(1, 2, 3)) - 20) / 4
    assert np.abs(numbers - np.round(numbers)).max() < 0.4, numbers
    return np.round(numbers).astype(int).tolist()


def middles(count: int, frames: int) -> list[int]:
    return [(2 * k + 1) * count // (2 * frames) for k in range(frames)]


# --------------------------------------------------------------------------------------------------- which frames
@pytest.mark.parametrize(("count", "frames"), [(16, 8), (16, 16), (19, 8), (50, 3), (1, 1), (1, 4), (5, 8), (2, 9)])
def test_uniform_takes_the_frame_at_each_middle(tmp_path, count, frames, write):
    path = write(tmp_path / "v.mp4", grey(count))
    assert shown(path, Sampling(frames)) == middles(count, frames)


@pytest.mark.parametrize(
    ("count", "frames", "stride", "want"),
    [
        (20, 4, 2, [6, 8, 10, 12]),
        (20, 4, 1, [8, 9, 10, 11]),
        (5, 4, 2, [0, 1, 3, 4]),  # -1, 1, 3, 5, limited to the video
        (3, 8, 1, [0, 0, 0, 0, 1, 2, 2, 2]),
        (1, 3, 5, [0, 0, 0]),
        (40, 1, 7, [19]),
    ],
)
def test_dense_takes_frames_a_stride_apart_around_the_middle(tmp_path, count, frames, stride, want, write):
    path = write(tmp_path / "v.mp4", grey(count))
    got = shown(path, Sampling(frames, "dense", stride))
    assert got == want


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path, write):
    # Frame 0 is shown for a whole second, the others for a tenth each: 0.9 s more.
    path = write(tmp_path / "v.mp4", grey(10), pts=[0, *range(1000, 1900, 100)])
    assert shown(path, Sampling(4)) == [0, 0, 2, 7]  # 1.9 s in all; the middles are at 0.24, 0.71, 1.19 and 1.66 s


def test_time_does_not_start_at_zero(tmp_path, write):
    path = write(tmp_path / "v.mkv", grey(10), pts=[5000 + 40 * i for i in range(10)])
    assert shown(path, Sampling(5)) == middles(10, 5)


def test_a_file_without_timestamps_counts_frames(tmp_path, write):
    path = write(tmp_path / "v.h264", grey(30))
    assert shown(path, Sampling(6)) == middles(30, 6)


@pytest.mark.parametrize(
    ("name", "codec"), [("v.avi", "mpeg4"), ("v.webm", "libvpx"), ("v.ts", "libx264"), ("v.mkv", "ffv1")]
)
def test_other_containers_and_codecs_give_the_same_frames(tmp_path, name, codec, write):
    path = write(tmp_path / name, grey(24), codec=codec, gop=6, bit_rate=4_000_000)
    assert shown(path, Sampling(6)) == middles(24, 6)


@pytest.mark.parametrize("open_gop", [False, True])
@pytest.mark.parametrize("keep", [decoder._KEEP_BYTES, 0])
def test_groups_without_a_chosen_frame_are_not_decoded_and_change_nothing(tmp_path, monkeypatch, open_gop, keep, write):
    path = write(tmp_path / "v.mp4", grey(58), gop=5, open_gop=open_gop)
    monkeypatch.setattr(decoder, "_KEEP_BYTES", keep)
    decoded = []
    real = decoder.iter_pictures

    def counting(*args):
        for frame in real(*args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decoder, "iter_pictures", counting)
    assert shown(path, Sampling(3)) == middles(58, 3)
    assert len(decoded) < 35
    assert shown(path, Sampling(58)) == list(range(58))


def test_large_videos_may_use_decoder_threads_with_the_same_result(tmp_path, monkeypatch, write):
    path = write(tmp_path / "v.mp4", grey(40))
    alone = decode_clip(path, Sampling(8), GREY)
    monkeypatch.setattr(decoder, "_THREADS_FROM_PIXELS", 0)
    assert np.array_equal(decode_clip(path, Sampling(8), GREY), alone)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), frames=st.integers(1, 20), gop=st.integers(1, 12))
def test_uniform_sampling_works_for_any_number_of_frames(tmp_path_factory, count, frames, gop, write):
    path = tmp_path_factory.mktemp("any") / "v.mp4"
    assert shown(write(path, grey(count, 32, 32), gop=gop), Sampling(frames)) == middles(count, frames)


# ---------------------------------------------------------------------------------------------------- bad files
@pytest.mark.parametrize("name", ["mit Leer und Ümläuten 動画.mp4", "a:b.mp4", "file:x.mp4", "50%d.mp4", "-v.mp4"])
def test_any_file_name_can_be_opened(tmp_path, monkeypatch, name, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "v.mp4", grey(4)).rename(tmp_path / name)
    assert shown(tmp_path / name, Sampling(4)) == [0, 1, 2, 3]
    assert shown(name, Sampling(4)) == [0, 1, 2, 3]


def refused(path) -> ClipError:
    with pytest.raises(ClipError) as caught:
        decode_clip(path, Sampling(8), GREY)
    error = caught.value
    assert str(path) in str(error)
    assert error.reason in str(error)
    assert str(path) not in error.reason
    assert str(error.path) == str(path)
    assert isinstance(error, UserError)
    assert error.exit_code == 1
    return error


def test_a_file_that_is_not_a_video_is_refused_with_the_reason(tmp_path):
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(random.Random(0).randbytes(5000))
    (tmp_path / "folder.mp4").mkdir()
    assert "empty" in refused(tmp_path / "zero.mp4").reason
    assert "FFmpeg" in refused(tmp_path / "text.mp4").reason
    refused(tmp_path / "noise.mp4")
    assert "folder" in refused(tmp_path / "folder.mp4").reason
    assert "no such file" in refused(tmp_path / "missing.mp4").reason
    refused(tmp_path / "nul\0.mp4")
    refused(tmp_path / "text.mp4" / "inside.mp4")
    refused(tmp_path / ("long" * 200))


def test_a_file_with_sound_only_is_refused(tmp_path):
    with av.open(str(tmp_path / "s.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    assert "no video" in refused(tmp_path / "s.wav").reason


def test_a_playlist_does_not_reach_the_network(tmp_path):
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    refused(path)


def noisy(count: int) -> list[np.ndarray]:
    """Frames that do not compress, so that removing bytes removes frames."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


def test_a_truncated_mp4_without_its_index_is_refused(tmp_path, write):
    path = write(tmp_path / "v.mp4", noisy(16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])  # the index is at the end
    refused(path)


@pytest.mark.parametrize(("share", "works"), [(0.75, True), (0.35, False), (0.08, False)])
def test_a_cut_off_file_needs_half_of_its_frames(tmp_path, share, works):
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=15, options={"crf": "10", "bf": "0"})
        video.width, video.height, video.pix_fmt, video.gop_size = 64, 48, "yuv420p", 1
        for image in noisy(20):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(video.encode(None))
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    if not works:
        assert "cut off" in refused(path).reason
        return
    clip = decode_clip(path, Sampling(5), GREY)
    with av.open(str(path)) as container:
        there = sum(p.size > 0 for p in container.demux(video=0))
    assert 10 <= there < 20
    full = decode_clip(whole, Sampling(20), GREY)
    assert np.array_equal(clip[:4], full[middles(there, 5)][:4])


@pytest.mark.parametrize(("broken", "works"), [(8, True), (12, False), (20, False)])
def test_a_damaged_file_needs_half_of_its_frames(tmp_path, broken, works, write):
    path = write(tmp_path / "v.mp4", grey(20), gop=1)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in places[20 - broken :]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    if works:
        assert shown(path, Sampling(20)) == [*range(12), *[11] * 8]  # a lost frame is replaced by the frame before it
    else:
        reason = refused(path).reason
        assert ("damaged" if broken < 20 else "no frame can be decoded") in reason


def test_damaged_files_raise_no_other_exception(tmp_path, capfd, write):
    data = bytearray(write(tmp_path / "v.mp4", noisy(12), gop=4).read_bytes())
    rng = random.Random(3)
    path = tmp_path / "d.mp4"
    outcomes = set()
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(rng.choice([1, 5, 50, 400])):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        if rng.random() < 0.3:
            del broken[rng.randrange(len(broken)) :]
        path.write_bytes(broken)
        try:
            outcomes.add(decode_clip(path, Sampling(6), GREY).shape)
        except ClipError as error:
            outcomes.add(type(error))
    assert outcomes == {(6, 32, 32, 3), ClipError}
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------------------- normalise
@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.05, 1)] * 3),
    seed=st.integers(0, 9),
)
def test_normalise_equals_its_formula(shape, mean, std, seed):
    clips = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    got = normalise(clips, Preprocessing(8, 8, "crop", mean, std))
    want = ((clips / 255 - np.array(mean)) / np.array(std)).transpose(0, 4, 1, 2, 3)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_normalise_accepts_views_and_does_not_change_them():
    clips = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 6, 3), dtype=np.uint8)
    before = clips.copy()
    np.testing.assert_array_equal(normalise(clips[:, ::2], GREY), normalise(clips[:, ::2].copy(), GREY))
    np.testing.assert_array_equal(clips, before)


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 4, 5, 3), np.float32), np.zeros((4, 5, 6, 3), np.uint8)])
def test_normalise_refuses_arrays_of_another_type_or_shape(wrong):
    with pytest.raises(ValueError, match="uint8"):
        normalise(wrong, GREY)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_input_is_normalised_unless_the_network_takes_bytes(dtype):
    clips = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 6, 3), dtype=np.uint8)[:, ::2]
    got = prepare_input(clips, GREY, dtype)
    assert got.dtype == dtype
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, clips if dtype == "uint8" else normalise(clips, GREY))
