"""The one result object of a run, `report.json`: what it holds, and the check of what was read.

Every field that a run may lack (an untrained candidate has no accuracy, a run whose budget nothing meets has no
choice) has a default here, so that whoever writes the object leaves it out or says null, and whoever reads it need
not ask twice. Keys this version does not know are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from skd_bench.errors import UserError

SCHEMA_VERSION = 1
"""The newest layout of `report.json` that this version reads and writes."""

REPORT_FILE = "report.json"


def _clean_json_value(value: Any) -> Any:
    """JSON as it should have been: NaN and infinities become null, lone surrogates a replacement character."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_clean_json_value(str(key)): _clean_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_json_value(item) for item in value]
    return value


def _drop_partial_interval(value: Any) -> Any:
    """An interval with an unknown end says nothing."""
    return None if isinstance(value, list | tuple) and None in value else value


def _split_network_path(value: Any) -> Any:
    """A cascade path: a list of network names, or the same joined by '>'."""
    return [part.strip() for part in value.split(">")] if isinstance(value, str) else value


def _drop_null_entries(value: Any) -> Any:
    """A list or a mapping without the entries that are unknown."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    return [item for item in value if item is not None] if isinstance(value, list) else value


Interval = Annotated[tuple[float, float] | None, BeforeValidator(_drop_partial_interval)]
NetworkPath = Annotated[list[str], BeforeValidator(_split_network_path)]
Samples = Annotated[list[float], BeforeValidator(_drop_null_entries)]
Counts = Annotated[dict[str, int], BeforeValidator(_drop_null_entries)]


class _ReportSection(BaseModel):
    """A section of the result; null means the same as absent."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null_fields(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class Parity(_ReportSection):
    """An artefact's answers against the PyTorch network's, over the same clips.

    Attributes:
        agreement: Share of clips with the same top class, 0..1.
        max_abs: Largest absolute difference of a logit.
        cosine: Cosine of the two logit arrays, 1 when they point the same way.
        accuracy_drop: Accuracy lost against the reference, in points; negative when it gained.
        n: Clips compared.
        flips: Clips whose top class changed: their number, or a list of them (at most 20).
    """

    agreement: float | None = None
    max_abs: float | None = None
    cosine: float | None = None
    accuracy_drop: float | None = None
    n: int | None = None
    flips: int | list[Any] | None = None


class OperatorKindProfile(_ReportSection):
    """Nodes of one kind as they ran: "int8", "fp16", "fp32", "converted", "reformatted"; share of the time, 0..1."""

    op: str = ""
    ran: str = ""
    nodes: int = 0
    share: float | None = None


class CandidateReport(_ReportSection):
    """One thing that could be deployed (or a baseline, drawn apart).

    Attributes:
        name: Unique within the run, such as "assistant>wide fp32".
        path: Networks from the teacher to the student.
        student: Name of the network that runs on the device.
        precision: "fp32", "fp16", "int8" or "int8-trt".
        runtime: What ran it, such as "ort".
        accuracy: Validation accuracy of this very file, 0..1; None when it was never trained.
        interval: 95 % interval of the accuracy, 0..1.
        macro_f1: Mean F1 over classes, 0..1.
        p50_ms: Median latency at batch 1, milliseconds; p90_ms and p99_ms are None below the queries they need.
        p50_interval: 95 % interval of the median, milliseconds.
        bytes: Size of the file.
        accuracy_per_ms: Accuracy points (or shares) a millisecond: printed, never chosen by.
        trained: Whether weights were trained; over-budget candidates are not.
        eligible: Whether it meets every constraint.
        on_front: Whether nothing is both faster and more accurate.
        chosen: Whether this is the one to ship.
        reason: Why it was or was not chosen, in words.
        joules_per_clip: Energy of a query above the idle machine's, joules, where the recipe limits it.
        joules_interval: 95 % interval of it.
        operators: Operators of the graph as the runtime optimised it, and their number.
        fates: What they really ran as there, and their share of the time of one profiled clip.
        left_out: Layers that an INT8 file keeps in FP32, because quantising them cost too much accuracy.
        job: Hash of the job whose weights it carries.
    """

    name: str
    path: NetworkPath = []
    student: str = ""
    precision: str = ""
    runtime: str = ""
    accuracy: float | None = None
    interval: Interval = None
    macro_f1: float | None = None
    p50_ms: float | None = None
    p50_interval: Interval = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    bytes: int | None = None
    accuracy_per_ms: float | None = None
    joules_per_clip: float | None = None
    joules_interval: Interval = None
    trained: bool = True
    eligible: bool = True
    on_front: bool = False
    chosen: bool = False
    reason: str = ""
    parity: Parity | None = None
    operators: Counts = {}
    fates: list[OperatorKindProfile] = []
    left_out: list[str] = []
    job: str | None = None


