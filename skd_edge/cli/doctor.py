"""What this machine can train on, export to and run: each thing with its reason and, where missing, its pip line."""

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
    """One thing that was looked at.

    Attributes:
        area: ``machine``, ``train``, ``export`` or ``run``.
        name: what was looked at.
        ok: it is there and loads; for the machine: it is enough.
        detail: what was found, or the reason why it is missing.
        fix: the line that brings it; None where nothing is missing or no line can.
    """

    area: str
    name: str
    ok: bool
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class DiagnosticReport:
    """Everything that was found, in the order it is shown."""

    findings: tuple[Finding, ...] = field(default_factory=tuple)

    def capabilities(self) -> dict[str, bool]:
        """Whether this machine can train, export and run: by at least the core of each."""
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
        """A line for each finding, by area."""
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
    """Look at this machine; what cannot be found out is said, never raised.

    Args:
        folder: where runs would be written; its disk is looked at (default: the working directory).
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
        _inspect_tensorrt(),
    )
    return DiagnosticReport((*machine, *packages, *_inspect_runtimes()))


# ------------------------------------------------------------------------------------------ the machine
def _inspect_python(versions: VersionReport) -> Finding:
    note = "" if versions.is_python_tested else f"; not tested: {', '.join(versions.tested_pythons)} were"
    return Finding("machine", "python", True, f"{versions.python} ({sys.executable}){note}")


def _inspect_packages(versions: VersionReport) -> Finding:
    """Newer than tested is no fault, but the first thing to look at where something fails."""
    if not versions.tested:
        return Finding("machine", "packages", True, "no versions were tested together on this Python")
    newer = versions.format_newer()
    return Finding(
        "machine", "packages", True, f"newer than tested: {newer}" if newer else "none is newer than what was tested"
    )


def _inspect_cores(device_info: Mapping[str, Any]) -> Finding:
    quota = f", {device_info['cpu_quota']:g} cores' worth of time" if device_info["cpu_quota"] else ""
    return Finding(
        "machine",
        "cores",
        True,
        f"{device_info['cores_usable']} usable{quota}, {device_info['machine']}, {device_info['cpu']}",
    )


def _inspect_memory(device_info: Mapping[str, Any]) -> Finding:
    """The smaller of what the machine and the control group give; the quickstart stays under 2 GiB."""
    limits = [device_info["memory_mb"] / 1024] if device_info["memory_mb"] else []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text(encoding="ascii")) / GIB)
    if not limits:
        return Finding("machine", "memory", True, "not known on this system; the quickstart takes up to 2 GiB")
    note = "" if min(limits) >= 2 else ": less than the 2 GiB that the quickstart may take"
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
    note = "" if dot else " (no INT8 dot product: INT8 files use a reduced range and may be no faster)"
    return Finding("machine", "ISA", True, (", ".join(found) or "flags not known on this system") + note)


def _inspect_gpu(device_info: Mapping[str, Any]) -> Finding:
    """NVIDIA's tool is asked; other GPUs are not used by anything here."""
    if device_info["gpus"]:
        names = "; ".join(f"{gpu.get('name')}, driver {gpu.get('driver')}" for gpu in device_info["gpus"])
        return Finding("machine", "GPU", True, names)
    reason = "nvidia-smi lists none, or fails" if shutil.which("nvidia-smi") else "no nvidia-smi, so no NVIDIA driver"
    return Finding("machine", "GPU", False, f"{reason} (a GPU is not needed)")


# ------------------------------------------------------------------------------------------ packages
def _format_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _inspect_module(area: str, module: str, name: str, fix: str | None) -> Finding:
    """Import it for real: a package that is installed and does not load is missing, with its reason."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.split(".")[0]:
            return Finding(area, name, False, "not installed", fix)
        return Finding(area, name, False, f"installed, but needs {error.name}", fix)
    except Exception as error:  # a broken install may raise anything; that is what doctor is for
        return Finding(area, name, False, f"installed, and does not load: {_format_error(error)}", fix)
    return Finding(
        area, name, True, _find_installed_version(module) or str(getattr(loaded, "__version__", "version unknown"))
    )


def _inspect_tensorrt() -> Finding:
    """Building engines is not running them: this needs no GPU."""
    from skd_bench.errors import UserError
    from skd_bench.runtimes.tensorrt.library import FLAVOURS, import_library

    rtx = FLAVOURS["tensorrt-rtx"]
    try:
        loaded = import_library(rtx.name)
    except UserError as error:
        return Finding("export", "engines", False, str(error).partition("; ")[0], rtx.pip)
    return Finding("export", "engines", True, f"{loaded.title} builds them for GPUs that are not here, too")


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
    """The runtimes of the scale, each with its own reason."""
    from skd_bench.runtimes import registered_runtimes

    return [_inspect_runtime(name, runtime) for name, runtime in registered_runtimes().items()]


def _inspect_runtime(name: str, runtime: Runtime) -> Finding:
    """The scale's word for it, and a real import: being installed is not yet loading."""
    missing = runtime.why_unavailable()
    if missing is not None:
        return Finding("run", name, False, missing, "pip install 'skd-edge[ort]'" if name == "ort" else None)
    if name == "ort":
        loads = _inspect_module("run", "onnxruntime", name, "pip install --force-reinstall onnxruntime")
        return replace(loads, detail=f"onnxruntime {loads.detail}")
    try:
        runtime.import_libraries()
    except Exception as error:  # as above
        return Finding("run", name, False, f"installed, and does not load: {_format_error(error)}")
    return Finding("run", name, True, f"usable ({runtime.version()})")
