"""``skd-edge doctor``: what this machine can train, export and run, and the pip command for what is missing."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skd_edge.cli.tested_versions import VersionReport, version_report

if TYPE_CHECKING:
    from skd_bench.runtimes import Runtime

AREA_TITLES = {"machine": "This machine", "train": "Train", "export": "Export", "run": "Run"}
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        area: ``machine``, ``train``, ``export`` or ``run``.
        name: what was checked.
        ok: whether it is installed and loads; in the area ``machine``, whether it is sufficient.
        detail: what was found, or why it is missing.
        fix: the command that installs it; None where nothing is missing or no command can install it.
    """

    area: str
    name: str
    ok: bool
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class DiagnosticReport:
    """All findings, in the order in which they are printed."""

    findings: tuple[Finding, ...] = field(default_factory=tuple)

    def capabilities(self) -> dict[str, bool]:
        """Whether this machine has the minimum to train, to export and to run, by area."""
        ok = {f.name for f in self.findings if f.ok}
        ready = "torch" in ok
        return {
            "train": ready,
            "export": ready and "onnx" in ok,
            "run": any(f.ok for f in self._findings_in_area("run")),
        }

    def to_json(self) -> dict[str, object]:
        """``{"can": {"train", "export", "run"}, "findings": [{area, name, ok, detail, fix}]}``."""
        return {"can": self.capabilities(), "findings": [asdict(f) for f in self.findings]}

    def to_text(self) -> str:
        """A line for each finding, grouped by area."""
        lines: list[str] = []
        capabilities = self.capabilities()
        for area, title in AREA_TITLES.items():
            can = f": {'yes' if capabilities[area] else 'no'}" if area in capabilities else ""
            lines.append(f"{title}{can}")
            for f in self._findings_in_area(area):
                lines.append(f"  {'ok     ' if f.ok else 'missing'}  {f.name:<17} {f.detail}")
                if f.fix:
                    lines.append(f"{'':29}{f.fix}")
        return "\n".join(lines)

    def _findings_in_area(self, area: str) -> list[Finding]:
        return [f for f in self.findings if f.area == area]


def run_diagnostics(folder: Path | None = None) -> DiagnosticReport:
    """Check this machine. A check that fails becomes a finding; nothing is raised.

    Args:
        folder: where runs would be written; its free disk space is checked (default: the working directory).
    """
    from skd_bench.device.info import read_device_info

    device_info = read_device_info()
    train = "pip install 'skd-edge[train]'"
    versions = version_report()
    machine = (
        _inspect_python(versions),
        _inspect_packages(versions),
        _inspect_cores(device_info),
        _inspect_memory(device_info),
        _inspect_disk(folder or Path.cwd()),
        _inspect_cpu_features(device_info),
        _inspect_gpu(device_info),
    )
    packages = (
        _inspect_module("machine", "av", "PyAV", "pip install skd-edge"),
        _inspect_module("train", "torch", "torch", train),
        _inspect_torch_cuda(),
        _inspect_module("train", "ray", "ray (--engine ray)", "pip install 'skd-edge[ray]'"),
        _inspect_module("export", "onnx", "onnx", train),
        _inspect_module("export", "onnxscript", "onnxscript", train),
        *(_inspect_tensorrt(name) for name in ("tensorrt-rtx", "tensorrt")),
    )
    return DiagnosticReport((*machine, *packages, *_inspect_runtimes()))


# ------------------------------------------------------------------------------------------ the machine
def _inspect_python(versions: VersionReport) -> Finding:
    note = "" if versions.is_python_tested else f"; not tested: {', '.join(versions.tested_pythons)} were"
    return Finding("machine", "python", True, f"{versions.python} ({sys.executable}){note}")


def _inspect_packages(versions: VersionReport) -> Finding:
    """Packages newer than tested are not an error, but a likely cause where something fails."""
    if not versions.tested:
        return Finding("machine", "packages", True, "no package versions were tested on this Python")
    newer = versions.format_newer()
    return Finding("machine", "packages", True, f"newer than tested: {newer}" if newer else "none is newer than tested")


def _inspect_cores(device_info: Mapping[str, Any]) -> Finding:
    quota = f", {device_info['cpu_quota']:g} cores' worth of time" if device_info["cpu_quota"] else ""
    return Finding(
        "machine",
        "cores",
        True,
        f"{device_info['cores_usable']} usable{quota}, {device_info['machine']}, {device_info['cpu']}",
    )


