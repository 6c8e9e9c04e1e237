"""The job graph: each job once, teachers before learners, and hashes that change with what they depend on."""

from __future__ import annotations

from typing import Any

import pytest

from skd_edge.execution.job_graph import DatasetFingerprint, JobFactory, TrainingJob, build_recipe_job_graph
from skd_edge.recipe.schema import Recipe

FINGERPRINT = DatasetFingerprint("data", "weak", 10)
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


def tree(fingerprint=FINGERPRINT, **kw) -> list[TrainingJob]:
    recipe = Recipe.model_validate(BASE | kw)
    return build_recipe_job_graph(recipe, fingerprint, recipe.students)


def names(jobs, *roles):
    return [n.spec.name for n in jobs if n.spec.role in roles]


PATHS = {"paths": [[], ["a1"], ["a1", "a2"], ["a2"]], "controls": ["alone", "kd"]}


@pytest.mark.parametrize("schedule", [{}, PATHS], ids=["default", "four paths"])
@pytest.mark.parametrize("optimise", [True, False])
def test_each_job_occurs_once_and_after_its_required_jobs(schedule, optimise):
    jobs = tree(schedule=schedule, labels={"optimise": optimise})
    hashes = [n.hash for n in jobs]
    assert len(set(hashes)) == len(hashes)
    for place, job in enumerate(jobs):
        for required in job.required_jobs:
            assert hashes.index(required.hash) < place
        assert job.spec.teacher == (job.teacher.hash if job.teacher else None)
        assert job.spec.start == (job.start.hash if job.start else None)


def test_the_default_paths():
    jobs = tree()
    assert names(jobs, "scout", "teacher") == ["teacher", "teacher, round 1", "teacher, round 2", "teacher"]
    assert names(jobs, "assistant") == ["teacher>a1", "teacher>a1>a2"]
    assert sorted(names(jobs, "student")) == [
        "teacher>a1>a2>s1",
        "teacher>a1>a2>s2",
        "teacher>s1",
        "teacher>s2",
    ]
    assert names(jobs, "alone") == ["s1", "s2"]


def test_one_architecture_can_have_several_training_variants():
    """The variants differ in the student's job; the controls do not depend on them and are shared."""
    graft = {"combination": "graft", "match": [2, 4], "losses": {"distribution": 0.5}}
    students = [{"name": "s1", "width": 8}, {"name": "s1-graft", "width": 8, "training": graft}]
    jobs = tree(students=students, schedule={"controls": ["alone", "kd"]}, training={"losses": {"correlation": 0.7}})
    plain, other = (next(n.spec for n in jobs if n.spec.path == ("teacher", s["name"])) for s in students)
    assert (other.training.combination, other.training.match) == ("graft", (2, 4))
    assert (other.training.losses.distribution, other.training.losses.correlation) == (0.5, 0.7)
    assert plain.training.combination == "none"
    assert plain.hash != other.hash
    assert plain.learner.architecture == other.learner.architecture
    for path in ((("s1",), ("s1-graft",)), (("teacher", "s1"), ("teacher", "s1-graft"))):
        specs = [n.spec for n in jobs if n.spec.path in path and n.spec.role in ("alone", "kd")]
        assert len(specs) == 2
        assert len({spec.hash for spec in specs}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": {"width": 32, "training": {"dense": 0.5}}}, "not a teacher"),
        ({"students": [{"name": "s", "training": {"match": [5]}}]}, "1 to 4 here"),
        ({"students": [{"name": "s", "frames": 4, "training": {"combination": "graft"}}]}, "same frames and size"),
        ({"students": [{"name": "s", "training": {"epochs": 3}}]}, "epochs"),
    ],
)
def test_impossible_training_variants_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(BASE | change)


def test_shared_prefixes_are_trained_once():
    jobs = tree(schedule=PATHS)
    assert sorted(names(jobs, "assistant")) == ["teacher>a1", "teacher>a1>a2", "teacher>a2"]
    assert len(names(jobs, "student")) == 8
    by_name = {n.spec.name: n for n in jobs if n.spec.role in ("assistant", "student")}
    for student in ("s1", "s2"):
        assert by_name[f"teacher>a1>a2>{student}"].teacher.hash == by_name["teacher>a1>a2"].hash
    assert by_name["teacher>a2>s1"].teacher.hash != by_name["teacher>a1>a2>s1"].teacher.hash
    # The controls with plain KD share one teacher.
    kd = [n for n in jobs if n.spec.role == "kd"]
    assert sorted(n.spec.name for n in kd) == ["teacher", "teacher>s1", "teacher>s2"]


