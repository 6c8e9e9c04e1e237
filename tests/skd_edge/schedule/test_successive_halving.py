"""The search: rungs, cascades, stop rules, and a reason for every cascade that is pruned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.execution.job_graph import DatasetFingerprint, JobFactory, build_recipe_job_graph
from skd_edge.execution.job_results import JobResult
from skd_edge.recipe.schema import Recipe
from skd_edge.schedule.choice_metric import ChoiceMetric
from skd_edge.schedule.successive_halving import Search, truncate_job

NAMES = ["s4", "s6", "s8", "s12", "s16", "s24"]


def make(epochs=9, **schedule) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "data": {"kind": "generated"},
            "assistants": [
                {"name": "a1", "family": "resnet", "width": 24},
                {"name": "a2", "family": "resnet", "width": 16},
            ],
            "students": [{"name": n, "width": int(n[1:])} for n in NAMES],
            "schedule": {"search": "halving", "controls": [], "share": 0, **schedule},
            "training": {"epochs": epochs},
            "choice": {"budget": "8 ms", "margin": 0},
        }
    )


def run(recipe, accuracy, *, seconds=1.0):
    """Run a search with the accuracies ``accuracy(job)``; returns it, the trained jobs in order, and the events."""
    facts, events = DatasetFingerprint("data", "weak", 10), []
    search = Search(
        JobFactory(recipe, facts),
        recipe.students,
        {s.name: float(s.width) for s in recipe.students},
        ChoiceMetric("accuracy", np.zeros(400, np.int64), np.arange(400)),
        lambda event, **f: events.append({"event": event, **f}),
    )
    trained = []
    while batch := search.ask():
        seen = {n.hash for n in trained}
        for job in batch:
            assert all(n.hash in seen for n in job.required_jobs), "teachers come first"
            seen.add(job.hash)
        trained += batch
        done = []
        for job in batch:
            right = np.random.default_rng(int(job.hash, 16)).random(400) < accuracy(job)
            curve = [{}] * job.spec.epochs
            done.append(
                JobResult(
                    job, Path(), accuracy(job), seconds * job.spec.epochs, False, curve, right, (~right).astype(int)
                )
            )
        search.tell(done)
    return search, trained, events


def by_width(job):
    return 0.5 + 0.001 * job.spec.learner.width if job.spec.role in ("student", "rung") else 0.9


def list_batches(recipe, accuracy):
    """The jobs that a search asks for, in the batches that may be trained at the same time."""
    search = Search(
        JobFactory(recipe, DatasetFingerprint("data", "weak", 10)),
        recipe.students,
        {s.name: float(s.width) for s in recipe.students},
        ChoiceMetric("accuracy", np.zeros(400, np.int64), np.arange(400)),
    )
    batches = []
    while batch := search.ask():
        batches.append(batch)
        right = {n.hash: np.arange(400) < 400 * accuracy(n) for n in batch}
        search.tell(
            JobResult(n, Path(), accuracy(n), 1.0, False, [{}], right[n.hash], (~right[n.hash]).astype(int))
            for n in batch
        )
    return batches


def finals(trained):
    return {n.spec.path for n in trained if n.spec.role == "student"}


def test_the_better_half_continues_and_is_trained_without_assistants():
    _, trained, events = run(make(), by_width)
    assert {p[-1] for p in finals(trained)} == {"s12", "s16", "s24"}
    assert {("teacher", s) for s in ("s12", "s16", "s24")} <= finals(trained)
    (first, *_) = [e for e in events if e["event"] == "rung"]
    assert first["survivors"] == ["s24", "s16", "s12"]
    assert set(first["accuracy"]) == set(NAMES)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    keep=st.integers(1, 4),
    rungs=st.sampled_from([(), (0.34,), (0.2, 0.5)]),
    share=st.sampled_from([0, 0.3, 0.7]),
    jobs=st.none() | st.integers(1, 40),
    epochs=st.integers(1, 9),  # with few epochs, a rung has all of them
    paths=st.sampled_from([None, [["a1"]], [[], ["a2", "a1"]], [["a1", "a2"], ["a2", "a1"], []]]),
)
def test_every_cascade_is_trained_or_pruned_with_a_reason_and_finals_are_the_exhaustive_jobs(
    seed, keep, rungs, share, jobs, epochs, paths
):
    recipe = make(keep=keep, rungs=rungs, share=share, max_jobs=jobs, epochs=epochs, paths=paths)
    draws = np.random.default_rng(seed).random(1000)
    search, trained, events = run(recipe, lambda n: draws[int(n.hash[:6], 16) % 1000])
    everything = {("teacher", *p, s.name) for s in recipe.students for p in recipe.cascade_paths}
    assert () in recipe.cascade_paths
    assert finals(trained) | set(search.pruned) == everything
    assert not finals(trained) & set(search.pruned)
    assert all(search.pruned.values())
    assert {tuple(e["cascade"].split(">")) for e in events if e["event"] == "pruned"} == set(search.pruned)
    # The final jobs are those of an exhaustive search.
    every = {n.hash for n in build_recipe_job_graph(recipe, DatasetFingerprint("data", "weak", 10), recipe.students)}
    assert {n.hash for n in trained if n.spec.role != "rung"} <= every
    assert len({(n.hash, n.spec.path, n.spec.role) for n in trained}) == len(trained)  # no job is trained twice
    remaining = {p[-1] for p in finals(trained)}
    assert len(remaining) >= min(keep, len(NAMES))
    assert {("teacher", s) for s in remaining} <= finals(trained)


def test_the_best_predecessor_is_found_and_a_worse_one_is_pruned():
    def accuracy(job):
        return 0.9 if job.spec.path[-2:-1] == ("a2",) else 0.5 if "a1" in job.spec.path else 0.8

    search, trained, events = run(make(), accuracy)
    (best,) = [e for e in events if e["event"] == "predecessor"]
    assert best["learner"] == "a2"
    assert best["chosen"] == "direct"
    students = {p[-1] for p in finals(trained)}
    assert {("teacher", "a2", s) for s in students} <= finals(trained)
    assert not any("a1" in p for p in finals(trained))
    assert all("cannot win any more" in search.pruned["teacher", "a1", s] for s in students)


@pytest.mark.parametrize("rule", [{"share": 0.3}, {"max_seconds": 100}, {"max_jobs": 14}])
def test_stop_rules_are_obeyed_and_named_in_the_reasons(rule):
    search, trained, _ = run(make(**rule), by_width)
    key, limit = next(iter(rule.items()))
    assert any(f"schedule.{key}" in why for why in search.pruned.values())
    spent, everything = (
        sum(n.spec.epochs for n in trained),
        build_recipe_job_graph(make(), DatasetFingerprint("d", "w", 10), make().students),
    )
    if key == "share":
        assert (
            spent <= limit * sum(n.spec.epochs for n in everything) + 4 * 9
        )  # rungs and direct jobs are exempt from the stop rules
    assert finals(trained)


def test_paths_of_the_recipe_are_followed_in_their_own_order():
    _, trained, _ = run(make(paths=[[], ["a2", "a1"]]), by_width)
    assert ("teacher", "a2", "a1", "s24") in finals(trained)
    assert {n.spec.path for n in trained if n.spec.role == "assistant"} == {("teacher", "a2"), ("teacher", "a2", "a1")}


def test_the_direct_cascade_is_trained_although_the_paths_omit_it():
    _, trained, _ = run(make(paths=[["a1"]]), by_width)
    assert {("teacher", "s24"), ("teacher", "a1", "s24")} <= finals(trained)


def test_without_a_budget_the_exchange_rate_applies_to_rungs():
    recipe = make()
    recipe = recipe.model_copy(update={"choice": recipe.choice.model_copy(update={"budget": None, "exchange": 5.0})})
    _, trained, _ = run(recipe, lambda n: 0.8)  # all are equally accurate: the faster ones continue
    assert {p[-1] for p in finals(trained)} == {"s4", "s6", "s8"}


def test_an_exhaustive_search_asks_for_all_jobs_at_once():
    recipe = make(search="exhaustive", paths=[[], ["a1"]])
    search, trained, events = run(recipe, by_width)
    assert trained == build_recipe_job_graph(recipe, DatasetFingerprint("data", "weak", 10), recipe.students)
    assert not search.pruned
    assert not events


def test_a_rung_has_a_hash_of_its_own():
    job = JobFactory(make(), DatasetFingerprint("data", "weak", 10)).make_cascade_job(make().students[0], ())
    short = truncate_job(job, 1 / 3)
    assert short.spec.epochs == 3
    assert short.hash != job.hash
    assert short.required_jobs == job.required_jobs


def test_jobs_that_are_trained_in_any_case_are_asked_for_together_with_their_controls():
    """One job has not to wait for another whose result decides nothing about it."""
    rungs, certain, *_ = list_batches(make(keep=2, controls=["alone", "kd"]), by_width)
    assert {n.spec.role for n in rungs} == {"scout", "teacher", "rung"}
    assert {n.spec.path for n in certain if n.spec.role == "student"} == {("teacher", "s24"), ("teacher", "s16")}
    controls = [n.spec.path[-1] for n in certain if n.spec.role in ("alone", "kd")]
    assert sorted(controls) == ["s16", "s16", "s24", "s24", "teacher"]  # plain KD trains a teacher of its own


@pytest.mark.parametrize("rule", [{"share": 0.3}, {"max_jobs": 14}, {"max_jobs": 20}, {"max_seconds": 120}])
def test_controls_do_not_count_for_the_stop_rules(rule):
    with_controls, without = (run(make(controls=controls, **rule), by_width) for controls in (["alone", "kd"], []))
    assert with_controls[0].pruned == without[0].pruned
    assert finals(with_controls[1]) == finals(without[1])
    assert {n.spec.path[-1] for n in with_controls[1] if n.spec.role == "alone"} == {
        path[-1] for path in finals(without[1])
    }
