"""The tree of cascades: every job once, teachers before learners."""

from __future__ import annotations

from typing import Any

import pytest

from skd_edge.execution.job_graph import DatasetFingerprint, JobFactory, TrainingJob, build_recipe_job_graph
from skd_edge.recipe.schema import Recipe

FACTS = DatasetFingerprint("data", "weak", 10)
BASE: dict[str, Any] = {
    "name": "r",
    "data": {"kind": "generated"},
    "teacher": {"width": 32},
    "assistants": [
        {"name": "a1", "family": "resnet", "width": 16},
        {"name": "a2", "family": "resnet", "width": 8},
    ],
    "students": [{"name": "s1", "width": 8}, {"name": "s2", "width": 12}],
}


def tree(facts=FACTS, **kw) -> list[TrainingJob]:
    recipe = Recipe.model_validate(BASE | kw)
    return build_recipe_job_graph(recipe, facts, recipe.students)


def names(nodes, *roles):
    return [n.spec.name for n in nodes if n.spec.role in roles]


PATHS = {"paths": [[], ["a1"], ["a1", "a2"], ["a2"]], "controls": ["alone", "kd"]}


@pytest.mark.parametrize("schedule", [{}, PATHS], ids=["default", "four paths"])
@pytest.mark.parametrize("optimise", [True, False])
def test_each_job_once_and_after_what_it_needs(schedule, optimise):
    nodes = tree(schedule=schedule, labels={"optimise": optimise})
    hashes = [n.hash for n in nodes]
    assert len(set(hashes)) == len(hashes)
    for place, node in enumerate(nodes):
        for needed in node.required_jobs:
            assert hashes.index(needed.hash) < place
        assert node.spec.teacher == (node.teacher.hash if node.teacher else None)
        assert node.spec.start == (node.start.hash if node.start else None)


def test_default_paths():
    nodes = tree()
    assert names(nodes, "scout", "teacher") == ["teacher", "teacher, round 1", "teacher, round 2", "teacher"]
    assert names(nodes, "assistant") == ["teacher>a1", "teacher>a1>a2"]
    assert sorted(names(nodes, "student")) == [
        "teacher>a1>a2>s1",
        "teacher>a1>a2>s2",
        "teacher>s1",
        "teacher>s2",
    ]
    assert names(nodes, "alone") == ["s1", "s2"]