def _inspect_memory(device_info: Mapping[str, Any]) -> Finding:
    """The smaller of the machine's memory and the limit of the control group; the quickstart needs up to 2 GiB."""
    limits = [device_info["memory_mb"] / 1024] if device_info["memory_mb"] else []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text(encoding="ascii")) / GIB)
    if not limits:
        return Finding("machine", "memory", True, "not known on this system; the quickstart needs up to 2 GiB")
    note = "" if min(limits) >= 2 else ": less than the 2 GiB that the quickstart may need"
    return Finding("machine", "memory", not note, f"{min(limits):.1f} GiB{note}")


def _inspect_disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free / GIB
    except OSError as error:
        return Finding("machine", "disk", False, f"{folder}: {error.strerror}")
    note = "" if os.access(folder, os.W_OK) else ", which is not writable"
    return Finding("machine", "disk", free >= 1 and not note, f"{free:.1f} GiB free at {folder}{note}")


def _inspect_cpu_features(device_info: Mapping[str, Any]) -> Finding:
    found: list[str] = device_info["isa"]
    dot = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(found)
    note = "" if dot else " (no INT8 dot product: INT8 files use a reduced range and may not be faster)"
    return Finding("machine", "ISA", True, (", ".join(found) or "flags not known on this system") + note)


def _inspect_gpu(device_info: Mapping[str, Any]) -> Finding:
    """GPUs that nvidia-smi lists; skd-edge uses no other GPUs."""
    if device_info["gpus"]:
        names = "; ".join(f"{gpu.get('name')}, driver {gpu.get('driver')}" for gpu in device_info["gpus"])
        return Finding("machine", "GPU", True, names)
    reason = (
        "nvidia-smi lists no GPU, or fails"
        if shutil.which("nvidia-smi")
        else "nvidia-smi is not installed, so there is no NVIDIA driver"
    )
    return Finding("machine", "GPU", False, f"{reason} (a GPU is not needed)")


# ------------------------------------------------------------------------------------------ packages
def _format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _inspect_module(area: str, module: str, name: str, fix: str | None) -> Finding:
    """Import a module: a package that is installed but does not load counts as missing, with the reason."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.split(".")[0]:
            return Finding(area, name, False, "not installed", fix)
        return Finding(area, name, False, f"installed, but needs {error.name}", fix)
    except Exception as error:  # a broken installation can raise any exception
        return Finding(area, name, False, f"installed, but does not load: {_format_error(error)}", fix)
    return Finding(
        area, name, True, _find_installed_version(module) or str(getattr(loaded, "__version__", "version unknown"))
    )


def _inspect_tensorrt(name: str) -> Finding:
    """Whether engines can be built. TensorRT-RTX needs no GPU for that; TensorRT builds for the GPU of this machine."""
    from skd_bench.errors import UserError
    from skd_bench.runtimes.tensorrt.library import FLAVOURS, import_library

    flavour = FLAVOURS[name]
    try:
        loaded = import_library(name)
    except UserError as error:
        return Finding("export", f"engines ({name})", False, str(error).partition("; ")[0], flavour.pip)
    where = "also for GPUs that this machine does not have" if name == "tensorrt-rtx" else "for the GPU of this machine"
    return Finding("export", f"engines ({name})", True, f"{loaded.title} builds them, {where}")


def _find_installed_version(module: str) -> str | None:
    for name in metadata.packages_distributions().get(module, []):
        version = metadata.version(name)
        return f"{version}{version_report().format_tested_note(name.lower(), version)}"
    return None


def _inspect_torch_cuda() -> Finding:
    try:
        import torch

        if not torch.cuda.is_available():
            return Finding("train", "torch on a GPU", False, "torch sees no CUDA device; training runs on the CPU")
        return Finding("train", "torch on a GPU", True, torch.cuda.get_device_name(0))
    except Exception as error:
        return Finding("train", "torch on a GPU", False, f"torch does not load ({type(error).__name__})")


def _inspect_runtimes() -> list[Finding]:
    """A finding for each runtime that skd_bench knows."""
    from skd_bench.runtimes import registered_runtimes

    return [_inspect_runtime(name, runtime) for name, runtime in registered_runtimes().items()]


def _inspect_runtime(name: str, runtime: Runtime) -> Finding:
    """Whether the runtime is installed, and whether it also loads."""
    missing = runtime.why_unavailable()
    if missing is not None:
        return Finding("run", name, False, missing, "pip install 'skd-edge[ort]'" if name == "ort" else None)
    if name == "ort":
        loads = _inspect_module("run", "onnxruntime", name, "pip install --force-reinstall onnxruntime")
        return replace(loads, detail=f"onnxruntime {loads.detail}")
    try:
        runtime.import_libraries()
    except Exception as error:  # a broken installation can raise any exception
        return Finding("run", name, False, f"installed, but does not load: {_format_error(error)}")
    return Finding("run", name, True, f"usable ({runtime.version()})")