class ChosenCandidate(_ReportSection):
    """The candidate to ship; the fields mean what they mean in `Candidate`, and `why` says why in words."""

    name: str
    path: NetworkPath = []
    student: str = ""
    precision: str = ""
    runtime: str = ""
    accuracy: float | None = None
    interval: Interval = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    bytes: int | None = None
    why: str = ""


class LatencyBudget(_ReportSection):
    """The latency a candidate may take: as the recipe says it, and in milliseconds (p50) on this device."""

    text: str = ""
    ms: float | None = None


class EpochMetrics(_ReportSection):
    """One point of a training curve: mean loss, validation accuracy 0..1, and the loss by term."""

    epoch: int = 0
    loss: float | None = None
    accuracy: float | None = None
    terms: dict[str, float | None] = {}


class JobReport(_ReportSection):
    """One teacher -> learner training.

    Attributes:
        job: Hash that names it.
        learner: The network that learnt.
        teacher: Hash of the job it learnt from; None where it learnt from labels alone.
        path: Networks from the teacher to this learner.
        role: "teacher", "assistant", "student", "control" (trained without the method, never chosen), or "rung" (fewer
            epochs, to see whether a cascade is worth all of them).
        accuracy: Validation accuracy of the PyTorch network, 0..1.
        interval: 95 % interval of the accuracy.
        gain: Points gained over what `gain_over` names.
        seconds: Wall time of the training (of the original one, where it came from the cache).
        state: "trained", "cached" or "pruned".
        reason: Why it was pruned or how it was found.
        curve: One entry an epoch.
    """

    job: str = ""
    learner: str
    teacher: str | None = None
    path: NetworkPath = []
    role: str = "student"
    accuracy: float | None = None
    interval: Interval = None
    gain: float | None = None
    gain_over: str = ""
    seconds: float | None = None
    epochs: int | None = None
    state: str = "trained"
    reason: str = ""
    curve: list[EpochMetrics] = []


class LabelExample(_ReportSection):
    """One decision about a label: what it was, what it became, how sure (0..1), and why."""

    clip: str = ""
    weak: str = ""
    pseudo: str = ""
    confidence: float | None = None
    why: str = ""


class AnnotatorReport(_ReportSection):
    """Somebody (or some rule) who voted: estimated share of right votes, 0..1, None without a vote; how many votes."""

    name: str = ""
    accuracy: float | None = None
    votes: int | None = None


class ClassLabelCounts(_ReportSection):
    """One class among the training labels: clips labelled so, how many of them are probably wrong, checked, after."""

    name: str = Field("", alias="class")
    labelled: int | None = None
    wrong: float | None = None
    trusted: int | None = None
    after: int | None = None
    val: int | None = None
    test: int | None = None


class LabelReport(_ReportSection):
    """Weak labels before and after optimisation.

    Attributes:
        n: Training clips.
        classes: Number of classes.
        unlabelled: Training clips without a weak label; they count as not right in `accuracy_before`.
        annotators: Where weak labels come from votes: how good each annotator is, estimated from the votes.
        noise_estimate: Estimated share of wrong weak labels, 0..1.
        accuracy_before: Share of weak labels that are right, 0..1; None when the truth is unknown.
        accuracy_after: The same of the pseudo-labels.
        changed: Clips whose most likely class changed; `kept` where it stayed; `uncertain` where neither is clear.
        class_shares_before: Share of the clips by class, 0..1, and `class_shares_after`.
        examples: A few decisions.
        trusted: Labels that a person checked; they stayed as they were.
        per_class: The support of each class.
    """

    n: int | None = None
    classes: int | list[str] | None = None
    trusted: int | None = None
    per_class: list[ClassLabelCounts] = []
    unlabelled: int | None = None
    annotators: list[AnnotatorReport] = []
    noise_estimate: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    changed: int | None = None
    kept: int | None = None
    uncertain: int | None = None
    class_shares_before: dict[str, float | None] = {}
    class_shares_after: dict[str, float | None] = {}
    examples: list[LabelExample] = []


class QuarantinedClip(_ReportSection):
    """A clip that could not be read, and why."""

    path: str = ""
    reason: str = ""


class DataReport(_ReportSection):
    """How many clips there were in each split, of which classes, and which could not be read."""

    train: int | None = None
    val: int | None = None
    test: int | None = None
    classes: list[str] = []
    quarantined: list[QuarantinedClip] = []
    split_note: str = ""


class ClassMetrics(_ReportSection):
    """One class on the test set: its clips, and precision, recall and F1, each 0..1 or None where undefined."""

    name: str = Field("", alias="class")
    support: int | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


class ConfidenceBin(_ReportSection):
    """Clips of about equal confidence: their number, mean confidence, share that was right (0..1), its interval."""

    n: int = 0
    confidence: float | None = None
    accuracy: float | None = None
    interval: Interval = None


class SweepPoint(_ReportSection):
    """One batch size: clips in a batch, p50 of a batch in milliseconds with its interval, clips a second."""

    batch: int = 0
    p50_ms: float | None = None
    p50_interval: Interval = None
    clips_per_second: float = 0.0