def test_the_pseudo_labels_of_each_job_come_from_its_own_teacher() -> None:
    """Four networks teach here, and each estimates other labels; those of the first teacher are not passed on."""
    jobs = [n for n in tree(schedule=PATHS) if n.spec.role in ("assistant", "student")]
    factory = JobFactory(Recipe.model_validate(BASE), FINGERPRINT)
    for job in jobs:
        assert job.teacher is not None
        assert job.labels is not None
        assert job.labels.hash == job.spec.teacher
        assert job.spec.targets == factory.hash_targets(job.teacher)
    assert len({n.spec.targets for n in jobs}) == 4


def test_the_graph_of_many_rounds_is_built_in_linear_time():
    """Each required job is visited once; without that, twenty rounds would take about a million visits."""
    jobs = tree(training={"rounds": 20}, schedule=PATHS)
    assert len(jobs) == len(tree(training={"rounds": 3}, schedule=PATHS)) + 17


def test_controls_use_no_part_of_the_method():
    jobs = tree(schedule=PATHS)
    specs = {n.spec.role: n.spec for n in jobs}
    for role in ("alone", "kd"):
        for spec in (n.spec for n in jobs if n.spec.role == role):
            assert spec.targets == FINGERPRINT.weak_labels_hash
            assert not spec.staged
            assert not spec.weak
    assert all(n.spec.training.losses.logits_kind == "kd" for n in jobs if n.spec.role == "kd" and n.teacher)
    assert specs["student"].staged
    assert specs["student"].targets != FINGERPRINT.weak_labels_hash
    assert [n.spec.weak for n in jobs if n.spec.role == "scout"] == [True, False, False]
    assert {spec.epochs for role, spec in specs.items() if role in ("student", "assistant", "alone")} == {12}


def test_without_label_optimisation_all_jobs_use_the_weak_labels():
    jobs = tree(labels={"optimise": False})
    assert all(n.labels is None and n.spec.targets == FINGERPRINT.weak_labels_hash for n in jobs)
    assert names(jobs, "scout") == []


def test_pruned_students_have_no_jobs():
    recipe = Recipe.model_validate(BASE)
    jobs = build_recipe_job_graph(recipe, FINGERPRINT, recipe.students[:1])
    assert not any(n.spec.learner.name == "s2" for n in jobs)
    assert build_recipe_job_graph(recipe, FINGERPRINT, []) == []


def test_a_change_affects_the_hashes_of_a_job_and_its_learners_only():
    base = tree()

    def changed(**kw):
        before, after = ({n.spec.role + n.spec.name: n.hash for n in t} for t in (base, tree(**kw)))
        assert before.keys() == after.keys()
        return {name for name in before if before[name] != after[name]}

    everything = {n.spec.role + n.spec.name for n in base}
    assert changed(seed=1) == everything
    assert changed(fingerprint=DatasetFingerprint("other", "weak", 10)) == everything
    assert changed(fingerprint=DatasetFingerprint("data", "other", 10)) == everything
    assert changed(teacher={"width": 16}) == everything - {"alones1", "alones2"}
    assert changed(students=[{"name": "s1", "width": 8}, {"name": "s2", "width": 16}]) == {
        name for name in everything if name.endswith("s2")
    }
    assert changed(labels={"min_class_share": 0.5}) == everything - {"alones1", "alones2", "scoutteacher"}
    assert changed(choice={"margin": 3}, bench={"queries": 100}, export={"precisions": ["fp32"]}) == set()


def test_names_of_networks_are_not_part_of_the_hashes():
    renamed = tree(
        name="other",
        teacher={"name": "boss", "width": 32},
        assistants=[{**a, "name": "x" + a["name"]} for a in BASE["assistants"]],
        students=[{**s, "name": "x" + s["name"]} for s in BASE["students"]],
    )
    assert [n.hash for n in renamed] == [n.hash for n in tree()]
