"""The result of a run, `report.json`: its pydantic models, and the functions that read and check it.

Every field that a run may lack has a default here: an untrained candidate has no accuracy, and a run in which no
candidate meets the budget has no chosen candidate. A writer may leave such a field out or write null; both are read as
the default. Keys that this version does not know are ignored.

The docstrings of the models are the descriptions in the published JSON schema (docs/schemas/run.schema.json).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from skd_bench.errors import UserError
from skd_bench.files import read_regular_file
from skd_bench.untrusted.json_file import parse_json
from skd_edge.run_files.journal import JOURNAL_FILE, read_journal

SCHEMA_VERSION = 1
"""The layout of `report.json` that this version writes, and the newest one that it reads."""

_MAX_BYTES = 1 << 28
REPORT_FILE = "report.json"


def _clean_json_value(value: Any) -> Any:
    """A JSON value without what JSON does not allow: NaN and infinities become null, lone surrogates become "?"."""
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
    """An interval of which one end is unknown becomes None."""
    return None if isinstance(value, list | tuple) and None in value else value


def _split_network_path(value: Any) -> Any:
    """A path as a list of network names; a string such as "teacher > student" is split at ">"."""
    return [part.strip() for part in value.split(">")] if isinstance(value, str) else value


def _drop_null_entries(value: Any) -> Any:
    """A list or a mapping without its null entries."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    return [item for item in value if item is not None] if isinstance(value, list) else value


Interval = Annotated[tuple[float, float] | None, BeforeValidator(_drop_partial_interval)]
NetworkPath = Annotated[list[str], BeforeValidator(_split_network_path)]
Samples = Annotated[list[float], BeforeValidator(_drop_null_entries)]
Counts = Annotated[dict[str, int], BeforeValidator(_drop_null_entries)]


