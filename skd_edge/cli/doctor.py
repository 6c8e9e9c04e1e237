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

AREAS = {"machine": "This machine", "train": "Train", "export": "Export", "run": "Run"}
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
class Examination:
    """Everything that was found, in the order it is shown."""

    findings: tuple[Finding, ...] = field(default_factory=tuple)

    def verdicts(self) -> dict[str, bool]:
        """Whether this machine can train, export and run: by at least the core of each."""
        ok = {f.name for f in self.findings if f.ok}
        ready = "torch" in ok
        return {"train": ready, "export": ready and "onnx" in ok, "run": any(f.ok for f in self._area("run"))}

    def to_json(self) -> dict[str, object]:
        """``{"can": {"train", "export", "run"}, "findings": [{area, name, ok, detail, fix}]}``."""
        return {"can": self.verdicts(), "findings": [asdict(f) for f in self.findings]}

    def to_text(self) -> str:
        """A line for each finding, by area."""
        lines: list[str] = []
        verdicts = self.verdicts()
        for area, title in AREAS.items():
            can = f": {'yes' if verdicts[area] else 'no'}" if area in verdicts else ""
            lines.append(f"{title}{can}")
            for f in self._area(area):
                lines.append(f"  {'ok     ' if f.ok else 'missing'}  {f.name:<17} {f.detail}")
                if f.fix:
                    lines.append(f"{'':29}{f.fix}")
        return "\n".join(lines)

    def _area(self, area: str) -> list[Finding]:
        return [f for f in self.findings if f.area == area]


def examine(folder: Path | None = None) -> Examination:
    """Look at this machine; what cannot be found out is said, never raised.

    Args:
        folder: where runs would be written; its disk is looked at (default: the working directory).
    """
    from skd_bench.device.info import device_card

    card = device_card()
    train = "pip install 'skd-edge[train]'"
    versions = version_report()
    machine = (
        _python(versions),
        _packages(versions),
        _cores(card),
        _memory(card),
        _disk(folder or Path.cwd()),
        _isa(card),
        _gpu(card),
    )
    packages = (
        _module("machine", "av", "PyAV", "pip install skd-edge"),
        _module("train", "torch", "torch", train),
        _torch_cuda(),
        _module("train", "ray", "ray (--engine ray)", "pip install 'skd-edge[ray]'"),
        _module("export", "onnx", "onnx", train),
        _module("export", "onnxscript", "onnxscript", train),
        _engines(),
    )
    return Examination((*machine, *packages, *_runtimes()))


# ------------------------------------------------------------------------------------------ the machine
def _python(versions: VersionReport) -> Finding:
    note = "" if versions.python_was_tested else f"; not tested: {', '.join(versions.tested_pythons)} were"
    return Finding("machine", "python", True, f"{versions.python} ({sys.executable}){note}")


def _packages(versions: VersionReport) -> Finding:
    """Newer than tested is no fault, but the first thing to look at where something fails."""
    if not versions.tested:
        return Finding("machine", "packages", True, "no versions were tested together on this Python")
    newer = versions.newer_text()
    return Finding(
        "machine", "packages", True, f"newer than tested: {newer}" if newer else "none is newer than what was tested"
    )


def _cores(card: Mapping[str, Any]) -> Finding:
    quota = f", {card['cpu_quota']:g} cores' worth of time" if card["cpu_quota"] else ""
    return Finding("machine", "cores", True, f"{card['cores_usable']} usable{quota}, {card['machine']}, {card['cpu']}")


def _memory(card: Mapping[str, Any]) -> Finding:
    """The smaller of what the machine and the control group give; the quickstart stays under 2 GiB."""
    limits = [card["memory_mb"] / 1024] if card["memory_mb"] else []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text(encoding="ascii")) / GIB)
    if not limits:
        return Finding("machine", "memory", True, "not known on this system; the quickstart takes up to 2 GiB")
    note = "" if min(limits) >= 2 else ": less than the 2 GiB that the quickstart may take"
    return Finding("machine", "memory", not note, f"{min(limits):.1f} GiB{note}")


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free / GIB
    except OSError as error:
        return Finding("machine", "disk", False, f"{folder}: {error.strerror}")
    note = "" if os.access(folder, os.W_OK) else ", which is not writable"
    return Finding("machine", "disk", free >= 1 and not note, f"{free:.1f} GiB free at {folder}{note}")


