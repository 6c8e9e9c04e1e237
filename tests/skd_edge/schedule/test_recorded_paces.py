"""Recorded paces: the seconds of finished jobs, and of similar networks in proportion to their MACs."""

from __future__ import annotations

import pytest

from skd_bench.integrity.checked_files import write_checked_json
from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph
from skd_edge.models.catalogue import describe_network
from skd_edge.recipe.schema import NetworkSpec, Recipe
from skd_edge.recipe.sections import ClipSettings
from skd_edge.schedule.recorded_paces import PaceModel, RecordedPace, _estimate_macs, read_recorded_paces

CLIP = ClipSettings(frames=4, size=16)


def network(width, family="mobile"):
    return NetworkSpec(name=f"{family}{width}", family=family, width=width)


def write_job(folder, name, *, device="this", threads=1, seconds=11.0, width=8):
    work = {"device": device, "learner": network(width).architecture, "clip": CLIP.model_dump()}
    facts = {"curve": [{}, {}], "seconds": seconds, "threads": threads}
    write_checked_json(folder / name / "job.json", {**facts, "work": work | {"train_clips": 50, "val_clips": 30}})


def test_jobs_of_this_device_and_number_of_threads_are_read(tmp_path):
    write_job(tmp_path, "mine")
    write_job(tmp_path, "other device", device="that")
    write_job(tmp_path, "other threads", threads=2)
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "job.json").write_text('{"seconds": 3, "threads": 1, "curve": [{}]}')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "job.json").write_text("{")
    (pace,) = read_recorded_paces([tmp_path, tmp_path / "missing"], "this", 1)
    assert pace.learner.width == 8
    assert pace.clip == CLIP
    # Two epochs of 50 clips, and one validation of 30 clips, each of which costs a third of a training clip.
    assert pace.seconds_per_clip == pytest.approx(11 / 110)


def test_an_equal_network_takes_as_long_and_a_larger_one_longer_by_its_macs():
    model = PaceModel([RecordedPace(network(8), CLIP, seconds) for seconds in (1.0, 2.0, 9.0)])
    assert model.is_recorded
    assert model.estimate_seconds_per_clip(network(8), CLIP) == 2.0
    small, large = (describe_network("n", network(width), CLIP).macs for width in (8, 16))
    assert model.estimate_seconds_per_clip(network(16), CLIP) == pytest.approx(2.0 * large / small, rel=0.1)


def test_the_most_similar_network_of_the_family_counts():
    paces = [RecordedPace(network(8), CLIP, 1.0), RecordedPace(network(32), CLIP, 4.0)]
    model = PaceModel([*paces, RecordedPace(network(28, "resnet"), CLIP, 100.0)])
    macs = {width: describe_network("n", network(width), CLIP).macs for width in (28, 32)}
    assert model.estimate_seconds_per_clip(network(28), CLIP) == pytest.approx(4.0 * macs[28] / macs[32], rel=0.1)


@pytest.mark.parametrize("family", ["mobile", "resnet"])
@pytest.mark.parametrize("size", [24, 112])
def test_macs_are_about_those_of_the_catalogue(family, size):
    clip = ClipSettings(frames=8, size=size)
    exact = describe_network("n", network(12, family), clip).macs
    assert _estimate_macs(network(12, family), clip) == pytest.approx(exact, rel=0.1)


def test_without_any_job_a_pace_is_assumed():
    model = PaceModel([])
    assert not model.is_recorded
    assert 0 < model.estimate_seconds_per_clip(network(8), CLIP) < model.estimate_seconds_per_clip(network(16), CLIP)


def test_a_step_takes_as_long_as_its_clips_and_a_given_teacher_has_none(tmp_path):
    (tmp_path / "logits.npz").write_bytes(b"not read")
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "data": {"kind": "generated"},
            "clip": CLIP.model_dump(),
            "teacher": {"logits": str(tmp_path / "logits.npz")},
            "labels": {"optimise": False},
            "students": [{"name": "s", "width": 8}],
            "training": {"batch": 20},
            "schedule": {"controls": []},
        }
    )
    given, student = build_recipe_job_graph(recipe, DatasetFingerprint("d", "w", 10), recipe.students)
    model = PaceModel([RecordedPace(network(8), CLIP, 0.3)])
    assert model.estimate_step_times(given).seconds_per_step == 0
    times = model.estimate_step_times(student)
    assert times.seconds_per_step == pytest.approx(6.0)
    assert times.seconds_per_clip == pytest.approx(0.1)