class _ReportSection(BaseModel):
    """Base class of the models: null means the same as absent, and unknown keys are ignored.

    NaN and infinities, which JSON does not allow, are null; lone surrogates are "?".
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null_fields(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {k: v for k, v in _clean_json_value(value).items() if v is not None}


class Parity(_ReportSection):
    """How an exported file's logits differ from those of the PyTorch network, on the same clips.

    Attributes:
        agreement: Share of clips with the same top class, 0..1.
        max_abs: Largest absolute difference between two logits.
        cosine: Cosine similarity of the two arrays of logits, 1 when they point the same way.
        accuracy_drop: Accuracy lost against the PyTorch network, in points; negative when the file is more accurate.
        n: Number of clips compared.
        flips: Clips whose top class changed: their number, or a list of at most 20 of them.
        mean_abs: Mean absolute difference between two logits.
        relative: Largest absolute difference, as a share of the largest logit.
        spread: How far the network's own logits vary from clip to clip, as a share of the largest.
    """

    agreement: float | None = None
    max_abs: float | None = None
    cosine: float | None = None
    accuracy_drop: float | None = None
    n: int | None = None
    flips: int | list[Any] | None = None
    mean_abs: float | None = None
    relative: float | None = None
    spread: float | None = None


class OperatorKindProfile(_ReportSection):
    """The nodes of one operator that ran in the same way.

    Attributes:
        op: Operator, such as "Conv".
        ran: How they ran: "int8", "fp16", "fp32", "converted" or "reformatted".
        nodes: Number of nodes.
        share: Their share of the time of one profiled clip, 0..1.
    """

    op: str = ""
    ran: str = ""
    nodes: int = 0
    share: float | None = None


class CandidateReport(_ReportSection):
    """A candidate: one exported file that could be deployed. Baselines use the same fields.

    Attributes:
        name: Unique within the run, such as "assistant>wide fp32".
        path: Networks from the teacher to the student.
        student: Name of the network that runs on the device.
        precision: "fp32", "fp16", "bf16", "int8", "int8-trt" or "fp8".
        runtime: Name of the runtime that ran it, such as "ort".
        accuracy: Validation accuracy of this file, 0..1; None when the candidate was not trained.
        interval: 95 % interval of the accuracy, 0..1.
        balanced_accuracy: Mean recall over the classes, 0..1.
        balanced_interval: 95 % interval of the balanced accuracy, 0..1.
        macro_f1: Mean F1 over classes, 0..1.
        macro_f1_interval: 95 % interval of the macro-F1, 0..1.
        p50_ms: Median latency at batch 1, milliseconds.
        p90_ms: 90th percentile of the latency; None when there were too few queries to estimate it.
        p99_ms: 99th percentile of the latency; None when there were too few queries to estimate it.
        p50_interval: 95 % interval of the median, milliseconds.
        bytes: Size of the file, bytes.
        accuracy_per_ms: Accuracy (0..1) per millisecond. It is printed, and not used to choose.
        trained: Whether its weights were trained; candidates over the budget are not trained.
        eligible: Whether it meets every constraint of the recipe.
        on_front: Whether it is on the Pareto front: no candidate is both faster and more accurate.
        chosen: Whether this is the candidate to ship.
        reason: Why it was or was not chosen, as a sentence.
        parity: How its logits differ from those of the PyTorch network.
        joules_per_clip: Energy for one clip above that of the idle machine, joules; only where the recipe limits it.
        joules_interval: 95 % interval of `joules_per_clip`.
        operators: Number of nodes by operator, in the graph as the runtime optimised it.
        fates: The operator profile: how each operator ran in the runtime, and its share of the time.
        left_out: Layers of an INT8 file that remain in FP32, because quantising them cost too much accuracy.
        job: Hash of the job that trained its weights.
        queries: Number of measured queries.
        steady: Whether the latency settled during warm-up; where not, the machine was busy.
        load_ms: Time to load the file, milliseconds.
        first_ms: Latency of the first query, milliseconds.
        ece: Expected calibration error on the validation clips, 0..1.
    """

    name: str
    path: NetworkPath = []
    student: str = ""
    precision: str = ""
    runtime: str = ""
    accuracy: float | None = None
    interval: Interval = None
    balanced_accuracy: float | None = None
    balanced_interval: Interval = None
    macro_f1: float | None = None
    macro_f1_interval: Interval = None
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
    queries: int | None = None
    steady: bool | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    ece: float | None = None


class ChosenCandidate(CandidateReport):
    """The candidate to ship; `why` is the reason, as a sentence."""

    why: str = ""


class LatencyBudget(_ReportSection):
    """The largest median latency a candidate may have.

    Attributes:
        text: The budget as the recipe gives it, such as "0.5 x teacher".
        ms: The budget in milliseconds on this device.
    """

    text: str = ""
    ms: float | None = None


class EpochMetrics(_ReportSection):
    """One epoch of a training curve.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean of the total loss.
        accuracy: Validation accuracy, 0..1; None in epochs without validation.
        terms: Mean of each term of the loss.
    """

    epoch: int = 0
    loss: float | None = None
    accuracy: float | None = None
    terms: dict[str, float | None] = {}


class JobReport(_ReportSection):
    """One job: the training of one network, the learner, from labels and from a teacher if it has one.

    Attributes:
        job: Hash that identifies the job.
        learner: Name of the network that was trained.
        teacher: Hash of the job whose network was the teacher; None where the learner had labels only.
        path: Networks from the teacher to this learner.
        role: "teacher", "assistant", "student", "control" (trained without the method and never chosen), or "rung"
            (trained for fewer epochs, to decide whether to train the cascade in full).
        accuracy: Validation accuracy of the PyTorch network, 0..1.
        interval: 95 % interval of the accuracy, 0..1.
        kind: What the job is for, as the journal names it: "scout", "teacher", "assistant", "student", "alone", "kd" or
            "rung".
        gain: Accuracy gained over the network that `gain_over` names, in points.
        gain_interval: 95 % interval of the gain, in points.
        gain_over: What `gain` is measured against, such as "the same network alone".
        seconds: Wall time of the training; of the original training, where the weights came from the cache.
        epochs: Number of epochs.
        state: "trained", "cached" or "pruned".
        reason: Why it was pruned, or where its weights came from.
        curve: One entry for each epoch.
    """

    job: str = ""
    learner: str
    teacher: str | None = None
    path: NetworkPath = []
    role: str = "student"
    accuracy: float | None = None
    interval: Interval = None
    kind: str = ""
    gain: float | None = None
    gain_interval: Interval = None
    gain_over: str = ""
    seconds: float | None = None
    epochs: int | None = None
    state: str = "trained"
    reason: str = ""
    curve: list[EpochMetrics] = []


class LabelExample(_ReportSection):
    """One decision of the label optimiser.

    Attributes:
        clip: The clip.
        weak: Its weak label.
        pseudo: The label after optimisation.
        confidence: Probability of the label after optimisation, 0..1.
        why: The reason, as a sentence.
    """

    clip: str = ""
    weak: str = ""
    pseudo: str = ""
    confidence: float | None = None
    why: str = ""


class AnnotatorReport(_ReportSection):
    """One annotator: a person, a rule or a model that voted on labels.

    Attributes:
        name: Name of the annotator.
        accuracy: Estimated share of correct votes, 0..1; None without votes.
        votes: Number of votes.
    """

    name: str = ""
    accuracy: float | None = None
    votes: int | None = None


class ClassLabelCounts(_ReportSection):
    """The clips of one class.

    Attributes:
        name: Name of the class (the key "class").
        labelled: Training clips with this weak label.
        wrong: Expected number of those labels that are wrong.
        trusted: Training clips of this class whose label a person checked.
        after: Training clips of this class after optimisation.
        val: Validation clips.
        test: Test clips.
    """

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
        trusted: Number of labels that a person checked; the optimiser does not change them.
        per_class: Numbers of clips of each class.
        unlabelled: Training clips without a weak label; `accuracy_before` counts them as wrong.
        annotators: The annotators with their estimated accuracy, where weak labels come from votes.
        noise_estimate: Estimated share of wrong weak labels, 0..1.
        accuracy_before: Share of correct weak labels, 0..1; None when the true labels are unknown.
        accuracy_after: Share of correct labels after optimisation, 0..1; None when the true labels are unknown.
        changed: Clips whose most likely class changed.
        unchanged: Clips whose most likely class stayed the same.
        uncertain: Clips for which neither is clear.
        class_shares_before: Share of the clips by class before optimisation, 0..1.
        class_shares_after: Share of the clips by class after optimisation, 0..1.
        examples: A few decisions of the optimiser.
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
    unchanged: int | None = None
    uncertain: int | None = None
    class_shares_before: dict[str, float | None] = {}
    class_shares_after: dict[str, float | None] = {}
    examples: list[LabelExample] = []


class QuarantinedClip(_ReportSection):
    """A clip that could not be read: its path, and the reason."""

    path: str = ""
    reason: str = ""


class SplitCopyReport(_ReportSection):
    """A validation or test clip that is a copy of a clip in another split.

    Attributes:
        clip: The clip.
        split: Its split, "val" or "test".
        original: The clip that it copies.
        original_split: The split of that clip, "train" or "val".
        kind: "equal" for the same pixels, "near" for nearly the same, such as the same video encoded again.
    """

    clip: str = ""
    split: str = ""
    original: str = ""
    original_split: str = ""
    kind: str = ""


class DataReport(_ReportSection):
    """The clips of the run.

    Attributes:
        train: Number of training clips.
        val: Number of validation clips.
        test: Number of test clips.
        classes: Names of the classes.
        quarantined: Clips that could not be read; they are in no split.
        unequal_classes: Whether the classes of the validation clips have clearly unequal sizes: the largest has over
            one and a half times the clips of the smallest. Balanced accuracy is then shown beside accuracy.
        split_note: How the clips were split.
        copies: Validation and test clips that are copies of clips in other splits.
    """

    train: int | None = None
    val: int | None = None
    test: int | None = None
    classes: list[str] = []
    quarantined: list[QuarantinedClip] = []
    unequal_classes: bool = False
    split_note: str = ""
    copies: list[SplitCopyReport] = []


class ClassMetrics(_ReportSection):
    """One class on the test set.

    Attributes:
        name: Name of the class (the key "class").
        support: Number of test clips of the class.
        precision: 0..1; None where it is undefined.
        recall: 0..1; None where it is undefined.
        f1: 0..1; None where it is undefined.
    """

    name: str = Field("", alias="class")
    support: int | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


class ConfidenceBin(_ReportSection):
    """Test clips of similar confidence, one point of the reliability diagram.

    Attributes:
        n: Number of clips.
        confidence: Their mean confidence, 0..1.
        accuracy: Share of them that were classified correctly, 0..1.
        interval: 95 % interval of that share.
    """

    n: int = 0
    confidence: float | None = None
    accuracy: float | None = None
    interval: Interval = None


class SweepPoint(_ReportSection):
    """The measurement at one batch size.

    Attributes:
        batch: Clips in a batch.
        p50_ms: Median latency of a batch, milliseconds.
        p50_interval: 95 % interval of the median, milliseconds.
        clips_per_second: Throughput.
    """

    batch: int = 0
    p50_ms: float | None = None
    p50_interval: Interval = None
    clips_per_second: float = 0.0


class TestRow(_ReportSection):
    """One network on the test set.

    Attributes:
        name: What it is.
        accuracy: 0..1.
        interval: 95 % interval of the accuracy, 0..1.
        balanced_accuracy: Mean recall over the classes, 0..1.
        balanced_interval: 95 % interval of the balanced accuracy, 0..1.
        macro_f1: Mean F1 over classes, 0..1.
        behind: By how many points of the report's `metric` the chosen file is ahead, on the same clips.
        behind_interval: 95 % interval of that difference, in points.
    """

    name: str = ""
    accuracy: float | None = None
    interval: Interval = None
    balanced_accuracy: float | None = None
    balanced_interval: Interval = None
    macro_f1: float | None = None
    behind: float | None = None
    behind_interval: Interval = None


class TestReport(_ReportSection):
    """The evaluation on the test set, which takes place once, after the choice.

    Attributes:
        accuracy: Accuracy of the chosen file, 0..1.
        interval: 95 % interval of the accuracy, 0..1.
        balanced_accuracy: Mean recall over the classes, 0..1.
        balanced_interval: 95 % interval of the balanced accuracy, 0..1.
        macro_f1: Mean F1 over classes, 0..1.
        per_class: One entry for each class.
        confusion: Number of clips by true class (rows) and predicted class (columns).
        looks: How often this test set has been evaluated, over all runs on this machine.
        hash: Hash of the test set.
        rows: The networks compared: teacher, student alone, student with KD, student with skd-edge.
        ece: Expected calibration error of the chosen file, 0..1.
        reliability: Reliability diagram of the chosen file: its test clips grouped by confidence.
    """

    accuracy: float | None = None
    interval: Interval = None
    balanced_accuracy: float | None = None
    balanced_interval: Interval = None
    macro_f1: float | None = None
    per_class: list[ClassMetrics] = []
    confusion: list[list[int]] = []
    looks: int | None = None
    hash: str = ""
    rows: list[TestRow] = []
    ece: float | None = None
    reliability: list[ConfidenceBin] = []


class AccuracyResolution(_ReportSection):
    """The smallest difference in the metric of the choice that the validation clips can show.

    Attributes:
        n: Number of validation clips.
        groups: Number of groups that they belong to, which intervals resample.
        points: That difference, in points of the metric.
        text: The same as a sentence.
    """

    n: int | None = None
    groups: int | None = None
    points: float | None = None
    text: str = ""


class RunReport(_ReportSection):
    """The result of a run: the content of `report.json`.

    Attributes:
        schema_version: Version of this layout (the key "schema"); see `SCHEMA_VERSION`.
        name: Name of the recipe.
        created: Time of writing, ISO 8601, UTC.
        version: Version of skd-edge that wrote it.
        seed: Seed of the run.
        seconds: Wall time of the run.
        headline: What to ship, in one sentence.
        chosen: The candidate to ship; None when no candidate meets the constraints.
        metric: What candidates were compared by: "accuracy", "balanced" or "macro-f1".
        budget: The latency budget, where the recipe sets one.
        candidates: All candidates, trained or not.
        baselines: Files that were measured for comparison only, such as the teacher's.
        jobs: The jobs of the run.
        labels: The training labels before and after optimisation.
        data: The clips of the run.
        test: The evaluation on the test set; None when it was not evaluated.
        resolution: The smallest difference in the metric that the validation clips can show.
        latency_samples: Measured latencies in milliseconds, by candidate name.
        batch_sweep: Latency and throughput at each batch size, by candidate name, where they were measured.
        device: The device info.
        licences: Licences of the data and the weights, as the recipe gives them.
        notes: Remarks on the run.
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
    metric: Literal["accuracy", "balanced", "macro-f1"] = "accuracy"
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
    """Check the content of a `report.json`. Absent fields get their default; wrong fields are an error.

    Args:
        raw: The content as `json.loads` returns it.
        source: Its name in error messages, usually the path of the file.

    Returns:
        The report.

    Raises:
        UserError: `raw` is not an object, was written by a newer version, or has fields of a wrong type.
    """
    if not isinstance(raw, Mapping):
        raise UserError(
            f"{source} holds a {type(raw).__name__}, not the object that skd-edge writes; run `skd-edge compress` again"
        )
    schema = raw.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise UserError(
            f"{source} has schema {schema}, and this version of skd-edge reads schemas up to {SCHEMA_VERSION}: it was "
            f"written by a newer version ({_clean_json_value(raw.get('version')) or 'unknown'}); update skd-edge"
        )
    try:
        return RunReport.model_validate(raw)
    except RecursionError as error:
        raise UserError(f"{source} is nested too deeply; skd-edge does not write such a file") from error
    except ValidationError as error:
        raise UserError(
            f"{source} is not a report of skd-edge: {_format_first_errors(error)}; run `skd-edge compress` again"
        ) from error


