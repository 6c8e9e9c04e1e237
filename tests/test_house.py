"""Rules of the house that no other tool holds: lean imports, no machine's paths, data files in the wheel."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "openvino",
    "plotly",
    "ray",
    "sklearn",
    "jinja2",
)


def loaded(code: str) -> list[str]:
    """Which heavy modules a fresh interpreter holds after some code, whatever else the code prints."""
    tell = (
        f"import sys, atexit; atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))"
    )
    done = subprocess.run([sys.executable, "-c", f"{tell}\n{code}"], capture_output=True, text=True, check=True)
    found: list[str] = eval(done.stderr.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import skd_edge",
        "import skd_edge.cli.main",
        "import skd_edge.recipe.loader",
        "import sys; sys.argv = ['skd-edge', '--help']; from skd_edge.cli.main import main; main()",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert loaded(code) == []


def test_no_paths_of_a_machine_are_in_the_tree(root, tree):
    pattern = re.compile(r"(?<![\w.$}-])/(?:home|root|Users|work|mnt|workspace)/\w")
    found = []
    for file in tree:
        if (root / file).is_symlink() or not (root / file).is_file():
            continue
        text = (root / file).read_bytes().decode("utf-8", "replace")
        found += [
            f"{file}:{n}: {line.strip()[:120]}" for n, line in enumerate(text.splitlines(), 1) if pattern.search(line)
        ]
    assert [hit for hit in found if not hit.startswith("tests/")] == []


def test_the_tree_holds_no_large_and_no_compiled_file(root, tree):
    sizes = {file: (root / file).lstat().st_size for file in tree}
    assert [f"{file}: {size}" for file, size in sizes.items() if size > 1_000_000] == []
    assert [
        file for file in tree if file.suffix in {".pyc", ".pt", ".onnx", ".mp4", ".mkv", ".npy", ".safetensors"}
    ] == []


def test_links_stay_in_the_tree(root, tree):
    links = [file for file in tree if (root / file).is_symlink()]
    assert [file for file in links if not (root / file).resolve().is_relative_to(root.resolve())] == []


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(clone)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if re.search(r"No matching distribution|Failed to establish|Connection", done.stderr) and done.returncode:
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_everything_that_is_read_at_run_time(wheel, root, tree):
    names = set(wheel.namelist())
    packages = {"skd_edge": root, "skd_export": root / "export", "skd_bench": root / "bench"}
    wanted = {f"skd_edge/recipes/{path.name}" for path in (root / "recipes").glob("*.yaml")}
    for package, home in packages.items():
        inside = [root / f for f in tree if (root / f).is_relative_to(home / package) and (root / f).is_file()]
        wanted |= {path.relative_to(home).as_posix() for path in inside if path.parent.name != "recipes"}
    assert wanted - names == set()
    assert any(name.endswith(".j2") for name in names)


def test_the_wheel_holds_nothing_else(wheel):
    tops = {Path(name).parts[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"skd_edge", "skd_export", "skd_bench"}


# ------------------------------------------------------------------------------------------ what .ci/house.py counts
@pytest.fixture(scope="module")
def house(root) -> dict[str, object]:
    return runpy.run_path(str(root / ".ci" / "house.py"))


def test_the_roots_are_small_and_folders_fit_in_view(house):
    assert house["files_in_root"]("skd_edge") <= 4
    assert house["files_in_root"]("skd_bench") <= 7
    assert {folder: count for folder, count in house["files_by_folder"]().items() if count > 14} == {}


def test_no_modules_import_each_other(house):
    assert house["import_circles"]() == []


def test_names_say_what_is_inside(house):
    assert house["one_word_share"]() <= 0.2
    assert house["banned_identifiers"]() == []


def test_tests_mirror_the_modules(house):
    assert len(house["unmirrored"]()) <= 0.35 * len(house["modules"]())


def test_what_travels_to_a_device_knows_nothing_of_torch(root, tree):
    inside = [f for f in tree if f.parts[:2] == ("bench", "skd_bench") and f.suffix == ".py"]
    assert len(inside) > 50
    assert [f.as_posix() for f in inside if re.search(r"[\"']torch[\"'.]|import torch", (root / f).read_text())] == []


def test_nobody_assigns_to_the_attributes_of_another_object(house):
    assert house["assigned_from_outside"]() == []


def test_arguments_fit_in_view(house):
    assert len(house["many_parameters"]()) <= 10
    assert house["untyped_dicts"]() <= 60


def test_the_formatter_is_never_switched_off(root, tree):
    marker = "fmt: " + "skip"
    assert [f.as_posix() for f in tree if f.suffix == ".py" and marker in (root / f).read_text(encoding="utf-8")] == []


def test_test_clips_are_unsealed_in_one_place(root, tree):
    """Everywhere else mypy refuses them: a stage that scores clips takes a ClipSplit, and these are sealed."""
    sources = [f for f in tree if f.suffix == ".py" and f.parts[0] == "skd_edge"]
    found = [f.as_posix() for f in sources if ".unseal()" in (root / f).read_text(encoding="utf-8")]
    assert found == ["skd_edge/pipeline/stages/confirm_on_test.py"]
