"""The generated set: real files, equal for equal seeds; only the motion reveals the class."""

from __future__ import annotations

import csv
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.sources.synthetic import (
    MOTION_CLASSES,
    draw_scene,
    generate_dataset,
    generated_classes,
    render_clip,
    write_video,
)
from skd_edge.recipe.data import GeneratedData

SMALL = GeneratedData(kind="generated", train=20, val=10, test=10, frames=4, size=16)


@pytest.mark.parametrize("motion", MOTION_CLASSES)
def test_render_is_a_function_of_its_arguments(motion):
    one = render_clip(motion, frames=6, size=16, difficulty=0.5, seed=3)
    assert one.shape == (6, 16, 16, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, render_clip(motion, frames=6, size=16, difficulty=0.5, seed=3))
    assert not np.array_equal(one, render_clip(motion, frames=6, size=16, difficulty=0.5, seed=4))
    assert (one[0] != one[-1]).any()


def test_each_class_has_its_motion():
    t = np.arange(8, dtype=np.float32) / 8
    drawn = {motion: draw_scene(motion, t, np.random.default_rng(0)) for motion in MOTION_CLASSES}
    assert (np.diff(drawn["move_right"].x) > 0).all()
    assert (np.diff(drawn["move_left"].x) < 0).all()
    assert (np.diff(drawn["move_down"].y) > 0).all()
    assert (np.diff(drawn["move_up"].y) < 0).all()
    assert (np.diff(drawn["spin_cw"].angle) > 0).all()
    assert (np.diff(drawn["spin_ccw"].angle) < 0).all()
    assert np.median(np.diff(drawn["grow"].size)) > 0
    assert np.median(np.diff(drawn["shrink"].size)) < 0
    assert np.ptp(drawn["blink"].alpha) > 0.2
    radius = np.hypot(drawn["orbit"].x - drawn["orbit"].x.mean(), drawn["orbit"].y - drawn["orbit"].y.mean())
    assert np.ptp(drawn["orbit"].x) > 0.1
    assert radius.max() < 0.35


@pytest.mark.parametrize("quantity", ["x", "y", "angle", "size", "alpha"])
def test_one_frame_has_the_same_distribution_in_every_class(quantity):
    """Place, angle, size and contrast of a frame from the middle: deciles of each class against all classes."""
    t, draws = np.array([0.0, 0.37, 0.8], np.float32), 1500
    wrap = {"x": 1.0, "y": 1.0, "angle": 2 * np.pi}.get(quantity)
    values = np.array(
        [
            [getattr(draw_scene(m, t, np.random.default_rng((c, i))), quantity)[1] for i in range(draws)]
            for c, m in enumerate(MOTION_CLASSES)
        ]
    )
    values = values % wrap if wrap else values
    deciles = np.quantile(values, np.linspace(0.1, 0.9, 9))
    below = (values[:, :, None] < deciles).mean(1)
    assert np.abs(below - np.linspace(0.1, 0.9, 9)).max() < 5 * np.sqrt(0.25 / draws)  # five standard errors


def test_the_class_without_motion_may_be_frequent(tmp_path):
    """Among training clips as often as the recipe says, in other splits like every class; its clips do not move."""
    settings = SMALL.model_copy(update={"train": 60, "val": 22, "test": 22, "nothing": 20})
    rows = list(csv.DictReader(generate_dataset(tmp_path, settings, 0, processes=1).read_text().splitlines()))
    assert generated_classes(settings) == tuple(sorted((*MOTION_CLASSES, "nothing")))
    counts = {split: [r["label"] for r in rows if r["split"] == split] for split in ("train", "val", "test")}
    assert counts["train"].count("nothing") == 40
    assert {counts["train"].count(c) for c in MOTION_CLASSES} == {2}
    assert {counts[s].count(c) for s in ("val", "test") for c in generated_classes(settings)} == {2}
    clip = render_clip("nothing", frames=6, size=32, difficulty=0.0, seed=3)
    noise = np.abs(np.diff(clip.astype(float), axis=0)).mean()
    assert (
        noise
        < 0.5
        * np.abs(
            np.diff(render_clip("spin_cw", frames=6, size=32, difficulty=0.0, seed=3).astype(float), axis=0)
        ).mean()
    )


