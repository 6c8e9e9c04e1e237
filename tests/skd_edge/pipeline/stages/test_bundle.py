"""The bundle of a run: the chosen file first, each precision once; none where nothing was chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_edge.pipeline.stages.bundle import _one_per_precision, write_run_bundle


def write(results, decision):
    return write_run_bundle(results.ctx, results.data, results.trained, results.evaluated, decision, None)


def test_the_chosen_file_is_the_default(stage_results):
    for candidate in stage_results.evaluated.results:
        bundle = write(stage_results, replace(stage_results.decision, chosen=candidate.name))
        assert find_bundle_problems(bundle.folder) == []
        default = Manifest.load(bundle.folder).find_artefact()
        assert (tuple(default.path), default.precision) == (candidate.path, candidate.deployment.precision)
        assert default.measured["accuracy"] == stage_results.evaluated.results[candidate].accuracy.top1.value
        assert default.measured["test_accuracy"] is None  # it was not scored on the test clips


def test_a_bundle_of_an_earlier_choice_is_deleted(stage_results):
    folder = write(stage_results, stage_results.decision).folder
    assert folder.is_dir()
    assert write(stage_results, replace(stage_results.decision, chosen=None)).folder is None
    assert not folder.exists()


def test_files_out_of_their_bounds_are_left_out(stage_results):
    results = stage_results.evaluated.results
    chosen = next(c for c in results if c.deployment.precision == "fp32")
    assert [c.deployment.precision for c in _one_per_precision(results, chosen)] == ["fp32", "int8"]
    others = [c for c in results if c.path == chosen.path and c != chosen]
    rejected = {c: replace(result, rejection_reason="x" if c in others else None) for c, result in results.items()}
    assert _one_per_precision(rejected, chosen) == [chosen]


def test_the_chosen_runtime_is_preferred(stage_results):
    results = dict(stage_results.evaluated.results)
    by_precision = {c.deployment.precision: c for c in results if c.path == next(iter(results)).path}
    fp32, int8 = by_precision["fp32"], by_precision["int8"]
    elsewhere = replace(int8, deployment=replace(int8.deployment, runtime="openvino", name="int8 on openvino"))
    both = {fp32: results[fp32], elsewhere: results[int8], int8: results[int8]}
    assert _one_per_precision(both, fp32) == [fp32, int8]
    both[int8] = replace(results[int8], rejection_reason="out of its bounds on ort")
    assert _one_per_precision(both, fp32) == [fp32, elsewhere]


@pytest.mark.parametrize("count", [0, 2])
def test_sample_clips_are_those_that_the_recipe_wants(stage_results, count):
    export = stage_results.ctx.recipe.export.model_copy(update={"sample_clips": count})
    recipe = stage_results.ctx.recipe.model_copy(update={"export": export})
    results = replace(stage_results, ctx=replace(stage_results.ctx, recipe=recipe))
    assert len(Manifest.load(write(results, results.decision).folder).samples) == count
