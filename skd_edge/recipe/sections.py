"""The smaller sections of a recipe: clip, augment, space, schedule, export, bench, choice, licences."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from skd_bench.metrics.metric_names import Metric
from skd_edge.recipe.base import ClassName, Name, Share, exclude_when_default
from skd_edge.recipe.base import RecipeSection as RecipeSection
from skd_edge.recipe.networks import Layout as Layout
from skd_edge.recipe.networks import NetworkSpec as NetworkSpec
from skd_edge.recipe.networks import ScalableFamily
from skd_edge.recipe.networks import SingleTeacher as SingleTeacher
from skd_edge.recipe.networks import Teacher as Teacher
from skd_edge.recipe.networks import TeacherClip as TeacherClip
from skd_edge.recipe.training import LossSettings as LossSettings
from skd_edge.recipe.training import TrainingOverrides
from skd_edge.recipe.training import TrainingSettings as TrainingSettings

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-trt", "fp8"]
Runtime = Literal["ort", "openvino", "litert", "ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx"]
Pixels = Annotated[int, Field(ge=16, le=4096)]


def _wrap_in_tuple(value: object) -> object:
    """A single name is short for a list of one name."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_distinct_runtimes(value: tuple[Runtime, ...]) -> tuple[Runtime, ...]:
    if twice := sorted({name for name in value if value.count(name) > 1}):
        raise ValueError(f"{twice[0]} is listed twice; name each runtime once")
    return value


_RUNTIME_SCHEMA: dict[str, object] = {"enum": list(get_args(Runtime))}
Runtimes = Annotated[
    tuple[Runtime, ...],
    Field(min_length=1),
    AfterValidator(_check_distinct_runtimes),
    BeforeValidator(_wrap_in_tuple),
    WithJsonSchema(
        {"anyOf": [_RUNTIME_SCHEMA, {"type": "array", "items": _RUNTIME_SCHEMA, "minItems": 1, "uniqueItems": True}]}
    ),
]


class ClipSettings(RecipeSection):
    """How a video is converted to the network's input, in training and on the device alike."""

    frames: int = Field(8, ge=1, le=128, description="number of frames in the network's input")
    size: int = Field(32, ge=16, le=512, multiple_of=2, description="height and width of the network's input, pixels")
    sampling: Literal["uniform", "dense", "segment"] = "uniform"
    stride: int = Field(
        2, ge=1, le=64, description="distance between two samples, in frames (dense and segment sampling)"
    )
    segments: int = Field(
        1,
        ge=1,
        le=128,
        exclude_if=exclude_when_default(1),
        description="number of equal parts of the video; each gives frames / segments frames (segment sampling)",
    )
    fit: Literal["crop", "stretch", "pad"] = "crop"
    decoder: Literal["pyav", "torchcodec"] = Field(
        "pyav",
        exclude_if=exclude_when_default("pyav"),
        description="decoder of the clips for training and validation; the device always decodes with PyAV",
    )
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        0.225,
        0.225,
        0.225,
    )

    @model_validator(mode="after")
    def _check_segments(self) -> ClipSettings:
        if self.segments > 1 and self.sampling != "segment":
            raise ValueError(
                f"clip.segments is for clip.sampling: segment, not {self.sampling}; remove it, or set that sampling"
            )
        if self.frames % self.segments:
            raise ValueError(
                f"clip.frames {self.frames} cannot be divided into {self.segments} equal parts; change clip.frames or "
                "clip.segments"
            )
        return self


class AugmentationSettings(RecipeSection):
    """Random changes of a training clip, equal for all of its frames.

    Flips and reversal are off by default, because they can change the class of a motion.
    """

    shift: int = Field(3, ge=0, le=64, description="largest random translation in each direction, pixels")
    brightness: Share = 0.1
    contrast: Share = 0.2
    flip: bool = Field(
        False, description="mirror left-right at random; only for classes that mirroring does not change"
    )
    scale: float = Field(
        0.0,
        ge=0,
        le=0.9,
        exclude_if=exclude_when_default(0.0),
        description="cut a random square out of the frames and enlarge it; 0.3 gives sides from 70 to 100 % of the "
        "frame",
    )
    time: float = Field(
        0.0,
        ge=0,
        le=0.9,
        exclude_if=exclude_when_default(0.0),
        description="cut a random part out of the clip's frames and stretch it to their number; 0.3 gives parts from "
        "70 to 100 % of the clip",
    )
    saturation: Share = Field(
        0.0,
        exclude_if=exclude_when_default(0.0),
        description="largest random change of colourfulness; 1: from grey to twice as colourful",
    )
    reverse: bool = Field(
        False,
        exclude_if=exclude_when_default(False),
        description="play backwards at random; only for classes that reversal does not change",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=8,
        description="mix clips in pairs, with weights from Beta(mixup, mixup), equal for teacher and learner; 0: off",
    )
    views: int = Field(8, ge=1, le=64, description="number of different views of a clip; epoch e uses view e mod views")


