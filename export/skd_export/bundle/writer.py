"""Writes a bundle: model files, manifest, README and, on request, sample clips.

A bundle is written completely or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

from skd_bench.bundle.manifest import (
    MANIFEST_FILE,
    MEASURED_FILE,
    SCHEMA,
    Artefact,
    ArtefactRuntime,
    InputContract,
    Manifest,
    Precision,
    SampleClip,
    StreamFile,
    list_payload_files,
)
from skd_bench.bundle.signing import SIGNATURE_FILE
from skd_bench.errors import UserError
from skd_bench.evaluation.replay import ANSWERS_FILE, compute_sample_logits
from skd_bench.files import sha256_file, write_atomic, write_json
from skd_bench.inference.reject_option import RejectEntry
from skd_bench.video.types import Preprocessing, Sampling
from skd_export.bundle.readme import format_measured_page, format_readme

README, LABELS, MEASURED_PAGE = "README.md", "labels.txt", "MEASURED.md"


class CalibrationClips(TypedDict):
    """The clips that determined the ranges of an INT8 file: their number, and a SHA-256 that identifies them."""

    clips: int
    sha256: str


class ModelOptions(TypedDict, total=False):
    """How a model file is run and was made, as the manifest stores it.

    Attributes:
        optimisation: The runtime's level of graph optimisation.
        reject: The reject option.
        temperature: Divides the logits to give calibrated probabilities.
        batch: The fixed batch size of a .tflite file.
        converter: Name and version of the converter of a .tflite file.
        calibration: The calibration clips of an INT8 file.
        reduce_range: Whether the weights of an INT8 file have 7 bits.
        per_channel: Whether each output channel of an INT8 weight has its own scale.
        excluded: Names of the nodes of an INT8 file that stay in FP32.
        build: How an engine is compiled from the file (`skd_bench.runtimes.base.CompileOptions` as a JSON object).
        engine: The engine that was measured and scored: its hash, and the GPU and versions it was compiled for.
    """

    optimisation: str
    reject: RejectEntry
    temperature: float
    batch: int
    converter: str
    calibration: CalibrationClips
    reduce_range: bool
    per_channel: bool
    excluded: list[str]
    build: dict[str, object]
    engine: dict[str, object]


class MeasuredValues(TypedDict, total=False):
    """Measurements of a model file, as ``measured.json`` stores them.

    Attributes:
        accuracy: Accuracy on the validation clips, in 0..1.
        interval: 95 % interval of the accuracy.
        test_accuracy: Accuracy on the test clips, in 0..1; None if the file was not the chosen one.
        device: Identifies the device that measured the latency.
        device_name: Its processor.
        p50_ms: Median latency in milliseconds.
        p50_interval: 95 % interval of the median.
        p90_ms: 90th percentile of the latency; None with too few queries.
        p99_ms: 99th percentile of the latency; None with too few queries.
        name: Name of the candidate, where path and precision are not enough.
        joules_per_clip: Energy for one clip above that of the idle machine.
    """

    accuracy: float
    interval: list[float]
    test_accuracy: float | None
    device: str
    device_name: str
    p50_ms: float | None
    p50_interval: list[float] | None
    p90_ms: float | None
    p99_ms: float | None
    name: str
    joules_per_clip: float


class StreamParity(TypedDict):
    """How far a streaming file's logits, frame by frame, are from the clip network's.

    Attributes:
        clips: Number of clips compared.
        frames: Number of frames compared.
        relative: Largest difference of two logits, divided by the network's largest logit.
        agreement: Share of frames with the same top class, in 0..1.
    """

    clips: int
    frames: int
    relative: float
    agreement: float


@dataclass(frozen=True)
class ModelFile:
    """A model file to put into a bundle; other fields are those of `skd_bench.bundle.manifest.Artefact`.

    Attributes:
        source: Where the file is now. In the bundle its name is ``<student>.<precision>`` with the ending of its
            runtime (.onnx, .tflite).
        path: The cascade that trained it: names from the teacher to the student.
        parity: Written as it is (`skd_export.analysis.parity.ParitySummary`); empty if the file was not compared.
    """

    source: Path
    precision: Precision
    student: str
    path: list[str]
    options: ModelOptions = field(default_factory=ModelOptions)
    parity: Mapping[str, object] = field(default_factory=dict)
    measured: MeasuredValues = field(default_factory=MeasuredValues)
    runtime: ArtefactRuntime = "ort"


@dataclass(frozen=True)
class StreamModel:
    """A streaming file to put into a bundle; the fields are those of `skd_bench.bundle.manifest.StreamFile`.

    Attributes:
        source: Where the file is now.
        state: How many numbers one stream's state has.
        parity: How far its logits, frame by frame, are from the clip network's.
    """

    source: Path
    state: int
    parity: StreamParity


def write_bundle(
    folder: Path | str,
    *,
    name: str,
    classes: Sequence[str],
    sampling: Sampling,
    preprocess: Preprocessing,
    models: Sequence[ModelFile],
    licences: Mapping[str, str],
    created_by: str,
    provenance: Mapping[str, Any] | None = None,
    samples: Sequence[tuple[Path, str]] = (),
    readme: str | None = None,
    contract: InputContract = "float_clip",
    stream: StreamModel | None = None,
    own_files: Collection[str] = (),
    clip_seconds: float | None = None,
) -> Path:
    """Write a bundle.

    The bundle is built in a folder beside its final place and then renamed. The manifest is written last, so an
    incomplete copy of a bundle is recognised. Equal arguments give equal bytes. Measurements do not change the payload:
    they are written beside it, to ``measured.json`` and ``MEASURED.md``. Nothing in a bundle can be executed.

    With sample clips, each model file that can run here is run on them. ``answers.json`` stores the logits, so that
    another machine can compare its own (`skd_bench.evaluation.replay`).

    Args:
        folder: Where the bundle goes. An existing bundle is replaced; see `check_replaceable`.
        name: The recipe's name.
        classes: Class names in the order of the logits.
        sampling: Which frames of a video the network takes.
        preprocess: How these frames become its input.
        models: At least one; the first is the default.
        licences: Licences of ``data`` and ``weights``, as the recipe states them.
        created_by: Program and version.
        provenance: Hashes, versions, seeds, as JSON types. Do not put local paths into it.
        samples: Clips that may be published with the bundle: video file and class name.
        readme: Text of the README; None: generated from the manifest.
        contract: The type of input that the files take.
        stream: The streaming version of the first model, if its network has one.
        own_files: See `check_replaceable`.
        clip_seconds: Median length of the training clips in seconds, if it is known.

    Returns:
        The folder.

    Raises:
        UserError: A file is missing; the folder exists and is not a bundle, or cannot be written; the arguments
            contradict each other (two models with the same name, a sample with an unknown class); or a sample is not a
            video.
    """
    folder = Path(folder)
    if not models:
        raise UserError("a bundle needs at least one model file; pass one in models")
    check_replaceable(folder, own_files)
    with write_folder_atomically(folder, lambda old: check_replaceable(old, own_files)) as building:
        manifest = Manifest(
            schema=SCHEMA,
            name=name,
            created_by=created_by,
            classes=list(classes),
            contract=contract,
            sampling=sampling,
            preprocess=preprocess,
            default=_model_file_name(models[0]),
            artefacts=[_add_model(building, model) for model in models],
            licences=dict(licences),
            provenance=dict(provenance or {}),
            samples=[_add_sample(building, i, path, label) for i, (path, label) in enumerate(samples)],
            stream=_add_stream(building, stream, models[0].student) if stream else None,
            clip_seconds=clip_seconds,
        )
        write_atomic(building / LABELS, format_labels(manifest))
        if manifest.samples:
            write_json(building / ANSWERS_FILE, compute_sample_logits(building, manifest))
        write_atomic(building / README, format_readme(manifest) if readme is None else readme)
        if any(a.measured for a in manifest.artefacts):
            write_atomic(building / MEASURED_PAGE, format_measured_page(manifest))
        documents = {n: sha256_file(building / n) for n in (README, LABELS, ANSWERS_FILE) if (building / n).is_file()}
        try:
            replace(manifest, documents=documents).save(building)
        except (ValueError, TypeError) as error:
            raise UserError(f"the bundle cannot be written: {error}") from error
    return folder


def format_labels(manifest: Manifest) -> str:
    """The class names in the order of the logits, one per line."""
    return "".join(f"{' '.join(name.split())}\n" for name in manifest.classes)


def _model_file_name(model: ModelFile) -> str:
    return f"{_sanitize_name(model.student)}.{model.precision}{'.tflite' if model.runtime == 'litert' else '.onnx'}"


def _sanitize_name(text: str) -> str:
    """Replace every character that some file systems do not allow in names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".") or "model"


