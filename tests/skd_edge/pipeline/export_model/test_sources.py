"""Networks from checkpoints and factories, and videos to compare on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skd_bench.errors import UsageError, UserError
from skd_bench.listing.folder_walk import LeftOut
from skd_edge.models.external import factory
from skd_edge.models.tsm import build_tsm
from skd_edge.pipeline.export_model.sources import (
    decode_videos,
    find_videos,
    is_factory,
    load_checkpoint_network,
    load_factory_network,
)
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings

SPEC = NetworkSpec(name="n", width=4, depths=(1, 1))
CLIP = ClipSettings(frames=4, size=16)


@pytest.fixture
def videos(film, tmp_path):
    """Three videos in each of two folders, and one beside them."""
    for name in ("spin_cw", "blink"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for seed in range(3):
            film(tmp_path / "videos" / name / f"{seed}.mp4", name, seed=seed)
    film(tmp_path / "videos" / "alone.mp4")
    return tmp_path / "videos"


@pytest.mark.parametrize("source", ["a:b", "package.module:make.net", "pkg.m:f"])
def test_a_factory_is_a_module_and_a_callable(source):
    assert is_factory(source)


@pytest.mark.parametrize("source", ["mine.pt", "a/b:c", ":b", "a:", "a:b:c", "C:\\weights.pt", "1a:b", ""])
def test_anything_else_is_a_file(source):
    assert not is_factory(source)


def test_a_file_with_the_name_of_a_factory_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").touch()
    assert not is_factory("a:b")


def test_a_checkpoint_gives_the_logits_that_it_was_saved_with(tmp_path):
    network = build_tsm(SPEC, classes=3, frames=4, size=16, seed=5).eval()
    torch.save(network.state_dict(), tmp_path / "n.pt")
    loaded, class_count = load_checkpoint_network(tmp_path / "n.pt", SPEC, CLIP)
    assert class_count == 3
    assert not loaded.training
    x = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x).logits)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "n.pt")
    with pytest.raises(UserError, match=r"not a checkpoint of a built-in family \(no head\.weight\)"):
        load_checkpoint_network(tmp_path / "n.pt", SPEC, CLIP)
    with pytest.raises(UsageError, match="neither a checkpoint"):
        load_checkpoint_network(tmp_path / "absent.pt", SPEC, CLIP)


def test_errors_of_a_factory_name_options_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "_allowed_factories", set())
    monkeypatch.chdir(tmp_path)
    network = "nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))"
    source = f"from torch import nn\ndef make(classes=3):\n    return {network}.train()\n"
    (tmp_path / "nets_of_sources.py").write_text(source)
    options = {"arguments": {}, "takes": "clip", "weights": None}
    with pytest.raises(UsageError, match="--allow-code") as refused:
        load_factory_network("nets_of_sources:make", CLIP, allow_code=False, **options)
    assert "the factory" in str(refused.value)
    assert "teacher.factory" not in str(refused.value)
    with pytest.raises(UserError, match=r"in train mode, .* return network\.eval\(\)"):
        load_factory_network("nets_of_sources:make", CLIP, allow_code=True, **options)
    wrong = options | {"arguments": {"no_such_argument": 1}}
    with pytest.raises(UserError, match="--arguments"):
        load_factory_network("nets_of_sources:make", CLIP, allow_code=True, **wrong)


def test_videos_are_found_at_any_depth_and_sorted(videos):
    (videos / "blink" / "notes.txt").write_text("no video")
    left_out = LeftOut()
    names = [path.relative_to(videos).as_posix() for path in find_videos(videos, left_out)]
    assert names == sorted(["alone.mp4", *(f"{folder}/{i}.mp4" for folder in ("blink", "spin_cw") for i in range(3))])


def test_what_is_no_video_is_stated(videos, tmp_path):
    (videos / "blink" / "notes.txt").write_text("no video")
    assert decode_videos(videos, CLIP, max_videos=1).left_out == "left out: 1 .txt (blink)"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no video")
    with pytest.raises(UserError, match=r"holds no videos \(left out: 1 \.txt \(\.\)\); give --clips"):
        find_videos(tmp_path / "other", LeftOut())


def test_folders_of_pictures_beside_videos_are_clips_where_asked(videos):
    (videos / "blink" / "frames").mkdir()
    for i in (1, 2):
        (videos / "blink" / "frames" / f"{i}.jpg").write_bytes(b"x")
    assert len(find_videos(videos, LeftOut())) == 7
    assert videos / "blink" / "frames" in find_videos(videos, LeftOut(), "always")
    assert len(decode_videos(videos, CLIP, max_videos=9, pictures="always").decode_errors) == 1  # no real pictures


def test_labels_are_the_folders_of_the_videos(videos):
    seen = []
    decoded = decode_videos(videos, CLIP, max_videos=100, progress=lambda done, total: seen.append((done, total)))
    assert decoded.folders == ("blink", "spin_cw")
    assert decoded.clips.shape == (7, 4, 16, 16, 3)
    assert sorted(decoded.labels.tolist()) == [-1, 0, 0, 0, 1, 1, 1]
    assert seen == [(i, 7) for i in range(1, 8)]
    assert decoded.decode_errors == ()


def test_fewer_videos_are_the_same_draw_every_time(videos):
    few, again = (decode_videos(videos, CLIP, max_videos=3) for _ in range(2))
    assert len(few.clips) == 3
    assert np.array_equal(few.clips, again.clips)


def test_unreadable_videos_are_left_out_with_their_reason(videos):
    (videos / "blink" / "0.mp4").write_text("this is text")
    decoded = decode_videos(videos, CLIP, max_videos=100)
    assert len(decoded.clips) == len(decoded.labels) == 6
    (error,) = decoded.decode_errors
    assert "0.mp4" in error


def test_folders_without_readable_videos_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no videos"):
        find_videos(tmp_path, LeftOut())
    (tmp_path / "x.mp4").write_text("this is text")
    with pytest.raises(UserError, match=r"none of the 1 videos in .* can be decoded"):
        decode_videos(tmp_path, CLIP, max_videos=5)