class SearchSpace(RecipeSection):
    """The networks that ``students: auto`` and ``assistants: auto`` choose from: a grid, benchmarked without training.

    Networks over the budget are dropped. Of the others, a few with different latencies are kept.
    """

    keep: int = Field(6, ge=1, le=24, description="number of students that are kept and trained")
    assistants: int = Field(2, ge=0, le=4, description="number of assistants between the teacher and the students")
    families: tuple[ScalableFamily, ...] = Field(
        ("mobile", "resnet"),
        min_length=1,
        description="those whose size is set by a width; mobilenet and x3d have four substages and fixed depths",
    )
    widths: tuple[Annotated[int, Field(ge=4, le=512)], ...] | None = Field(
        None,
        min_length=1,
        description="default: the teacher's width and five smaller ones, each 0.71 of the next larger one",
    )
    depths: tuple[tuple[Annotated[int, Field(ge=1, le=32)], ...], ...] | None = Field(
        None, min_length=1, description="default: one block in each substage"
    )
    temporal: tuple[Literal["none", "shift", "conv"], ...] = Field(
        ("conv", "shift"), min_length=1, description="the first at every width; each other one with all else unchanged"
    )
    frames: tuple[Annotated[int, Field(ge=1, le=128)], ...] | None = Field(
        None,
        min_length=1,
        description="the first at every width; each other one with all else unchanged; default: all frames of the "
        "clip, and half of them",
    )
    sizes: tuple[Annotated[int, Field(ge=8, le=512)], ...] | None = Field(
        None,
        min_length=1,
        description="height and width of the input; the first at every width; each other one with all else unchanged; "
        "default: that of the clip",
    )
    ways: dict[Name, TrainingOverrides] = Field(
        {},
        description="further ways of distilling every kept student, by a name for each; values as in a student's "
        "`training`",
    )


class ScheduleSettings(RecipeSection):
    """Which cascades are tried. A path names the assistants between teacher and student; [] is without assistants."""

    paths: tuple[tuple[Name, ...], ...] | None = Field(
        None, description="default: [] and all assistants; with halving: every subset of the assistants, in order"
    )
    controls: tuple[Literal["alone", "kd"], ...] = Field(
        ("alone",), description="the same students trained without the method, for the report; they are never chosen"
    )
    search: Literal["exhaustive", "halving"] | None = Field(
        None,
        description="train all cascades, or use successive halving of the students; default: halving if any network is "
        "'auto'",
    )
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.25,),
        description="halving: shares of a student's epochs, in rising order; at each of them, only the better students "
        "continue",
    )
    eta: float = Field(2.0, gt=1, le=16, description="halving: one in eta students continues")
    keep: int = Field(1, ge=1, le=64, description="halving: at least this many students are trained to the end")
    share: Share = Field(
        0.35,
        description="halving: no further cascade is started after this share of the time for training all of them; 0: "
        "no limit",
    )
    max_seconds: float | None = Field(
        None, gt=0, description="halving: no further cascade is started after this many seconds of training"
    )
    max_jobs: int | None = Field(None, ge=1, description="halving: no further cascade is started after this many jobs")


class ExportSettings(RecipeSection):
    """Which files are exported from each student."""

    precisions: tuple[Precision, ...] = Field(
        ("fp32", "int8"),
        min_length=1,
        description="fp32; int8 for ONNX Runtime and OpenVINO on CPUs; bf16 for OpenVINO and TensorRT; fp16, int8-trt "
        "(symmetric) and fp8 (SM 89 or newer) for TensorRT",
    )
    contract: Literal["clip", "frames"] = Field(
        "clip",
        description="input of a file: clip is normalised float clips (B,3,T,H,W); frames is uint8 frames (B,T,H,W,3), "
        "which the file normalises itself",
    )
    frame_size: tuple[Pixels, Pixels] | None = Field(
        None,
        description="height and width of the input frames, which the file resizes to `clip.size` itself (contract: "
        "frames)",
    )
    calibration_clips: int = Field(
        128, ge=0, le=10_000, description="number of training clips for the calibration of INT8"
    )
    int8_agreement: Share = Field(
        0.98, description="an INT8 file is accepted if its top-1 agreement with FP32 is at least this, or by int8_drop"
    )
    int8_drop: float = Field(
        1.0, ge=0, le=100, description="an INT8 file is also accepted if its accuracy drop in points is at most this"
    )
    qat_epochs: int = Field(
        0,
        ge=0,
        le=100,
        description="epochs of quantisation-aware training of a student with its teacher, if its INT8 file is not "
        "accepted otherwise; 0: never",
    )
    litert: bool = Field(
        False,
        description="also add the chosen student to the bundle as a .tflite file for LiteRT (FP32, contract: clip; its "
        "converter must be installed by hand, see docs/precision.md)",
    )
    sample_clips: int = Field(0, ge=0, le=64, description="number of validation clips that are copied into the bundle")


