"""The job of quantisation-aware training has a hash of its own, and does not change the hashes of other jobs."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from skd_bench.integrity.checked_files import write_checked_json
from skd_edge.evaluation.qat import fine_tune_int8, make_qat_job
from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph
from skd_edge.recipe.schema import Recipe


def student():
    recipe = Recipe.model_validate(
        {"name": "n", "data": {"kind": "generated"}, "students": [{"name": "small"}], "schedule": {"controls": []}}
    )
    return build_recipe_job_graph(recipe, DatasetFingerprint("data", "weak", 10), recipe.students)[-1]


def test_it_continues_the_student_with_the_same_teacher_and_losses():
    job = student()
    after = make_qat_job(job, 2, 7)
    assert (after.start, after.teacher, after.labels) == (job, job.teacher, job.labels)
    assert (after.spec.start, after.spec.epochs, after.spec.rounded) == (job.hash, 2, 7)
    assert after.spec.training.losses == job.spec.training.losses
    assert after.spec.training.rate < job.spec.training.rate
    assert len({job.hash, after.hash, make_qat_job(job, 2, 8).hash, make_qat_job(job, 3, 7).hash}) == 4


def test_jobs_without_rounding_keep_their_hashes():
    spec = student().spec
    assert spec.rounded is None
    assert "rounded" in asdict(spec)
    assert spec.hash == "73ae1b10a65a6f2b"


@pytest.fixture
def write_int8(tmp_path):
    """Writes an INT8 file's metadata; ``tried`` has the reasons why it is outside its bounds."""

    def write(folder, precision, tried):
        path = tmp_path / folder / f"{precision}.onnx"
        facts = {"tried": tried, "excluded": [], "reduce_range": False}
        write_checked_json(path.with_suffix(".json"), {"key": "k", "facts": facts})
        return path

    return write


@pytest.mark.parametrize("precision", ["int8", "int8-trt"])
@pytest.mark.parametrize("left", [[], ["agrees on 90 %"]])
def test_the_file_that_is_out_of_bounds_is_made_again_at_its_own_precision(write_int8, precision, left):
    """TensorRT's INT8 file too; it stays as it was if training did not help."""
    before, after = write_int8("before", precision, ["agrees on 80 %"]), write_int8("after", precision, left)
    trained, exported = [], []

    def export(network, job_hash, precisions, *, reference):
        exported.append((network, job_hash, precisions, reference))
        return {precision: after}

    settings = SimpleNamespace(recipe=SimpleNamespace(export=SimpleNamespace(qat_epochs=2)))
    exporter = SimpleNamespace(exporter=settings, export=export)
    executor = SimpleNamespace(train_job=trained.append, load_network=lambda job: f"tuned {job.hash}")
    job = student()
    file, sentence = fine_tune_int8(exporter, executor, job, "the network", before)
    [qat_job] = trained
    assert qat_job == make_qat_job(job, 2, 8)
    assert exported == [(f"tuned {qat_job.hash}", qat_job.hash, (precision,), "the network")]
    assert file == (before if left else after)
    assert sentence.startswith(f"teacher>small: {precision.upper()} needed quantisation-aware training (2 epochs")
    assert ("still outside its bounds: agrees on 90 %" in sentence) is bool(left)