def test_one_network_may_be_taught_in_several_ways():
    """Other ways make other jobs; the job without a teacher, and the plain control, stay one and the same."""
    graft = {"combination": "graft", "match": [2, 4], "losses": {"distribution": 0.5}}
    students = [{"name": "s1", "width": 8}, {"name": "s1-graft", "width": 8, "training": graft}]
    nodes = tree(students=students, schedule={"controls": ["alone", "kd"]}, training={"losses": {"correlation": 0.7}})
    plain, other = (next(n.spec for n in nodes if n.spec.path == ("teacher", s["name"])) for s in students)
    assert (other.training.combination, other.training.match) == ("graft", (2, 4))
    assert (other.training.losses.distribution, other.training.losses.correlation) == (0.5, 0.7)
    assert plain.training.combination == "none"
    assert plain.hash != other.hash
    assert plain.learner.architecture == other.learner.architecture
    for path in ((("s1",), ("s1-graft",)), (("teacher", "s1"), ("teacher", "s1-graft"))):
        jobs = [n.spec for n in nodes if n.spec.path in path and n.spec.role in ("alone", "kd")]
        assert len(jobs) == 2
        assert len({job.hash for job in jobs}) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher": {"width": 32, "training": {"dense": 0.5}}}, "not a teacher"),
        ({"students": [{"name": "s", "training": {"match": [5]}}]}, "1 to 4 here"),
        ({"students": [{"name": "s", "frames": 4, "training": {"combination": "graft"}}]}, "same frames and size"),
        ({"students": [{"name": "s", "training": {"epochs": 3}}]}, "epochs"),
    ],
)
def test_ways_that_cannot_be(change, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(BASE | change)


def test_shared_prefixes_are_trained_once():
    nodes = tree(schedule=PATHS)
    assert sorted(names(nodes, "assistant")) == ["teacher>a1", "teacher>a1>a2", "teacher>a2"]
    assert len(names(nodes, "student")) == 8
    by_name = {n.spec.name: n for n in nodes if n.spec.role in ("assistant", "student")}
    for student in ("s1", "s2"):
        assert by_name[f"teacher>a1>a2>{student}"].teacher.hash == by_name["teacher>a1>a2"].hash
    assert by_name["teacher>a2>s1"].teacher.hash != by_name["teacher>a1>a2>s1"].teacher.hash
    # One teacher for the controls with plain KD, whatever the number of students.
    kd = [n for n in nodes if n.spec.role == "kd"]
    assert sorted(n.spec.name for n in kd) == ["teacher", "teacher>s1", "teacher>s2"]


def test_each_job_learns_from_labels_that_its_own_teacher_estimates() -> None:
    """Not the first teacher's handed down: four networks teach here, and each gives other labels."""
    nodes = [n for n in tree(schedule=PATHS) if n.spec.role in ("assistant", "student")]
    jobs = JobFactory(Recipe.model_validate(BASE), FACTS)
    for node in nodes:
        assert node.teacher is not None
        assert node.labels is not None
        assert node.labels.hash == node.spec.teacher
        assert node.spec.targets == jobs.hash_targets(node.teacher)
    assert len({n.spec.targets for n in nodes}) == 4


def test_many_rounds_grow_no_slower_than_they_are():
    """Each need is walked once: twenty rounds are twenty jobs more, not a million visits."""
    nodes = tree(training={"rounds": 20}, schedule=PATHS)
    assert len(nodes) == len(tree(training={"rounds": 3}, schedule=PATHS)) + 17


def test_controls_know_nothing_of_the_method():
    nodes = tree(schedule=PATHS)
    facts = {n.spec.role: n.spec for n in nodes}
    for role in ("alone", "kd"):
        for job in (n.spec for n in nodes if n.spec.role == role):
            assert job.targets == FACTS.weak_labels_hash
            assert not job.staged
            assert not job.weak
    assert all(n.spec.training.losses.logits_kind == "kd" for n in nodes if n.spec.role == "kd" and n.teacher)
    assert facts["student"].staged
    assert facts["student"].targets != FACTS.weak_labels_hash
    assert [n.spec.weak for n in nodes if n.spec.role == "scout"] == [True, False, False]
    assert {job.epochs for role, job in facts.items() if role in ("student", "assistant", "alone")} == {12}


def test_without_label_optimisation_everybody_learns_from_the_weak_labels():
    nodes = tree(labels={"optimise": False})
    assert all(n.labels is None and n.spec.targets == FACTS.weak_labels_hash for n in nodes)
    assert names(nodes, "scout") == []


def test_pruned_students_grow_nothing():
    recipe = Recipe.model_validate(BASE)
    nodes = build_recipe_job_graph(recipe, FACTS, recipe.students[:1])
    assert not any(n.spec.learner.name == "s2" for n in nodes)
    assert build_recipe_job_graph(recipe, FACTS, []) == []


def test_what_changes_a_job_changes_those_below_it_and_no_other():
    base = tree()

    def changed(**kw):
        before, after = ({n.spec.role + n.spec.name: n.hash for n in t} for t in (base, tree(**kw)))
        assert before.keys() == after.keys()
        return {name for name in before if before[name] != after[name]}

    everything = {n.spec.role + n.spec.name for n in base}
    assert changed(seed=1) == everything
    assert changed(facts=DatasetFingerprint("other", "weak", 10)) == everything
    assert changed(facts=DatasetFingerprint("data", "other", 10)) == everything
    assert changed(teacher={"width": 16}) == everything - {"alones1", "alones2"}
    assert changed(students=[{"name": "s1", "width": 8}, {"name": "s2", "width": 16}]) == {
        name for name in everything if name.endswith("s2")
    }
    assert changed(labels={"min_class_share": 0.5}) == everything - {"alones1", "alones2", "scoutteacher"}
    assert changed(choice={"margin": 3}, bench={"queries": 100}, export={"precisions": ["fp32"]}) == set()


def test_new_names_change_no_job():
    renamed = tree(
        name="other",
        teacher={"name": "boss", "width": 32},
        assistants=[{**a, "name": "x" + a["name"]} for a in BASE["assistants"]],
        students=[{**s, "name": "x" + s["name"]} for s in BASE["students"]],
    )
    assert [n.hash for n in renamed] == [n.hash for n in tree()]
