"""The README does what it says: its bash blocks are run in their order, in a copy of the tree.

Three things differ from what a reader types. ``make`` only says what it would do, and the lines that make ``.venv`` are
left out: ``.ci/run`` does both for real, and compresses the whole quickstart. What trains gets settings that finish
within a minute. Everything else is run as it stands.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skd_edge.cli.main import cli
from skd_edge.recipe.loader import load_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

MAKES_VENV = ("python3 -m venv .venv", ". .venv/bin/activate", "pip install '.[train]'")
# One path suffices here: the whole tree is trained by .ci/run.
TINY = """training.teacher_epochs=1 training.epochs=1 teacher.width=8 assistants.0.width=8 schedule.paths=[[]]
schedule.controls=[] bench.processes=1 bench.queries=24 export.calibration_clips=16 choice.budget=null"""
FEW = {
    "data generate": "--train 60 --val 20 --test 20",
    "recipes/quickstart.yaml": "--set data.train=60 --set data.val=20 --set data.test=20 --set students.2.width=16",
}


def fences(text: str, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def typed(line: str) -> str:
    """A line of the README as the test types it."""
    if line in MAKES_VENV:
        return ""
    if line.startswith("make "):
        return f"{line} --dry-run"
    more = "".join(f" {few}" for words, few in FEW.items() if words in line)
    if line.startswith(("skd-edge compress", "skd-edge labels audit")):
        more += "".join(f" --set {setting}" for setting in TINY.split())
    return line + more


@pytest.fixture(scope="module")
def shell(clone, tmp_path_factory):
    """Types a block into bash, in the copy of the tree."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHONPATH", "MAKE"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SKD_EDGE_CACHE": str(home / "cache"),
        "SKD_EDGE_LEDGER": str(home / "looks.jsonl"),
    }

    def _run(block: str) -> str:
        script = "\n".join(["set -euo pipefail", *map(typed, block.splitlines())])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    return _run


BLOCKS = list(fences(README, "bash"))
DEVICE = next(i for i, block in enumerate(BLOCKS) if "venv device" in block)


@pytest.fixture(scope="module")
def played(shell) -> list[str]:
    """What each block before the device's said."""
    return [shell(block) for block in BLOCKS[:DEVICE]]


def test_make_does_what_by_hand_does(played):
    assert "compress recipes/quickstart.yaml" in played[0]
    assert "-m pytest" in played[0]
    assert all(line in "\n".join(BLOCKS) for line in MAKES_VENV)


@pytest.mark.parametrize("run", ["runs/quickstart", "runs/mine"])
def test_the_run_folder_holds_what_the_readme_says(played, clone, run):
    table = README.split("| in the run folder |")[1].split("\n\n")[0]
    names = [
        name.replace("<hash>", "*")
        for cell in re.findall(r"^\| (`.*?) \|", table, flags=re.M)
        for name in re.findall(r"`(.*?)`", cell)
    ]
    assert len(names) >= 7
    assert [
        name for name in (*names, "report.md", "report.json") if not list((clone / run).glob(name.rstrip("/")))
    ] == []


def test_the_python_block_runs(played, clone, shell):
    """In the run folder of the commands above and with their settings, so that nothing is trained again."""
    [block] = fences(README, "python")
    call = 'load_recipe("my_recipe.yaml")'
    assert call in block
    assert len(block.splitlines()) <= 12
    small = block.replace(call, f'load_recipe("my_recipe.yaml", {TINY.split()!r})')
    (clone / "example.py").write_text(small, encoding="utf-8")
    printed = shell("python example.py").splitlines()
    assert re.fullmatch(r"\d+ s to go", printed[0])
    assert len(printed) == 1 + len(list(clone.glob("my_videos/clips/test/*/*.mp4")))
    assert all(line.endswith("))") for line in printed[1:])


def test_the_last_blocks_run(played, shell):
    for block in BLOCKS[DEVICE + 1 :]:
        assert shell(block)


def test_the_device_needs_no_torch(played, shell, clone):
    """The block of the device, with its own virtual environment and a real install."""
    lines = BLOCKS[DEVICE].splitlines()
    install = next(i for i, line in enumerate(lines) if "pip install" in line) + 1
    try:
        shell("\n".join(lines[:install]))
    except AssertionError as error:
        if re.search(r"No matching distribution|Failed to establish|Could not fetch|Connection", str(error)):
            pytest.skip("pip reaches no package index")
        raise
    site = next((clone / "device/lib").glob("python3*/site-packages"))
    assert not [name for name in ("torch", "onnx", "sklearn", "plotly") if (site / name).exists()]
    said = shell("\n".join(lines[install:]))
    assert "runs/quickstart/bundle: ok" in said
    assert said.count("orbit_") >= 2  # a prediction for each video
    assert json.loads(said[said.index("\n{") :])["artefacts"]


def test_yaml_blocks_are_recipes(tmp_path):
    blocks = list(fences(README, "yaml"))
    assert blocks
    for block in blocks:
        (tmp_path / "recipe.yaml").write_text(block, encoding="utf-8")
        assert load_recipe(tmp_path / "recipe.yaml").students
        assert len(block.splitlines()) <= 24


def test_every_command_is_in_the_table():
    listed = re.findall(r"^\| `skd-edge ([a-z]+(?: [a-z]+)?)", README, flags=re.M)
    parts = {name: list(getattr(command, "commands", {})) for name, command in cli.commands.items()}
    known = [f"{name} {part}".strip() for name in parts for part in (parts[name] or [""])]
    assert sorted(listed) == sorted(known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_settings_and_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:skd_edge|export|bench|tests|docs|recipes|\.ci)/[\w./-]+\.\w+)`", text)
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
