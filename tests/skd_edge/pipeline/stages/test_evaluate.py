"""Every trained student's files are measured and scored; controls are exported for the test table only."""

from __future__ import annotations

from skd_edge.pipeline.stages.evaluate import export_fp32
from skd_edge.run_folder import read_journal


def test_every_file_of_a_trained_student_has_a_result(stage_results):
    results = stage_results.evaluated.results
    rows = {row["name"]: row for row in stage_results.report["candidates"] if row["trained"]}
    assert {c.name for c in results} == set(rows)
    for candidate, result in results.items():
        assert result.path.is_file()
        assert result.path.stem == candidate.deployment.precision
        assert result.accuracy.top1.value == rows[candidate.name]["accuracy"]
        clips = stage_results.data.clips.val
        assert (result.predictions == clips.labels).mean() == result.accuracy.top1.value


def test_the_teacher_has_an_fp32_file(stage_results):
    teacher = stage_results.evaluated.teacher
    assert teacher.path.name == "fp32.onnx"
    assert teacher.accuracy.top1.value == stage_results.report["baselines"][0]["accuracy"]


def test_every_file_is_in_the_journal(stage_results):
    events = read_journal(stage_results.ctx.run.folder)
    measured = {e["name"] for e in events if e["event"] == "measured" and "accuracy" in e}
    assert measured == {c.name for c in stage_results.evaluated.results} | {"teacher fp32"}
    sizes = {e["bytes"] for e in events if e["event"] == "artefact" and "job" in e}
    assert {result.path.stat().st_size for result in stage_results.evaluated.results.values()} <= sizes


def test_a_control_is_exported_in_fp32(stage_results):
    control = next(r for r in stage_results.trained.job_results if r.job.spec.role == "alone")
    path = export_fp32(stage_results.ctx, stage_results.data, stage_results.trained, control, "fp32")
    assert path.name == "fp32.onnx"
    assert control.job.hash in path.parts
