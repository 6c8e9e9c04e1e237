"""The installed versions of skd-edge's requirements, compared with those that were tested (``constraints/``)."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources


@dataclass(frozen=True)
class VersionReport:
    """Installed and tested versions.

    Attributes:
        python: version of this Python.
        tested_pythons: versions (major.minor) of Python that have a constraints file, oldest first.
        installed: installed version of each requirement of skd-edge, by name.
        tested: tested version of each distribution on this Python, by name; empty where this Python was not tested.
    """

    python: str
    tested_pythons: tuple[str, ...]
    installed: dict[str, str]
    tested: dict[str, str]

    @property
    def newer_than_tested(self) -> dict[str, str]:
        """Installed versions that are newer than the tested ones, by name."""
        return {
            name: version
            for name, version in self.installed.items()
            if name in self.tested and _parse_version(version) > _parse_version(self.tested[name])
        }

    @property
    def is_python_tested(self) -> bool:
        """Whether this Python (major.minor) was tested."""
        return ".".join(self.python.split(".")[:2]) in self.tested_pythons

    def format_tested_note(self, name: str, version: str) -> str:
        """The note behind a version: ``(tested)``, ``(newer than the tested 19.0.2)``, or nothing if not tested."""
        if name not in self.tested:
            return ""
        here, tested = _parse_version(version), _parse_version(self.tested[name])
        if here == tested:
            return " (tested)"
        return f" ({'newer' if here > tested else 'older'} than the tested {self.tested[name]})"

    def format_newer(self) -> str:
        """Newer versions for a message, separated by commas: ``av 20.0.0 (tested: 19.0.2)``; empty if none is newer."""
        return ", ".join(
            f"{name} {version} (tested: {self.tested[name]})" for name, version in self.newer_than_tested.items()
        )

    def to_text(self) -> str:
        """A line for Python and for each installed version."""
        lines = [f"Python {self.python}{'' if self.is_python_tested else ' (not tested)'}"]
        for name, version in self.installed.items():
            lines.append(f"{name} {version}{self.format_tested_note(name, version)}")
        return "\n".join(lines)


@cache
def version_report() -> VersionReport:
    """Read the installed versions from package metadata; no package is imported."""
    files = {name: text for name, text in _read_constraint_files()}
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    pythons = tuple(sorted(files, key=_parse_version))
    return VersionReport(
        platform.python_version(), pythons, _find_installed_versions(), _parse_pins(files.get(here, ""))
    )


def _read_constraint_files() -> list[tuple[str, str]]:
    folder = resources.files("skd_edge") / "constraints"
    found = ((re.fullmatch(r"python(\d+\.\d+)\.txt", file.name), file) for file in folder.iterdir())
    return [(match[1], file.read_text(encoding="utf-8")) for match, file in found if match]


def _find_installed_versions() -> dict[str, str]:
    """Installed versions of skd-edge's requirements, extras included; empty where skd-edge is not installed."""
    try:
        needs = metadata.requires("skd-edge") or []
    except metadata.PackageNotFoundError:
        needs = []
    names = {_normalise_package_name(match[0]) for need in needs if (match := re.match(r"[\w.-]+", need))} - {
        "skd-edge"
    }
    there: dict[str, str] = {}
    for name in sorted(names):
        try:
            there[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return there


def _parse_pins(text: str) -> dict[str, str]:
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line and not line.startswith("#"))


def _normalise_package_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _parse_version(version: str) -> tuple[int, ...]:
    """The numbers of a version, without the local label of a build (``+cpu``)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))
