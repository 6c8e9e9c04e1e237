"""Builds a TensorRT engine from an ONNX file and writes the engine's metadata beside it.

Networks are strongly typed, because TensorRT 11 supports nothing else: the precision is that of the ONNX file, so an
FP16 engine is built from an FP16 file. TensorRT-RTX can build for each of its GPU generations on a machine without a
GPU. TensorRT builds for the GPU of the machine that it runs on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skd_bench.errors import UserError
from skd_bench.files import sha256_file, write_atomic
from skd_bench.runtimes.cuda import Gpu, find_gpu, why_cuda_unavailable
from skd_bench.runtimes.tensorrt.engine_file import SCHEMA, STATE_BUILT, EngineMetadata
from skd_bench.runtimes.tensorrt.library import TensorRTLibrary, first_error, import_library
from skd_bench.runtimes.tensorrt.parser import find_clip_and_logits, find_precision, parse_onnx

ProgressCallback = Callable[[int, int], None]
FIRST_SM = {"bf16": 80, "fp8": 89}  # the first compute capability (times ten) with such arithmetic
SUPPORTED_SMS = (75, 80, 86, 89, 120)  # Turing, Ampere, Ampere (RTX 30, A-series), Ada, Blackwell (RTX 50)


@dataclass(frozen=True)
class BuildOptions:
    """Options of the builder.

    Attributes:
        batches: The smallest batch size, the one to optimise for and the largest; used where the file's batch axis is
            dynamic.
        workspace_bytes: Scratch memory on the GPU that a layer may use, at least 1 MiB.
        version_compatible: Whether the engine also loads under other versions. It then contains host code, and loading
            it must be allowed explicitly.
        tf32: Whether FP32 products may use 10 bits of mantissa. It is off by default, so that an FP32 file agrees with
            other runtimes within 1e-4; for more speed, build from an FP16 file.
        timing_cache: A file that stores the builder's timings between builds; TensorRT only.
        ampere_plus: Whether the engine runs on every GPU from Ampere on, a little slower; TensorRT only. (TensorRT-RTX
            can build one engine for several generations instead.)
        level: How long the builder searches, 0 to 5; None: its default.
    """

    batches: tuple[int, int, int] = (1, 1, 8)
    workspace_bytes: int = 1 << 30
    version_compatible: bool = False
    tf32: bool = False
    timing_cache: Path | None = None
    ampere_plus: bool = False
    level: int | None = None


def build_engine(
    onnx: Path | str,
    engine: Path | str,
    *,
    runtime: str,
    sms: Sequence[int] = (),
    options: BuildOptions | None = None,
    progress: ProgressCallback | None = None,
) -> EngineMetadata:
    """Build one engine and write its metadata beside it.

    Args:
        onnx: A self-contained ONNX file with one clip as input and float32 logits as output.
        engine: The engine file to write; it is written atomically.
        runtime: "tensorrt" or "tensorrt-rtx".
        sms: The compute capabilities (times ten) to build for; empty: the GPU of this machine.
        options: The builder's options; None: the defaults.
        progress: Called with (steps finished, steps known so far); the two are equal only at the end. An exception that
            it raises stops the build and is raised here.

    Returns:
        The metadata. Its state is "built, not run".

    Raises:
        UserError: The library is not installed, cannot read the file (the message contains the operator and the node),
            cannot build for these GPUs, or the builder fails; or an option is out of range.
    """
    options = options or BuildOptions()
    _check_options(options)
    lib = import_library(runtime)
    _check_flavour(lib, options)
    local_gpu = find_gpu() if why_cuda_unavailable() is None else None
    targets = _choose_targets(lib, sms, local_gpu)
    onnx, engine = Path(onnx), Path(engine)
    lib.log.clear()
    builder = _make_builder(lib)
    network = builder.create_network(_strongly_typed_flag(lib.trt))
    parse_onnx(lib, network, onnx)
    clip, logits = find_clip_and_logits(lib, network, onnx)
    precision = find_precision(lib, network)
    _check_precision(lib, onnx, precision, targets)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(lib.trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.profiling_verbosity = lib.trt.ProfilingVerbosity.DETAILED  # `inspect_layers` needs the details
    _set_build_targets(lib, config, targets)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.ampere_plus:
        config.hardware_compatibility_level = lib.trt.HardwareCompatibilityLevel.AMPERE_PLUS
    flag = lib.trt.BuilderFlag
    for which, on in ((flag.VERSION_COMPATIBLE, options.version_compatible), (flag.TF32, options.tf32)):
        (config.set_flag if on else config.clear_flag)(which)
    batches = _add_batch_profile(builder, config, clip, options)
    cache = _use_timing_cache(lib, config, options.timing_cache)
    monitor = _make_progress_monitor(lib.trt, progress)
    config.progress_monitor = monitor
    began = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - began
    if monitor.raised is not None:
        raise monitor.raised
    if plan is None:
        reason = first_error(lib.log, "no reason given")
        hint = "; build for this generation with --precision fp16" if "Turing" in reason and "FP32" in reason else ""
        raise UserError(f"{lib.title} cannot build {onnx} for {_format_sms(targets)}: {reason}{hint}")
    if progress is not None:
        progress(monitor.done, monitor.done)
    write_atomic(engine, bytes(memoryview(plan)))
    if cache is not None and options.timing_cache is not None:
        write_atomic(options.timing_cache, bytes(memoryview(cache.serialize())))
    metadata = EngineMetadata(
        schema=SCHEMA,
        state=STATE_BUILT,
        runtime=runtime,
        version=lib.version,
        sms=targets,
        sha256=sha256_file(engine),
        bytes=engine.stat().st_size,
        source=onnx.name,
        source_sha256=sha256_file(onnx),
        input=clip.name,
        shape=list(clip.shape)[1:],
        dtype=_numpy_dtype_name(lib.trt, clip.dtype),
        output=logits.name,
        classes=int(logits.shape[1]),
        batches=batches,
        layers=network.num_layers,
        flags=_list_active_flags(lib.trt, config),
        workspace_bytes=options.workspace_bytes,
        version_compatible=options.version_compatible,
        build_seconds=round(seconds, 3),
        gpu=str(local_gpu) if local_gpu else None,
        ampere_plus=options.ampere_plus,
        driver=local_gpu.driver if local_gpu else None,
        precision=precision,
        level=options.level,
    )
    metadata.save(engine)
    return metadata


def _check_options(options: BuildOptions) -> None:
    low, best, high = options.batches
    if not 1 <= low <= best <= high:
        raise UserError(
            f"batches {options.batches} must be the smallest, best and largest batch size, "
            "each at least 1, such as 1, 1, 8"
        )
    if options.level is not None and not 0 <= options.level <= 5:
        raise UserError(f"the builder's level is {options.level}; it must be 0 (shortest) to 5")
    if options.workspace_bytes < 1 << 20:
        raise UserError(f"a workspace of {options.workspace_bytes} bytes is below 1 MiB; the default is 1 GiB")


def _check_flavour(lib: TensorRTLibrary, options: BuildOptions) -> None:
    """Refuse options that TensorRT-RTX would silently ignore."""
    if lib.flavour.name != "tensorrt-rtx":
        return
    if options.ampere_plus:
        raise UserError(
            f"{lib.title} cannot build one engine for all GPUs from Ampere on; list the generations: --sm 80 --sm 86"
        )
    if options.timing_cache is not None:
        raise UserError(f"{lib.title} does not support a timing cache; omit --timing-cache, or use TensorRT")


def _choose_targets(lib: TensorRTLibrary, sms: Sequence[int], local_gpu: Gpu | None) -> list[int]:
    """The compute capabilities to build for: the requested ones or, where none is requested, this machine's GPU."""
    buildable = _list_buildable_sms(lib.trt)
    requested = sorted(set(sms))
    if local_gpu is not None and requested in ([], [local_gpu.sm]):
        return [local_gpu.sm]
    if not buildable:
        raise UserError(
            f"{lib.title} can only build for the GPU of this machine ({local_gpu or 'it has none'}); "
            "run this on the device, or build with --runtime tensorrt-rtx"
        )
    if not requested:
        raise UserError(
            f"this machine has no GPU to build for; give the target with --sm {' or '.join(map(str, buildable))}"
        )
    if unsupported := [sm for sm in requested if sm not in buildable]:
        raise UserError(f"{lib.title} builds for {_format_sms(buildable)}, but not for {_format_sms(unsupported)}")
    return requested


