"""The candidates of a recipe, and the students that are dropped before any training."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from statistics import median
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skd_edge.recipe.schema import Recipe
from skd_edge.recipe.sections import Runtime
from skd_edge.schedule.candidates import (
    filter_by_budget,
    find_fastest_latencies,
    list_candidates,
    list_deployments,
    list_files,
    pool_latency_by_deployment,
    teacher_deployment,
    why_file_unrunnable,
    why_pair_impossible,
)

RUNTIMES = get_args(Runtime)

RECIPE = Recipe.model_validate(
    {
        "name": "r",
        "data": {"kind": "generated"},
        "assistants": [{"name": "a", "family": "resnet", "width": 16}],
        "students": [{"name": "s1", "width": 8}, {"name": "s2", "width": 12}],
    }
)


def test_there_is_a_candidate_for_each_path_student_and_precision():
    found = list_candidates(RECIPE)
    assert len({c.name for c in found}) == len(found) == 8
    assert {c.name for c in found if c.student == "s1"} == {
        "teacher>s1 fp32",
        "teacher>s1 int8",
        "teacher>a>s1 fp32",
        "teacher>a>s1 int8",
    }
    assert all(c.path[0] == "teacher" and c.path[-1] == c.student and c.deployment.runtime == "ort" for c in found)


def with_runtimes(*names):
    return RECIPE.model_copy(update={"bench": RECIPE.bench.model_copy(update={"runtime": names})})


def test_names_include_the_runtime_if_there_are_several():
    assert [f.name for f in list_deployments(with_runtimes("openvino"))] == ["fp32", "int8"]
    several = with_runtimes("ort", "openvino")
    assert [f.name for f in list_deployments(several)] == [
        "fp32 on ort",
        "fp32 on openvino",
        "int8 on ort",
        "int8 on openvino",
    ]
    found = list_candidates(several)
    assert len({c.name for c in found}) == len(found) == 16
    assert {c.deployment_key for c in found if c.student == "s1"} == {f"s1 {f.name}" for f in list_deployments(several)}


def test_students_of_equal_architecture_share_one_latency():
    students = [{"name": "s1", "width": 8}, {"name": "s1-graft", "width": 8, "training": {"combination": "graft"}}]
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"students": students})
    assert recipe.same_architecture == {"s1": "s1", "s1-graft": "s1"}
    found = list_candidates(recipe)
    assert {c.deployment_key for c in found} == {"s1 fp32", "s1 int8"}
    ms = pool_latency_by_deployment({c: float(i) for i, c in enumerate(found)})
    assert len({ms[c] for c in found if c.deployment.precision == "fp32"}) == 1
    p50 = {"s1 fp32": 2.0, "s1 int8": 1.0}
    assert find_fastest_latencies(recipe, p50) == {"s1": 1.0, "s1-graft": 1.0}
    assert filter_by_budget(recipe, p50, 0.5)[1]["s1-graft"].startswith("never trained: 1.00 ms (int8, random weights)")
    assert [s.name for s in filter_by_budget(recipe, p50, 1.5)[0]] == ["s1", "s1-graft"]


def test_a_student_within_the_budget_on_one_runtime_is_kept():
    several = with_runtimes("ort", "openvino")
    p50 = {f"{s} {f.name}": 3.0 for s in ("s1", "s2") for f in list_deployments(several)} | {"s1 int8 on openvino": 1.0}
    keep, out = filter_by_budget(several, p50, 2.0)
    assert [s.name for s in keep] == ["s1"]
    assert "3.00 ms (fp32 on ort, random weights) is over the budget of 2.00 ms" in out["s2"]
    assert find_fastest_latencies(several, p50) == {"s1": 1.0, "s2": 3.0}


def test_a_student_that_no_runtime_can_run_is_never_trained():
    p50 = {"s1 fp32": 1.0}
    keep, out = filter_by_budget(RECIPE, p50, None)
    assert [s.name for s in keep] == ["s1"]
    assert "no runtime can run" in out["s2"]
    assert find_fastest_latencies(RECIPE, p50) == {"s1": 1.0}


def test_one_deployment_must_meet_all_limits():
    rule = RECIPE.choice.model_copy(update={"max_joules": 0.5, "max_megabytes": 2.0})
    recipe = RECIPE.model_copy(update={"choice": rule})
    names = ("s1 fp32", "s1 int8", "s2 fp32", "s2 int8")
    p50, joules = dict.fromkeys(names, 1.0), dict(zip(names, (0.6, 0.4, 0.9, 0.8), strict=True))
    sizes = dict.fromkeys(names, 1.0)
    keep, out = filter_by_budget(recipe, p50, None, sizes, joules)
    assert [s.name for s in keep] == ["s1"]
    assert "0.8 J a clip (int8, random weights) is over choice.max_joules 0.5" in out["s2"]
    keep, out = filter_by_budget(
        recipe, p50, None, sizes | {"s1 int8": 3.0}, joules
    )  # each file is within one limit only
    assert keep == []
    assert "0.6 J a clip (fp32" in out["s1"]


@settings(max_examples=40, deadline=None)
@given(times=st.lists(st.floats(0.1, 10), min_size=4, max_size=4), budget=st.none() | st.floats(0.1, 10))
def test_a_student_is_kept_if_one_precision_is_within_the_budget(times, budget):
    p50 = dict(zip(("s1 fp32", "s1 int8", "s2 fp32", "s2 int8"), times, strict=True))
    keep, out = filter_by_budget(RECIPE, p50, budget)
    for student in RECIPE.students:
        fastest = min(p50[f"{student.name} fp32"], p50[f"{student.name} int8"])
        assert (student in keep) == (budget is None or fastest <= budget)
        assert (student.name in out) == (student not in keep)
    assert all("never trained" in reason and "over the budget" in reason for reason in out.values())


def test_all_cascades_of_a_deployment_get_the_same_latency():
    found = list_candidates(RECIPE)
    one = [c for c in found if c.deployment_key == found[0].deployment_key]
    assert len(one) > 1
    measured = {c: 1.0 + 0.01 * i for i, c in enumerate(found)}
    shared = pool_latency_by_deployment(measured)
    assert {shared[c] for c in one} == {median(measured[c] for c in one)}
    assert len(set(shared.values())) == len({c.deployment_key for c in found})


@pytest.mark.parametrize(
    ("precision", "possible"),
    [
        ("fp32", {*RUNTIMES} - {"litert"}),
        ("int8", {"ort", "openvino", "ort-cuda", "ort-tensorrt"}),
        ("bf16", {"openvino", "tensorrt", "tensorrt-rtx"}),
        ("fp8", {"tensorrt", "tensorrt-rtx"}),
    ],
)
def test_pairs_that_no_device_can_run_say_why(precision, possible, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)  # as if it were not installed
    reasons = {runtime: why_pair_impossible(precision, runtime) for runtime in RUNTIMES}
    assert {runtime for runtime, reason in reasons.items() if reason is None} == possible
    assert all(runtime in reason.lower() for runtime, reason in reasons.items() if reason)


@pytest.fixture
def litert_converter(monkeypatch):
    """LiteRT's converter and quantiser, as if they were installed."""
    for name in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def test_litert_has_files_of_its_own_in_three_precisions(litert_converter):
    precisions = ["fp32", "fp16", "bf16", "int8", "int8-trt", "fp8"]
    found = {p: why_pair_impossible(p, "litert") for p in precisions}
    assert [p for p in precisions if found[p] is None] == ["fp32", "fp16", "int8"]
    assert found["fp8"] == "LiteRT files are fp32, fp16, int8"
    recipe = RECIPE.model_copy(
        update={
            "export": RECIPE.export.model_copy(update={"precisions": ("fp32", "bf16", "int8")}),
            "bench": RECIPE.bench.model_copy(update={"runtime": ("litert", "ort")}),
        }
    )
    assert list_files(recipe) == ("fp32.litert", "fp32", "int8.litert", "int8")  # bf16 has no runtime here
    assert teacher_deployment(recipe).file == "fp32.litert"


def test_an_exported_file_is_for_runtimes_that_read_it(litert_converter):
    assert why_file_unrunnable("fp32.onnx", "ort") is None
    assert why_file_unrunnable("int8.litert.tflite", "litert") is None
    assert why_file_unrunnable("fp32.tflite", "openvino") == "openvino does not read .tflite files"
    assert why_file_unrunnable("fp32.onnx", "litert") == "litert does not read .onnx files"
    assert "symmetric INT8 only" in why_file_unrunnable("int8.onnx", "tensorrt")
