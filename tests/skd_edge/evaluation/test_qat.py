"""The job of quantisation-aware training has a hash of its own, and does not change the hashes of other jobs."""

from dataclasses import asdict

from skd_edge.evaluation.qat import make_qat_job
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
    assert spec.hash == "c173d2d8498325d2"