def _check_precision(lib: TensorRTLibrary, onnx: Path, precision: str, targets: Sequence[int]) -> None:
    """Refuse a precision that a target has no arithmetic for, before the builder searches kernels."""
    least = FIRST_SM.get(precision, 0)
    if too_old := [sm for sm in targets if sm < least]:
        raise UserError(
            f"{lib.title} cannot build {onnx} for {_format_sms(too_old)}: GPUs have {precision.upper()} from SM{least} "
            "on; build for this generation with --precision fp16"
        )


def _list_buildable_sms(trt: Any) -> list[int]:
    """The compute capabilities (times ten) that the library can build for on a machine without such a GPU."""
    names = trt.ComputeCapability.__members__ if hasattr(trt, "ComputeCapability") else ()
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"SM(\d+)", name)))


def _set_build_targets(lib: TensorRTLibrary, config: Any, targets: list[int]) -> None:
    if not _list_buildable_sms(lib.trt):
        return
    config.num_compute_capabilities = len(targets)
    for i, sm in enumerate(targets):
        # A generation without a name in this version can only be that of the local GPU (see `_choose_targets`).
        capability = getattr(lib.trt.ComputeCapability, f"SM{sm}", lib.trt.ComputeCapability.CURRENT)
        config.set_compute_capability(capability, i)