def _add_model(building: Path, model: ModelFile) -> Artefact:
    target = copy_file(model.source, building / _model_file_name(model))
    return Artefact(
        file=target.name,
        sha256=sha256_file(target),
        bytes=target.stat().st_size,
        precision=model.precision,
        runtime=model.runtime,
        student=model.student,
        path=list(model.path),
        options=dict(model.options),
        parity=dict(model.parity),
        measured=dict(model.measured),
    )


def _add_stream(building: Path, stream: StreamModel, student: str) -> StreamFile:
    target = copy_file(stream.source, building / f"{_sanitize_name(student)}.stream.onnx")
    return StreamFile(target.name, sha256_file(target), target.stat().st_size, stream.state, dict(stream.parity))


def _add_sample(building: Path, index: int, source: Path, label: str) -> SampleClip:
    # The original name may reveal where or of whom the clip was taken; a number and the class do not.
    file = f"samples/{index:03d}-{_sanitize_name(label)}{Path(source).suffix.lower()}"
    target = copy_file(Path(source), building / file)
    return SampleClip(file=file, sha256=sha256_file(target), bytes=target.stat().st_size, label=label)


def copy_file(source: Path, target: Path) -> Path:
    """Copy the content only: no executable bit, no time stamps, no symbolic link.

    Raises:
        UserError: The target exists, or the file cannot be copied.
    """
    if target.exists():
        raise UserError(f"two files of the bundle would have the name {target.name}; give the students different names")
    target.parent.mkdir(exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"cannot copy {source} into the bundle: {error.strerror or error}") from error
    target.chmod(0o644)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return target