class TestRow(_ReportSection):
    """One network's accuracy on the test set, 0..1."""

    name: str = ""
    accuracy: float | None = None
    interval: Interval = None


class TestReport(_ReportSection):
    """What the untouched test set said, once.

    Attributes:
        accuracy: Of the chosen file, 0..1.
        per_class: One entry a class.
        confusion: Clips by true class (rows) and predicted class (columns).
        looks: How often this test set has been looked at, over all runs on this machine.
        hash: Of the test set.
        rows: Teacher, student alone, student with KD, student with skd-edge.
        ece: Expected calibration error of the chosen file, 0..1.
        reliability: Its clips by confidence.
    """

    accuracy: float | None = None
    interval: Interval = None
    macro_f1: float | None = None
    per_class: list[ClassMetrics] = []
    confusion: list[list[int]] = []
    looks: int | None = None
    hash: str = ""
    rows: list[TestRow] = []
    ece: float | None = None
    reliability: list[ConfidenceBin] = []


class AccuracyResolution(_ReportSection):
    """The smallest difference that `n` validation clips can show: `points`, and the same in words."""

    n: int | None = None
    points: float | None = None
    text: str = ""


class RunReport(_ReportSection):
    """What a run found: the content of `report.json`.

    Attributes:
        schema_version: The key "schema"; see `SCHEMA`.
        name: Of the recipe.
        created: ISO 8601, UTC.
        version: Of skd-edge.
        seconds: Wall time of the run.
        headline: What to ship, in one sentence.
        chosen: None when no candidate meets the constraints.
        latency_samples: Raw milliseconds by candidate name.
        batch_sweep: Throughput and latency by batch size, by candidate name, where it was measured.
        device: The device card.
        recipe: The resolved recipe, as YAML text.
    """

    schema_version: int = Field(alias="schema", ge=1)
    name: str
    created: str = ""
    version: str = ""
    seed: int | None = None
    seconds: float | None = None
    headline: str = ""
    chosen: ChosenCandidate | None = None
    budget: LatencyBudget | None = None
    candidates: list[CandidateReport] = []
    baselines: list[CandidateReport] = []
    jobs: list[JobReport] = []
    labels: LabelReport | None = None
    data: DataReport | None = None
    test: TestReport | None = None
    resolution: AccuracyResolution | None = None
    latency_samples: Annotated[dict[str, Samples], BeforeValidator(_drop_null_entries)] = {}
    batch_sweep: Annotated[
        dict[str, Annotated[list[SweepPoint], BeforeValidator(_drop_null_entries)]], BeforeValidator(_drop_null_entries)
    ] = {}
    device: dict[str, Any] = {}
    licences: dict[str, Any] = {}
    notes: list[str] = []
    recipe: str = ""


def parse_report(raw: object, *, source: str = "the result") -> RunReport:
    """Read a result object, friendly to what is absent and strict about what is wrong.

    Args:
        raw: The object as `json.loads` gives it.
        source: How errors call it: usually the file's path.

    Returns:
        The result; every absent field has its default.

    Raises:
        UserError: No object, a newer schema, or a field of the wrong kind (the first few are named).
    """
    if not isinstance(raw, Mapping):
        raise UserError(f"{source} holds no result object but {type(raw).__name__}; run `skd-edge compress` again")
    schema = raw.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise UserError(
            f"{source} has schema {schema} and this skd-edge reads up to {SCHEMA_VERSION}: it was written by a newer version"
            f" ({_clean_json_value(raw.get('version')) or 'unknown'}); update skd-edge to render it"
        )
    try:
        return RunReport.model_validate(_clean_json_value(raw))
    except RecursionError as error:
        raise UserError(f"{source} is nested too deeply to be a result of skd-edge") from error
    except ValidationError as error:
        raise UserError(
            f"{source} is no result of skd-edge: {_format_first_errors(error)}; run `skd-edge compress` again"
        ) from error


def _format_first_errors(error: ValidationError, limit: int = 3) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    messages = [f"{'.'.join(str(part) for part in e['loc']) or 'result'}: {e['msg']}" for e in found[:limit]]
    return "; ".join(messages) + (f" (and {len(found) - limit} more)" if len(found) > limit else "")


def load_report(run_dir: Path) -> RunReport:
    """Read and check the result of a run folder.

    Args:
        run_dir: A folder that `skd-edge compress` wrote.

    Raises:
        UserError: The file is missing, is no JSON, or is no result that this version reads.
    """
    path = Path(run_dir) / REPORT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} has no {REPORT_FILE}: it is no run of skd-edge, or one that has not finished; "
            "run `skd-edge compress` into it first (finished jobs are found again)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is broken ({error}); run `skd-edge compress` again, it resumes") from error
    return parse_report(raw, source=str(path))


_T = TypeVar("_T")


def first_not_none(*values: _T | None) -> _T | None:
    """The first value that is not None (0 and the empty text count as values)."""
    return next((value for value in values if value is not None), None)
