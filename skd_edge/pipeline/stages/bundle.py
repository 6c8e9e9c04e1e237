"""The end of a run: the chosen file confirmed once on the test clips, the bundle, the result object."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skd_bench.benchmark.latency import Latency
from skd_bench.device.info import device_id
from skd_bench.files import sha256_file, write_json
from skd_bench.inference.reject_option import Reject, choose_threshold
from skd_bench.metrics.accuracy import Accuracy, softmax
from skd_bench.stats import paired_difference
from skd_edge import __version__
from skd_edge.evaluation.evaluator import Scale, Weighed
from skd_edge.evaluation.litert_export import write_tflite
from skd_edge.evaluation.streaming_export import write_stream
from skd_edge.execution.local_executor import Finished, LocalEngine
from skd_edge.labels.audit.label_report import label_facts
from skd_edge.labels.class_hierarchy import collapse
from skd_edge.labels.dataset import Material, deployed_view
from skd_edge.models.tsm import TSM
from skd_edge.recipe.loader import resolved_yaml
from skd_edge.recipe.schema import Recipe
from skd_edge.report import builder as build
from skd_edge.run_folder import Run
from skd_edge.schedule.candidates import TEACHER, Candidate, candidates, teachers_form
from skd_edge.schedule.selection import Decision
from skd_edge.test_set_ledger import look_at
from skd_export.bundle.writer import ModelFile, StreamModel, write_bundle

Json = dict[str, Any]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """Everything a run found out."""

    recipe: Recipe
    run: Run
    material: Material
    scale: Scale
    engine: LocalEngine
    finished: list[Finished]
    random: dict[str, Latency]
    weighed: dict[Candidate, Weighed]
    teacher: Weighed | None
    decision: Decision
    budget_ms: float | None
    dropped: dict[str, str]
    pruned: dict[tuple[str, ...], str]

    @property
    def chosen(self) -> Candidate | None:
        """The candidate to ship."""
        return next((c for c in self.weighed if c.name == self.decision.chosen), None)

    @property
    def given_up(self) -> dict[tuple[str, ...], str]:
        """The cascades that were not trained to the end, and why; one for each student that was never trained."""
        over = {(self.recipe.teacher.name, student): why for student, why in self.dropped.items()}
        return over | self.pruned

    def leg(self, path: tuple[str, ...]) -> Finished | None:
        """The finished leg at the end of a path."""
        legs = (f for f in self.finished if f.node.leg.role in ("student", "teacher"))
        return next((f for f in legs if f.node.leg.path == path), None)


def write_result(outcome: Outcome, seconds: float) -> Json:
    """Confirm, bundle, and gather the result object (``report.json``)."""
    card, recipe = outcome.scale.device.card, outcome.recipe
    test = confirm(outcome)
    if outcome.chosen is not None:
        bundle(outcome, test, card)
    else:  # one of an earlier choice breaks the rule that holds now
        shutil.rmtree(outcome.run.folder / "bundle", ignore_errors=True)
    labels = next((f.node for f in outcome.finished if f.node.leg.role == "teacher"), None)
    pseudo = outcome.engine.pseudo_labels(labels) if labels and recipe.labels.optimise else None
    rows = [_row(outcome, c) for c in candidates(recipe)]
    samples = {c.name: build.thinned(w.latency) for c, w in outcome.weighed.items()}
    accuracy = max((w.accuracy.top1.value for w in outcome.weighed.values()), default=0.5)
    result = build.head(recipe, seconds) | {
        "headline": headline(outcome), "chosen": _chosen(outcome, rows), "candidates": rows,
        "budget": {"text": recipe.choice.budget, "ms": outcome.budget_ms} if outcome.budget_ms else None,
        "baselines": [_teacher_row(outcome)] if outcome.teacher else [],
        "legs": build.leg_rows(
            outcome.finished, outcome.material.clips.val.groups, outcome.given_up
        ),
        "labels": label_facts(pseudo, outcome.material), "data": build.data_facts(outcome.material),
        "test": test, "resolution": build.resolution(len(outcome.material.clips.val), accuracy),
        "latency_samples": samples, "device": card | {"id": device_id(card)},
        "notes": notes(outcome) + parent_notes(test, outcome.material.clips.classes),
        "recipe": resolved_yaml(recipe),
    }  # fmt: skip
    write_json(outcome.run.folder / "latency.json", {c.name: w.latency.samples_ms for c, w in outcome.weighed.items()})
    return result


def headline(outcome: Outcome) -> str:
    """What to ship and why, in one sentence."""
    chosen = outcome.chosen
    if chosen is None:
        return f"Nothing to ship: {outcome.decision.why}."
    w = outcome.weighed[chosen]
    p50, top1 = w.latency.p50, w.accuracy.top1
    teacher = outcome.teacher.latency.p50 if outcome.teacher else None
    faster = f", {teacher.value / p50.value:.1f} x as fast as the teacher" if p50 and teacher else ""
    where = f" on {chosen.form.runtime}" if len(outcome.recipe.bench.runtime) > 1 else ""
    return (
        f"Ship {chosen.student} in {chosen.form.precision.upper()}{where}, trained by {' > '.join(chosen.path)}: "
        f"{top1.value:.1%} [{top1.low:.1%}, {top1.high:.1%}] on validation at {p50.value if p50 else 0:.2f} ms"
        f"{faster}."
    )


def notes(outcome: Outcome) -> list[str]:
    """What a reader must know to read the numbers right."""
    bench = outcome.recipe.bench
    said = [
        "Accuracies are of the exported files, one view a clip, on the trusted validation clips.",
        f"Latency: single-stream, batch 1, network only, {bench.threads} thread(s), {bench.processes} fresh processes "
        f"of {bench.queries} queries each, candidates interleaved.",
        "Validation picked each leg's epoch as well as the candidate, so validation accuracies are a little "
        "optimistic; the test table is not.",
    ]
    if not outcome.scale.device.here:
        said.append(
            f"Milliseconds are of {outcome.scale.device.name}, whose card this report shows; accuracies of the same "
            "files were computed on the machine that trained."
        )
    if len(bench.runtime) > 1:
        said.append(
            f"Every file was weighed and scored on {' and '.join(bench.runtime)}: an accuracy is of a file on a "
            f"runtime. The teacher's milliseconds are of {bench.runtime[0]}; the test table runs every file on the "
            "runtime of the chosen one."
        )
    said += outcome.scale.warnings
    if outcome.teacher is None:
        said.append("The teacher could not be exported, so it is neither measured nor on the test table.")
    noise, made_wrong = outcome.recipe.labels.noise, outcome.material.made_wrong
    if noise.kind == "voters":
        said.append(
            f"The recipe simulated {noise.voters} voters, the average one wrong in {noise.rate:.0%} of his votes and "
            f"leaving out {noise.abstain:.0%} of the clips (seed {outcome.recipe.seed}); {made_wrong:.0%} of the "
            f"labels that they agree on ({outcome.recipe.labels.aggregate}) are wrong."
        )
    elif made_wrong is not None:
        said.append(
            f"The recipe made {noise.rate:.0%} of the training labels wrong ({noise.kind}), seed {outcome.recipe.seed}."
        )
    if outcome.material.trusted is not None:
        said.append(
            f"{outcome.material.trusted.sum()} training labels were checked by a person and stayed as they are "
            "(labels.trusted)."
        )
    if text := rejecting(outcome):
        said.append(text)
    if outcome.material.unlabelled:
        said.append(
            f"{outcome.material.unlabelled} of {len(outcome.material.weak)} training clips have no label; they take "
            "part through the teacher and pseudo-labels, and count as not right before optimisation."
        )
    if unsteady := [c.name for c, w in outcome.weighed.items() if not w.latency.steady]:
        said.append(
            f"Latency did not settle within 10 % during warm-up for: {', '.join(unsteady)}; the machine was busy."
        )
    return said


def parent_notes(test: Json | None, classes: Sequence[str]) -> list[str]:
    """Where class names are ``parent/child``: how often the chosen file names the right parent, with its support."""
    up = collapse(test["confusion"], classes) if test and test.get("confusion") else None
    if up is None:
        return []
    support = ", ".join(f"{name} {count}" for name, count in zip(up.classes, up.support, strict=True))
    return [
        f"At the level of parents ({support} test clips) the chosen file is right on {up.accuracy:.1%} of the test "
        "clips."
    ]


def reject_of(outcome: Outcome, one: Weighed) -> Reject | None:
    """The threshold below which a file keeps silent, set on the validation clips; None where none was asked for.

    It is 1 where not even the surest answers are right as often as ``choice.reject`` asks.
    """
    wanted, val = outcome.recipe.choice.reject, outcome.material.clips.val
    if wanted is None:
        return None
    logits = outcome.scale.logits(one.path, val, one.runtime)
    chosen = choose_threshold(logits, val.labels, wanted.accuracy, val.groups.tolist())
    if chosen is None:
        return Reject(1.0, wanted.background)
    return Reject(chosen[0], wanted.background)


def rejecting(outcome: Outcome) -> str | None:
    """What the reject threshold of the chosen file does, on validation and on the test clips, in words."""
    if outcome.chosen is None or (reject := reject_of(outcome, outcome.weighed[outcome.chosen])) is None:
        return None
    chosen, words = outcome.weighed[outcome.chosen], []
    for name, clips in (("validation", outcome.material.clips.val), ("test", outcome.material.clips.test)):
        shares = softmax(outcome.scale.logits(chosen.path, clips, chosen.runtime))
        given = shares.max(axis=1) >= reject.threshold
        right = (shares.argmax(axis=1) == clips.labels)[given]
        words.append(f"{given.mean():.1%} of the {name} clips" + (f" ({right.mean():.1%} right)" if len(right) else ""))
    instead = f"called {reject.background!r}" if reject.background else "left unsure"
    return (
        f"Below a confidence of {reject.threshold:.3f} a clip is {instead} (choice.reject, set on validation): the "
        f"chosen file answers {' and '.join(words)}. The accuracies above count every answer."
    )


def confirm(outcome: Outcome) -> Json | None:
    """Score the chosen file once on the untouched test clips, beside teacher and controls; note the look.

    All of them run on the chosen one's runtime.
    """
    if outcome.chosen is None:
        return None
    chosen, test = outcome.weighed[outcome.chosen], outcome.material.clips.test
    outcome.scale.chosen = outcome.chosen.name
    file = sha256_file(chosen.path) + (f" on {chosen.runtime}" if chosen.runtime != "ort" else "")
    looks = look_at(test.hash, run=outcome.run.folder.absolute(), artefact=file)
    files = {"teacher (FP32 file)": outcome.teacher.path} if outcome.teacher else {}
    for role, name in (("alone", "student alone, weak labels"), ("kd", "student with plain KD")):
        for control in outcome.finished:
            if control.node.leg.role == role and control.node.leg.learner.name == outcome.chosen.student:
                network = outcome.engine.network(control.node)
                made = outcome.scale.export(network, control.node.hash, ("fp32",))
                files[f"{name} (FP32 file)"] = made["fp32"]
    files[f"skd-edge: {outcome.chosen.name}"] = chosen.path
    scored = {name: outcome.scale.score(path, test, chosen.runtime) for name, path in files.items()}
    accuracy, correct = scored[f"skd-edge: {outcome.chosen.name}"]
    rows = [_test_row(name, *each, correct, test.groups.tolist()) for name, each in scored.items()]
    outcome.run.journal("confirmed", name=outcome.chosen.name, test_accuracy=accuracy.top1.value, looks=looks)
    return build.test_facts(accuracy, rows, looks, test.hash)


def bundle(outcome: Outcome, test: Json | None, card: Json) -> Path:
    """The folder that travels: the chosen file first, its other precisions behind it where they are within bounds.

    A file is there once: for the chosen runtime, or where it is outside its bounds on that one for another.
    """
    chosen, recipe = outcome.chosen, outcome.recipe
    assert chosen is not None
    mine = [c for c in outcome.weighed if c.path == chosen.path and not outcome.weighed[c].refused]
    same: list[Candidate] = []
    for c in sorted(mine, key=lambda c: (c != chosen, c.form.runtime != chosen.form.runtime)):
        if c.form.precision not in {there.form.precision for there in same}:
            same.append(c)
    leg = outcome.leg(chosen.path)
    sampling, preprocess = deployed_view(recipe.clip)
    if recipe.export.frame_size:
        preprocess = replace(preprocess, height=recipe.export.frame_size[0], width=recipe.export.frame_size[1])
    return write_bundle(
        outcome.run.folder / "bundle",
        name=recipe.name,
        classes=list(outcome.material.clips.classes),
        sampling=sampling,
        preprocess=preprocess,
        models=[
            _model_file(c, outcome.weighed[c], test if c == chosen else None, card,
                        reject_of(outcome, outcome.weighed[c]))
            for c in same
        ] + _tflite(outcome),
        licences=recipe.licences.model_dump(),
        created_by=f"skd-edge {__version__}",
        provenance={
            "leg": leg.node.hash if leg else None,
            "seed": recipe.seed,
            "data": outcome.material.clips.train.hash,
            "calibration": _calibration(outcome),
        },
        samples=_samples(outcome),
        stream=_stream(outcome),
        contract="float_clip" if recipe.export.contract == "clip" else "uint8_frames",
    )  # fmt: skip


def _calibration(outcome: Outcome) -> Json:
    """Which training clips INT8 calibration saw: how many, and a hash of the data, their number and their draw."""
    train, recipe = outcome.material.clips.train, outcome.recipe
    count = min(recipe.export.calibration_clips, len(train))
    key = hashlib.sha256(f"{train.hash}:{count}:{recipe.seed}".encode()).hexdigest()
    return {"clips": count, "sha256": key}


def _tflite(outcome: Outcome) -> list[ModelFile]:
    """The chosen student for LiteRT, where the recipe asks for it and the file is within its bounds."""
    chosen = outcome.chosen
    leg = outcome.leg(chosen.path) if chosen else None
    if not outcome.recipe.export.litert or chosen is None or leg is None:
        return []
    path = outcome.run.folder / "artefacts" / leg.node.hash / "fp32.tflite"
    network, way = outcome.engine.network(leg.node), list(chosen.path)
    made = write_tflite(outcome.scale, network, path, student=chosen.student, names=way)
    outcome.run.journal("tflite", name=chosen.name, kept=made is not None)
    return [made] if made else []


def _stream(outcome: Outcome) -> StreamModel | None:
    """The chosen student frame by frame, where it is causal."""
    chosen = outcome.chosen
    assert chosen is not None
    leg = outcome.leg(chosen.path)
    if leg is None or not leg.node.leg.learner.causal:
        return None
    network = outcome.engine.network(leg.node)
    assert isinstance(network, TSM)
    streamed = write_stream(outcome.scale, network, outcome.run.folder / "artefacts" / leg.node.hash / "frame.stream")
    outcome.scale.warnings.append(streamed.to_text())
    outcome.run.journal("streamed", name=chosen.name, p50_ms=streamed.milliseconds, state=streamed.model.state)
    return streamed.model


def _model_file(c: Candidate, w: Weighed, test: Json | None, card: Json, reject: Reject | None) -> ModelFile:
    measured = {
        "accuracy": w.accuracy.top1.value, "interval": [w.accuracy.top1.low, w.accuracy.top1.high],
        "test_accuracy": test["accuracy"] if test else None, "device": device_id(card), "device_name": card.get("cpu"),
        **{k: v for k, v in build.latency_facts(w.latency).items() if k.startswith("p")},
    }  # fmt: skip
    if c.form.name != c.form.precision:  # else path and precision say it
        measured["name"] = c.name
    if w.latency.joules:
        measured["joules_per_clip"] = w.latency.joules.value
    options = {"optimisation": "all"} | ({"reject": reject.to_json()} if reject else {})
    return ModelFile(w.path, c.form.precision, c.student, list(c.path), options=options,
                     parity={k: v for k, v in w.parity.items() if k != "flips"}, measured=measured,
                     runtime=c.form.runtime)  # fmt: skip


def _samples(outcome: Outcome) -> list[tuple[Path, str]]:
    """Validation clips for the bundle: none unless the recipe asks."""
    count = outcome.recipe.export.sample_clips
    return list(outcome.material.sample_files[:count]) if count else []


def _row(outcome: Outcome, c: Candidate) -> Json:
    weighed, leg = outcome.weighed.get(c), outcome.leg(c.path)
    reason = outcome.decision.reasons.get(c.name) or outcome.scale.cannot.get(c.untrained)
    reason = reason or outcome.dropped.get(c.student) or outcome.pruned.get(c.path, "")
    return build.candidate_row(
        c,
        weighed,
        outcome.random.get(c.untrained),
        outcome.decision,
        reason,
        leg.node.hash if leg else None,
    )


def _teacher_row(outcome: Outcome) -> Json:
    name = outcome.recipe.teacher.name
    candidate = Candidate((name,), name, teachers_form(outcome.recipe), name)
    return build.candidate_row(
        candidate, outcome.teacher, outcome.random[TEACHER], outcome.decision, "the teacher, to compare", None
    ) | {"name": TEACHER}


def _chosen(outcome: Outcome, rows: list[Json]) -> Json | None:
    row = next((r for r in rows if r["chosen"]), None)
    return None if row is None else row | {"why": outcome.decision.why}


def _test_row(name: str, accuracy: Accuracy, right: Bools, chosen_right: Bools, groups: list[int]) -> Json:
    """One network on the test clips; ``behind`` is by how many points the chosen file leads it, clip by clip."""
    lead = paired_difference(chosen_right.astype(float), right.astype(float), groups)
    return {
        "name": name, "accuracy": accuracy.top1.value, "interval": [accuracy.top1.low, accuracy.top1.high],
        "macro_f1": accuracy.macro_f1, "behind": 100 * lead.value,
        "behind_interval": [100 * lead.low, 100 * lead.high],
    }  # fmt: skip