def test_the_files_equal_the_index(tmp_path):
    calls = []
    index = generate_dataset(tmp_path, SMALL, 0, processes=1, progress=lambda done, total: calls.append((done, total)))
    rows = list(csv.DictReader(index.read_text().splitlines()))
    assert calls[-1] == (40, 40)
    assert [sum(r["split"] == s for r in rows) for s in ("train", "val", "test")] == [20, 10, 10]
    for split, each in (("train", 2), ("val", 1), ("test", 1)):
        labels = [r["label"] for r in rows if r["split"] == split]
        assert {c: labels.count(c) for c in MOTION_CLASSES} == dict.fromkeys(MOTION_CLASSES, each)
    preprocess = Preprocessing(16, 16, "crop", (0.5,) * 3, (0.5,) * 3)
    clips = {r["path"]: decode_clip(tmp_path / r["path"], Sampling(4), preprocess) for r in rows}
    assert all(clip.shape == (4, 16, 16, 3) for clip in clips.values())
    assert len({clip.tobytes() for clip in clips.values()}) == len(rows)  # no clip is in two splits

    # A complete set is not rendered again; an interrupted one is completed with the same bytes.
    before = {r["path"]: (tmp_path / r["path"]).read_bytes() for r in rows}
    times = {r["path"]: (tmp_path / r["path"]).stat().st_mtime_ns for r in rows}
    assert generate_dataset(tmp_path, SMALL, 0, progress=lambda done, total: pytest.fail("rendered again")) == index
    index.unlink()
    for row in rows[::7]:
        (tmp_path / row["path"]).unlink()
    generate_dataset(tmp_path, SMALL, 0, processes=1)
    assert {r["path"]: (tmp_path / r["path"]).read_bytes() for r in rows} == before
    untouched = [r["path"] for i, r in enumerate(rows) if i % 7]
    assert all((tmp_path / p).stat().st_mtime_ns == times[p] for p in untouched)

    # Another seed in the same folder would mix two sets.
    with pytest.raises(UserError, match="other settings"):
        generate_dataset(tmp_path, SMALL, 1, processes=1)
    index.unlink()  # complete or not
    with pytest.raises(UserError, match="other settings"):
        generate_dataset(tmp_path, SMALL, 1, processes=1)


@pytest.mark.parametrize("name", ["index.csv", "checksums.json", "generated.json", "clips/val/blink/blink_00000.mp4"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_damaged_files_are_named_and_rendered_again(rendered, tmp_path, caplog, name, how):
    folder = shutil.copytree(rendered, tmp_path / "set")
    file, before = folder / name, read_tree(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"flip": bytes(content), "cut": bytes(content[: len(content) // 2]), "empty": b""}[how])
    generate_dataset(folder, SMALL, 0, processes=1)
    assert f"{name.rpartition('/')[2]} is damaged: expected " in caplog.text
    assert read_tree(folder) == before
    generate_dataset(folder, SMALL, 0, progress=lambda done, total: pytest.fail("rendered again"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    generate_dataset(folder, SMALL, 0, processes=1)
    return folder


def read_tree(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_set_that_two_need_at_once_is_rendered_once(rendered, tmp_path):
    """Two runs with the same recipe begin together; the second waits."""
    folder, renderers = tmp_path / "set", set()
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(
                generate_dataset,
                folder,
                SMALL,
                0,
                processes=1,
                progress=lambda *_, number=number: renderers.add(number),
            )
            for number in range(2)
        ]
        assert [future.result() for future in futures] == [folder / "index.csv"] * 2
    assert len(renderers) == 1
    assert read_tree(folder) == read_tree(rendered)


def test_a_complete_set_is_only_read(rendered, tmp_path):
    folder = shutil.copytree(rendered, tmp_path / "set")
    (folder / ".lock").unlink()
    generate_dataset(folder, SMALL, 0)
    assert not (folder / ".lock").exists()


def test_write_video_leaves_no_temporary_file(tmp_path):
    clip = render_clip("blink", frames=4, size=16, difficulty=0.1, seed=0)
    write_video(tmp_path / "a b" / "ü.mp4", clip)
    assert [p.name for p in (tmp_path / "a b").iterdir()] == ["ü.mp4"]
