"""The leg that fine-tunes a student rounded as INT8: named by what it is, and no other leg is renamed."""

from dataclasses import asdict

from skd_edge.evaluation.qat import rounded_node
from skd_edge.execution.job_graph import Facts, grow
from skd_edge.recipe.schema import Recipe


def student():
    recipe = Recipe.model_validate(
        {"name": "n", "data": {"kind": "generated"}, "students": [{"name": "small"}], "schedule": {"controls": []}}
    )
    return grow(recipe, Facts("data", "weak", 10), recipe.students)[-1]


def test_it_goes_on_from_the_student_with_the_same_teacher_and_losses():
    node = student()
    after = rounded_node(node, 2, 7)
    assert (after.start, after.teacher, after.labels) == (node, node.teacher, node.labels)
    assert (after.leg.start, after.leg.epochs, after.leg.rounded) == (node.hash, 2, 7)
    assert after.leg.training.losses == node.leg.training.losses
    assert after.leg.training.rate < node.leg.training.rate
    assert len({node.hash, after.hash, rounded_node(node, 2, 8).hash, rounded_node(node, 3, 7).hash}) == 4


def test_legs_that_are_not_rounded_keep_their_names():
    leg = student().leg
    assert leg.rounded is None
    assert "rounded" in asdict(leg)
    assert leg.hash == "5c5d510510566ab2"