def check_replaceable(folder: Path, own_files: Collection[str] = ()) -> None:
    """Check that a folder may be replaced by a bundle: it is missing, empty, or a bundle that holds nothing else.

    Args:
        folder: The folder.
        own_files: Names of files that the caller wrote there; with them, a bundle whose manifest is damaged can be
            replaced too.

    Raises:
        UserError: The folder is none of these. Nothing in it is changed then.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    remedy = "choose another folder, or move this one away"
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder} already exists and is not a bundle; {remedy}")
    found = {
        Path(parent, name).relative_to(folder).as_posix()
        for parent, folders, files in os.walk(folder)
        for name in (*files, *(f for f in folders if Path(parent, f).is_symlink()))
    }
    expected = {*own_files, MANIFEST_FILE, MEASURED_FILE, MEASURED_PAGE, SIGNATURE_FILE}
    if found:
        try:
            expected |= list_payload_files(Manifest.load(folder)).keys()
        except UserError as error:
            if not own_files:
                raise UserError(f"{folder} already exists and is not a bundle ({error}); {remedy}") from None
    if foreign := sorted(found - expected):
        raise UserError(f"{folder} would be replaced, but {foreign[0]!r} in it is no file of the bundle; {remedy}")


@contextlib.contextmanager
def write_folder_atomically(folder: Path, check_old: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` at the end, and is removed if an error occurs.

    Args:
        folder: The folder to write.
        check_old: Called with what is at ``folder`` at the end, after it was moved aside, so that nobody adds a file
            between the check and the removal; raises a ``UserError`` where it must stay.

    Raises:
        UserError: A folder cannot be written or renamed, or ``check_old`` refuses; ``folder`` is then unchanged.
    """
    mark = uuid4().hex[:12]
    building = folder.with_name(f".{folder.name}.{mark}.part")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    try:
        building.mkdir(parents=True)
        yield building
        if os.path.lexists(folder):
            _replace_folder(folder, building, old, check_old)
        else:
            building.rename(folder)
    except OSError as error:
        where = f" (its earlier content is in {old})" if os.path.lexists(old) else ""
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}{where}; choose a folder that you have permission to "
            "write"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _replace_folder(folder: Path, building: Path, old: Path, check_old: Callable[[Path], None]) -> None:
    folder.rename(old)
    try:
        check_old(old)
        building.rename(folder)
    except UserError as error:
        old.rename(folder)
        raise UserError(str(error).replace(old.name, folder.name)) from error
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