def _isa(card: Mapping[str, Any]) -> Finding:
    found: list[str] = card["isa"]
    dot = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & set(found)
    note = "" if dot else " (no INT8 dot product: INT8 files use a reduced range and may be no faster)"
    return Finding("machine", "ISA", True, (", ".join(found) or "flags not known on this system") + note)


def _gpu(card: Mapping[str, Any]) -> Finding:
    """NVIDIA's tool is asked; other GPUs are not used by anything here."""
    if card["gpus"]:
        names = "; ".join(f"{gpu.get('name')}, driver {gpu.get('driver')}" for gpu in card["gpus"])
        return Finding("machine", "GPU", True, names)
    reason = "nvidia-smi lists none, or fails" if shutil.which("nvidia-smi") else "no nvidia-smi, so no NVIDIA driver"
    return Finding("machine", "GPU", False, f"{reason} (a GPU is not needed)")


# ------------------------------------------------------------------------------------------ packages
def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _module(area: str, module: str, name: str, fix: str | None) -> Finding:
    """Import it for real: a package that is installed and does not load is missing, with its reason."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.split(".")[0]:
            return Finding(area, name, False, "not installed", fix)
        return Finding(area, name, False, f"installed, but needs {error.name}", fix)
    except Exception as error:  # a broken install may raise anything; that is what doctor is for
        return Finding(area, name, False, f"installed, and does not load: {_brief(error)}", fix)
    return Finding(area, name, True, _version(module) or str(getattr(loaded, "__version__", "version unknown")))


def _engines() -> Finding:
    """Building engines is not running them: this needs no GPU."""
    from skd_bench.errors import UserError
    from skd_bench.runtimes.tensorrt.library import FLAVOURS, library

    rtx = FLAVOURS["tensorrt-rtx"]
    try:
        loaded = library(rtx.name)
    except UserError as error:
        return Finding("export", "engines", False, str(error).partition("; ")[0], rtx.pip)
    return Finding("export", "engines", True, f"{loaded.title} builds them for GPUs that are not here, too")


def _version(module: str) -> str | None:
    for name in metadata.packages_distributions().get(module, []):
        version = metadata.version(name)
        return f"{version}{version_report().mark(name.lower(), version)}"
    return None


def _torch_cuda() -> Finding:
    try:
        import torch

        if not torch.cuda.is_available():
            return Finding("train", "torch on a GPU", False, "torch sees no CUDA device; training runs on the CPU")
        return Finding("train", "torch on a GPU", True, torch.cuda.get_device_name(0))
    except Exception as error:
        return Finding("train", "torch on a GPU", False, f"torch does not load ({type(error).__name__})")


def _runtimes() -> list[Finding]:
    """The runtimes of the scale, each with its own reason."""
    from skd_bench.runtimes import runtimes

    return [_runtime(name, runtime) for name, runtime in runtimes().items()]


def _runtime(name: str, runtime: Runtime) -> Finding:
    """The scale's word for it, and a real import: being installed is not yet loading."""
    missing = runtime.missing()
    if missing is not None:
        return Finding("run", name, False, missing, "pip install 'skd-edge[ort]'" if name == "ort" else None)
    if name == "ort":
        loads = _module("run", "onnxruntime", name, "pip install --force-reinstall onnxruntime")
        return replace(loads, detail=f"onnxruntime {loads.detail}")
    try:
        runtime.prepare()
    except Exception as error:  # as above
        return Finding("run", name, False, f"installed, and does not load: {_brief(error)}")
    return Finding("run", name, True, f"usable ({runtime.version()})")