def _format_first_errors(error: ValidationError, limit: int = 3) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    messages = [f"{'.'.join(str(part) for part in e['loc']) or 'report'}: {e['msg']}" for e in found[:limit]]
    return "; ".join(messages) + (f" (and {len(found) - limit} more)" if len(found) > limit else "")


def load_report(run_dir: Path) -> RunReport:
    """Read and check the `report.json` of a run folder.

    Args:
        run_dir: A folder that `skd-edge compress` wrote.

    Returns:
        The report.

    Raises:
        UserError: The file is missing, was changed since the run wrote it, is not JSON, or is not a report that this
            version can read.
    """
    path = Path(run_dir) / REPORT_FILE
    try:
        content = read_regular_file(path, _MAX_BYTES)
        _check_recorded_hash(path, content)
        raw = parse_json(content)
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} has no {REPORT_FILE}: it is not a run folder of skd-edge, or the run has not finished; "
            "run `skd-edge compress` with this folder as --out (finished jobs are not trained again)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); run `skd-edge compress` again, it resumes") from error
    return parse_report(raw, source=str(path))


def _check_recorded_hash(path: Path, content: bytes) -> None:
    """Compare a report with the hash in the journal of its run; without a journal, as in a copy, nothing is known.

    Raises:
        UserError: The report is not the one that the run wrote.
    """
    if not (path.parent / JOURNAL_FILE).is_file():
        return
    recorded = [event["sha256"] for event in read_journal(path.parent) if event["event"] == "report"]
    if recorded and recorded[-1] != hashlib.sha256(content).hexdigest():
        raise UserError(
            f"{path} is not what the run wrote: its hash is not the one in the journal; run `skd-edge compress` again, "
            "it resumes and writes the report anew"
        )


_T = TypeVar("_T")


def first_not_none(*values: _T | None) -> _T | None:
    """The first value that is not None, or None. 0 and the empty string count as values."""
    return next((value for value in values if value is not None), None)