class BuildSettings(RecipeSection):
    """How engines are compiled, for the runtimes `tensorrt` and `tensorrt-rtx`."""

    workspace: int = Field(1024, ge=1, le=1_048_576, description="memory on the GPU that a layer may use, MiB")
    level: int | None = Field(
        None, ge=0, le=5, description="how long the builder searches, 0 (shortest) to 5; default: the builder's own"
    )
    tf32: bool = Field(False, description="FP32 products may use 10 bits of mantissa")
    graphs: bool = Field(True, description="each query is replayed as one CUDA graph")
    builds: int = Field(
        1,
        ge=1,
        le=20,
        exclude_if=exclude_when_default(1),
        description="each engine is built so many times, and the one of median latency is used; the report shows how "
        "much the builds differ",
    )


class BenchmarkSettings(RecipeSection):
    """How the exported files are benchmarked."""

    runtime: Runtimes = Field(
        ("ort",),
        description="runtime for benchmarks, evaluation and the bundle; with a list, [tensorrt, ort], each file is a "
        "candidate with every runtime, and the teacher uses the first",
    )
    threads: int = Field(1, ge=1, le=256)
    processes: int = Field(5, ge=1, le=50)
    queries: int = Field(240, ge=20, le=100_000, description="single-stream queries in each process")
    host: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+@:%-]*$",
        max_length=255,
        description="device for the benchmark, as ssh accepts it (user@device); default: this machine",
    )
    device: str | None = Field(
        None,
        pattern=r"^(\d{1,3}|(GPU|MIG)-[A-Za-z0-9/-]{4,80})$",
        exclude_if=exclude_when_default(None),
        description="GPU to use: its index as nvidia-smi counts, its UUID (GPU-...) or that of a MIG instance "
        "(MIG-...); default: the first",
    )
    seconds: float = Field(
        1.0,
        ge=0,
        le=600,
        exclude_if=exclude_when_default(1.0),
        description="on a GPU, each process queries a file at least this long",
    )
    warm_seconds: float = Field(
        0.5,
        ge=0,
        le=600,
        exclude_if=exclude_when_default(0.5),
        description="on a GPU, a file is warmed up at least this long before its queries",
    )
    build: BuildSettings = Field(BuildSettings(), exclude_if=exclude_when_default(BuildSettings()))

    @field_validator("device", mode="before")
    @classmethod
    def _read_index(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class RejectSettings(RecipeSection):
    """Unsure predictions are replaced by no class or the background class; validation clips set the threshold."""

    accuracy: Share = Field(
        0.95, description="share of correct answers among the answers given, on the validation clips"
    )
    background: ClassName | None = Field(None, description="class for unsure predictions; default: no class")


_BUDGET_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|x\s*teacher)\s*$")


class SelectionRule(RecipeSection):
    """How a candidate is chosen by its metric and latency: constraints first, then the budget or the exchange rate."""

    budget: str | None = Field(None, description="largest latency (p50) of a candidate: '8 ms' or '0.5 x teacher'")
    metric: Metric = Field(
        "accuracy",
        exclude_if=exclude_when_default("accuracy"),
        description="what candidates are compared by: accuracy; balanced, the mean recall of the classes; or macro-f1, "
        "their mean F1. Where classes have unequal sizes, accuracy is mostly that of the largest",
    )
    margin: float = Field(1.0, ge=0, le=100, description="non-inferiority margin, in points of the metric")
    exchange: float = Field(
        0.5, ge=0, description="points of the metric that 10 % more latency must gain (without a budget)"
    )
    min_accuracy: Share | None = None
    min_macro_f1: Share | None = None
    max_megabytes: float | None = Field(None, gt=0)
    max_joules: float | None = Field(
        None, gt=0, description="largest energy per clip above idle, in joules; needs a device with an energy meter"
    )
    reject: RejectSettings | None = Field(
        None, description="answer only if the network is sure enough; default: always"
    )

    @field_validator("budget")
    @classmethod
    def _check_budget_text(cls, value: str | None) -> str | None:
        if value is not None and (not (m := _BUDGET_PATTERN.match(value)) or float(m.group(1)) <= 0):
            raise ValueError(f"a budget has the form '8 ms' or '0.5 x teacher', not {value!r}")
        return value

    @property
    def has_relative_budget(self) -> bool:
        """Whether the budget is a multiple of the teacher's latency."""
        return self.budget is not None and "teacher" in self.budget

    def budget_ms(self, teacher_ms: float) -> float | None:
        """The budget in milliseconds; None without a budget.

        Args:
            teacher_ms: the teacher's p50 latency on the same device, milliseconds.
        """
        if self.budget is None or not (m := _BUDGET_PATTERN.match(self.budget)):
            return None
        return float(m.group(1)) * (1.0 if m.group(2) == "ms" else teacher_ms)


class Licences(RecipeSection):
    """Licences of data and weights, as free text for the bundle's manifest."""

    data: str = "not stated"
    weights: str = "not stated"
