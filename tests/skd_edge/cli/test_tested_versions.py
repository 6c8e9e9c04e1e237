"""What is newer than what was tested is named; a Python that nobody tried is said to be one."""

import re

import pytest

from skd_edge.cli.tested_versions import VersionReport, version_report


def report(**installed: str) -> VersionReport:
    return VersionReport("3.12.1", ("3.11", "3.12"), installed, {"av": "18.1.0", "torch": "2.13.0", "rich": "15.0.0"})


@pytest.mark.parametrize(
    ("version", "newer"),
    [("18.1.0", False), ("18.1.1", True), ("19.0", True), ("18.0.9", False), ("9.2.0", False), ("18.1.0+cpu", False)],
)
def test_newer_is_by_number_and_without_the_build(version, newer):
    assert (report(av=version).newer_than_tested == {"av": version}) is newer


def test_what_is_newer_is_told_with_what_was_tested():
    told = report(av="20.0.2", torch="2.13.0+cu130", rich="14.0", plotly="9")
    assert told.format_newer() == "av 20.0.2 (tested: 18.1.0)"
    assert told.to_text().splitlines() == [
        "Python 3.12.1",
        "av 20.0.2 (newer than the tested 18.1.0)",
        "torch 2.13.0+cu130 (tested)",
        "rich 14.0 (older than the tested 15.0.0)",
        "plotly 9",
    ]


def test_a_python_that_was_not_tried_is_told():
    told = VersionReport("3.15.0", ("3.11", "3.12"), {"av": "30"}, {})
    assert not told.is_python_tested
    assert told.newer_than_tested == {}
    assert told.to_text().startswith("Python 3.15.0 (not tested)")


def test_this_machine():
    found = version_report()
    assert found.installed["numpy"]
    assert {"3.11", "3.12", "3.13"} <= set(found.tested_pythons)
    assert not found.tested or re.match(r"\d", found.tested["av"])


def test_the_constraints_are_exact_and_within_the_bounds(root):
    """Each file pins everything that an install of `make test` needs, and nothing below pyproject's bounds."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    bounds = {m[1].lower(): m[2] for need in needs if (m := re.match(r"([\w-]+)>=([\d.]+)", need))}
    numbers = {name: [int(n) for n in bound.split(".")] for name, bound in bounds.items()}
    files = sorted((root / "constraints").glob("python*.txt"))
    assert files
    for file in files:
        pins = dict(line.split("==") for line in file.read_text().splitlines()[1:])
        assert set(bounds) <= set(pins), file
        assert all([int(n) for n in re.findall(r"\d+", pins[name])] >= bound for name, bound in numbers.items())
