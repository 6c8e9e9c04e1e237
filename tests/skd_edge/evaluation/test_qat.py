"""The job that fine-tunes a student rounded as INT8: named by what it is, and no other job is renamed."""

from dataclasses import asdict

from skd_edge.evaluation.qat import make_qat_job
from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph
from skd_edge.recipe.schema import Recipe


def student():
    recipe = Recipe.model_validate(
        {"name": "n", "data": {"kind": "generated"}, "students": [{"name": "small"}], "schedule": {"controls": []}}
    )
    return build_recipe_job_graph(recipe, DatasetFingerprint("data", "weak", 10), recipe.students)[-1]


def test_it_goes_on_from_the_student_with_the_same_teacher_and_losses():
    node = student()
    after = make_qat_job(node, 2, 7)
    assert (after.start, after.teacher, after.labels) == (node, node.teacher, node.labels)
    assert (after.spec.start, after.spec.epochs, after.spec.rounded) == (node.hash, 2, 7)
    assert after.spec.training.losses == node.spec.training.losses
    assert after.spec.training.rate < node.spec.training.rate
    assert len({node.hash, after.hash, make_qat_job(node, 2, 8).hash, make_qat_job(node, 3, 7).hash}) == 4


def test_jobs_that_are_not_rounded_keep_their_names():
    job = student().spec
    assert job.rounded is None
    assert "rounded" in asdict(job)
    assert job.hash == "5c5d510510566ab2"