def _make_builder(lib: TensorRTLibrary) -> Any:
    try:
        builder = lib.trt.Builder(lib.log)
    except (TypeError, RuntimeError):  # what pybind raises where the factory returned a null pointer
        builder = None
    if builder is None:
        raise UserError(f"{lib.title} cannot create a builder: {first_error(lib.log, 'it needs a GPU and its driver')}")
    return builder


def _strongly_typed_flag(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)  # newer versions have no flag: always strongly typed


def _add_batch_profile(builder: Any, config: Any, clip: Any, options: BuildOptions) -> list[int]:
    """Add the profile for a dynamic batch axis; return the smallest, best and largest batch size of the engine."""
    batch, *rest = clip.shape
    if batch > 0:
        return [int(batch)] * 3
    profile = builder.create_optimization_profile()
    profile.set_shape(clip.name, *((b, *rest) for b in options.batches))
    config.add_optimization_profile(profile)
    return list(options.batches)


def _use_timing_cache(lib: TensorRTLibrary, config: Any, path: Path | None) -> Any:
    """Set the timing cache: from the file where that exists and fits the GPU and the version, else an empty one."""
    if path is None:
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):  # False: refuse another GPU's
            return cache
    raise UserError(f"{lib.title} accepts no timing cache: {first_error(lib.log, 'no reason given')}")


def _make_progress_monitor(trt: Any, progress: ProgressCallback | None) -> Any:
    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT is untyped
        """Counts the builder's steps. Phases are nested, and the builder announces them during the build."""

        def __init__(self) -> None:
            super().__init__()
            self.done, self.known_steps = 0, 0
            self.raised: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.known_steps += steps

        def step_complete(self, phase: str, step: int) -> bool:
            self.done += 1
            try:  # an exception, such as Ctrl-C, must not pass through the builder's C++; False stops the build
                if progress is not None:
                    progress(self.done, max(self.known_steps, self.done + 1))
            except BaseException as error:
                self.raised = error
            return self.raised is None

        def phase_finish(self, phase: str) -> None:
            """Do nothing: a phase may finish with fewer steps than it announced."""

    return ProgressMonitor()


def _list_active_flags(trt: Any, config: Any) -> list[str]:
    return sorted(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag))


def _numpy_dtype_name(trt: Any, dtype: Any) -> str:
    return str(trt.nptype(dtype).__name__)


def _format_sms(sms: Sequence[int]) -> str:
    return ", ".join(f"SM{sm}" for sm in sms)
