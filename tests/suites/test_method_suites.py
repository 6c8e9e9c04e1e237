"""The suites of the method and of benchmarks, without training: rows, counts and statistics."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest


@pytest.fixture
def suites(root, monkeypatch):
    """Undoes what the suites change in our modules: the registered losses and the distribution loss."""
    from skd_edge.distill.losses import LOGIT_LOSSES
    from skd_edge.distill.losses.distribution import DISTRIBUTION_LOSSES

    registries = [(registry, dict(registry)) for registry in (LOGIT_LOSSES, DISTRIBUTION_LOSSES)]
    yield
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    for name in [n for n in sys.modules if n.startswith("bench.suites")]:
        sys.modules.pop(name, None)


def test_the_a_a_suite_counts_claims_and_overlaps(suites):
    from bench.suites.latency.aa_test import intervals_overlap, verdicts

    def repeated(aa, ba, p50, gate=True):
        return {"aa": aa, "ba": ba, "p50": p50, "gate": gate}

    calm = repeated([1.0, 0.99, 1.01], [1.05, 1.04, 1.06], [2.0, 1.9, 2.1])
    claims = repeated([1.03, 1.02, 1.04], [1.05, 1.04, 1.06], [2.0, 1.9, 2.1])
    misses = repeated([1.0, 0.99, 1.01], [1.02, 0.99, 1.03], [4.0, 3.9, 4.1], gate=False)
    found = verdicts([calm, claims, calm, misses])
    assert (found["A/A claims"]["count"], found["A/A claims"]["met"]) == (1, False)
    assert (found["B found"]["count"], found["B found"]["met"]) == (3, False)
    assert found["ratios overlap"]["count"] == 2  # the last repeat is compared with the first
    absolute = found["absolute repeats overlap"]
    assert (absolute["count"], absolute["n"], absolute["held back by the load gate"]) == (2, 2, 2)
    assert not intervals_overlap([1.0, 0.9, 1.1], [2.0, 1.2, 3.0])
    assert verdicts([misses])["absolute repeats overlap"]["met"] is None


def test_three_ways_of_timing_run_the_same_file(suites, tmp_path):
    pytest.importorskip("polygraphy")
    from bench.suites.latency.cross_check import WAYS, compare_ways, write_conv_chain

    model = write_conv_chain(tmp_path / "chain.onnx", 2, channels=4)
    for way in WAYS.values():
        times = way(str(model), 30)
        assert len(times) == 30
        assert min(times) > 0
    found = compare_ways([{"ours": 1.02, "bare": 1.0, "polygraphy": 1.2}] * 5)
    assert found["bare"]["ratio"] == pytest.approx(1.02)
    assert found["bare"]["met"]
    assert not found["polygraphy"]["met"]


def build_job(row, noise=()):
    from skd_edge.execution.job_graph import DatasetFingerprint, JobFactory
    from skd_edge.recipe.loader import load_recipe

    recipe = load_recipe("quickstart", [*noise, *row.sets])
    return row.build_job(JobFactory(recipe, DatasetFingerprint("data", "weak", 10)), recipe.students[0])


def test_every_row_is_a_different_job_of_the_same_student(suites):
    from bench.suites.method.rows import ROWS, THESIS

    jobs = {row.name: build_job(row) for row in (*ROWS, *THESIS)}
    other = {r.name for r in ROWS if r.clean or {r.stretch, r.student, r.teacher} != {1}}
    hashes = {name: job.hash for name, job in jobs.items() if name not in other}
    assert len(set(hashes.values())) == len(hashes)
    epochs = {job.spec.epochs for name, job in jobs.items() if not name.startswith("teacher")}
    assert len(epochs) == 1  # equal student epochs
    widths = {job.spec.learner.width for name, job in jobs.items() if name in {r.name for r in ROWS}}
    assert len(widths) == 2  # the student, the teacher


def test_baselines_train_on_weak_labels_without_substages(suites):
    from bench.suites.method.rows import ROWS

    for row in ROWS:
        job = build_job(row).spec
        if row.name in ("no KD", "KD", "KD + LS", "DIST", "TAKD", "FitNet", "ELR alone"):
            assert job.targets == "weak"
            assert job.staged == (row.name == "FitNet")
        if row.name.startswith(("full", "all four ideas")):
            assert job.staged
    without = build_job(next(r for r in ROWS if r.name == "full - (c) pseudo-labels"))
    assert without.spec.targets == "weak"
    assert without.labels is None


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_torchdistills_losses_agree_with_ours(suites, temperature):
    """The functions differ only by torchdistill's eps and its standard deviation; DIST has tau = 1."""
    pytest.importorskip("torchdistill", reason="torchdistill is not installed")
    import torch

    import bench.suites.method.rows  # noqa: F401 - registers torchdistill's losses
    from skd_edge.distill.losses import LOGIT_LOSSES

    torch.manual_seed(0)
    a, b = torch.randn(16, 10), torch.randn(16, 10)
    for theirs, ours, bound in (("td-kd", "kd", 1e-5), ("td-ls", "kd-standardised", 0.12), ("td-dist", "dist", 1e-4)):
        theirs_value = LOGIT_LOSSES[theirs](a, b, temperature=temperature).item()
        expected = LOGIT_LOSSES[ours](a, b, temperature=1.0 if ours == "dist" else temperature).item()
        assert theirs_value == pytest.approx(expected, rel=bound), theirs


def some_rows(suites_rows, better: float, n: int = 200, seeds: int = 5):
    """Rows of several methods on the same clips; ``better`` is added to the accuracy of full."""
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        luck = rng.random(n)
        for name, rate in suites_rows.items():
            correct = luck < rate + (better if name == "full" else 0)
            bits = np.packbits(correct).tobytes().hex()
            where = {"data": "generated", "noise": "sym40", "row": name, "seed": seed}
            result = {"clips": n, "correct": bits, "test": float(correct.mean())}
            rows.append(where | result | {"seconds": 1.0, "device": "d", "threads": 1, "torch": "t"})
    return rows


def test_the_statistics_of_the_tables(suites, tmp_path):
    from bench.suites.method.tables import (
        Column,
        format_leads,
        format_pooled_lead,
        format_recovered_share,
        holm,
        unpack_correct,
        write_tables,
    )

    rates = {"no KD": 0.5, "KD": 0.55, "full": 0.55, "no KD, clean labels": 0.75}
    rows = some_rows(rates, better=0.1)
    assert unpack_correct(rows[0]).mean() == rows[0]["test"]
    column = Column(rows)
    got = format_recovered_share(column, "full", "no KD, clean labels")
    assert float(got.split(" ")[0]) == pytest.approx(60, abs=8)
    columns = {("generated", "sym40"): column, ("generated", "sym20"): column}
    assert format_pooled_lead(columns, "KD").endswith(" (10)")
    assert float(format_pooled_lead(columns, "KD").split(" ")[0]) == pytest.approx(10, abs=0.6)
    once = format_pooled_lead({("generated", "sym40"): column}, "KD")  # the same seeds twice are not more evidence
    width = [
        np.ptp([float(x) for x in text[text.index("[") + 1 : text.index("]")].split(",")])
        for text in (once, format_pooled_lead(columns, "KD"))
    ]
    assert width[1] > 0.9 * width[0]
    assert format_pooled_lead(columns, "DIST") == "–"
    assert format_leads(column, "full", ["KD"])["KD"].startswith("+10.")
    same = Column(some_rows(rates | {"no KD, clean labels": 0.5}, better=0.1))
    assert format_recovered_share(same, "full", "no KD, clean labels") == "undefined"
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    write_tables([json.loads(json.dumps(r)) for r in rows], tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text()
    assert "| full | " in text
    assert "generated, 40 % symmetric noise" in text


def test_intervals_depend_on_the_number_of_seeds_and_on_shared_clips(suites):
    """Compared with the variance of a mean: of five seeds' means, and of clips that all seeds share."""
    from bench.suites.method.tables import bootstrap_accuracy

    rng = np.random.default_rng(0)
    levels = np.array([0.3, 0.4, 0.5, 0.6, 0.7])[:, None]
    by_seed = (rng.random((5, 4000)) < levels).astype(float)  # so many clips that only the seeds matter
    assert bootstrap_accuracy(by_seed).std() == pytest.approx(by_seed.mean(1).std(ddof=1) / 5**0.5, rel=0.1)
    one = (rng.random((1, 400)) < 0.5).astype(float)
    alike = np.repeat(one, 5, axis=0)  # all seeds are correct on the same clips: they give no more evidence than one
    assert bootstrap_accuracy(alike, same_clips=True).std() == pytest.approx(
        (5 / 4) ** 0.5 * bootstrap_accuracy(one).std(), rel=0.1
    )
    assert bootstrap_accuracy(alike).std() < 0.6 * bootstrap_accuracy(one).std()
