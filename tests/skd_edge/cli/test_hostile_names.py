"""No name can redraw the terminal or forge a line, in any command; and names of any bytes survive in files."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess

import pytest

from skd_bench.bundle.manifest import Manifest
from skd_edge.cli.main import run
from skd_edge.report.markdown import render_markdown

FORGED = "FORGED: ok, signed by you"
HOSTILE = f"a\x1b[2K\r\n{FORGED}\u202e\x9b1A\x7f"
NOT_UTF8 = b"caf\xe9\n.mp4".decode("utf-8", "surrogateescape")


def check_shown(capfd):
    """What a command printed: nothing can act, and no line begins with the forged one."""
    captured = capfd.readouterr()
    for text in captured:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text), ascii(text)
        assert not any(line.strip().startswith("FORGED") for line in text.splitlines()), ascii(text)
    return captured


@pytest.fixture
def hostile_bundle(bundle):
    """A bundle whose name, author and first class are hostile."""
    manifest = Manifest.load(bundle)
    fields = {"name": HOSTILE, "created_by": HOSTILE, "classes": [HOSTILE, *manifest.classes[1:]], "samples": []}
    Manifest(**{**vars(manifest), **fields}).save(bundle)
    return bundle


@pytest.fixture
def hostile_video(tmp_path, film):
    return film(tmp_path / f"{HOSTILE}.mp4")


def test_predict_watch_and_accuracy(hostile_bundle, hostile_video, tmp_path, capfd):
    broken = tmp_path / f"{HOSTILE} broken.mp4"
    broken.write_text("no video")
    assert run(["predict", str(hostile_bundle), str(hostile_video), str(broken)]) == 1
    assert r"a\u001b[2K\u000d\u000aFORGED" in check_shown(capfd).out
    assert run(["watch", str(hostile_bundle), str(hostile_video), "--window", "0.2", "--hop", "0.1"]) == 0
    check_shown(capfd)
    classes = Manifest.load(hostile_bundle).classes
    for name in classes[:2]:
        (tmp_path / "labelled" / name).mkdir(parents=True)
        shutil.copy(hostile_video, tmp_path / "labelled" / name)
    assert run(["accuracy", str(hostile_bundle), str(tmp_path / "labelled")]) == 0
    check_shown(capfd)


def test_verify_shows_stray_files_and_signers(hostile_bundle, capfd, tmp_path):
    (hostile_bundle / HOSTILE).write_text("stray")
    (hostile_bundle / NOT_UTF8).write_text("stray")
    assert run(["verify", str(hostile_bundle), "--no-run"]) == 0
    assert "WARNING" in check_shown(capfd).out
    assert run(["verify", str(hostile_bundle), "--no-run", "--strict"]) == 1
    check_shown(capfd)
    assert run(["verify", str(hostile_bundle), "--no-run", "--json"]) == 0
    assert {HOSTILE, NOT_UTF8} == set(json.loads(check_shown(capfd).out)["strays"])


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen is installed")
def test_a_signer_cannot_redraw_the_line(bundle, capfd, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    key = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    (tmp_path / "signers").write_text(f'"x\x1b[2K\u202e@y" {key}\n')
    assert run(["sign", str(bundle), "--key", str(tmp_path / "key")]) == 0
    assert run(["verify", str(bundle), "--no-run", "--signers", str(tmp_path / "signers")]) == 0
    assert r"signed by x\u001b[2K\u202e@y" in check_shown(capfd).out


def test_bench(hostile_bundle, capfd):
    assert run(["bench", str(hostile_bundle), "--dry-run"]) == 0
    assert run(["bench", str(hostile_bundle), "--processes", "1", "--queries", "20"]) == 0
    check_shown(capfd)


def test_messages_about_paths_and_options(tmp_path, capfd):
    missing = str(tmp_path / HOSTILE)
    for words in (["verify", missing], ["compress", missing], ["report", missing], ["init", missing], [HOSTILE]):
        assert run(words) in (1, 2)
        assert "FORGED" in check_shown(capfd).err


def test_scan_and_init_list_clips_and_classes(tmp_path, film, capfd):
    for name in (HOSTILE, "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for number in range(4):
            film(tmp_path / "videos" / name / f"{number}.mp4", seed=number)
    (tmp_path / "videos/b" / f"{HOSTILE}.mp4").write_text("no video")
    (tmp_path / "videos/b" / NOT_UTF8).write_text("no video")
    run(["init", str(tmp_path / "videos"), "--out", str(tmp_path / "from_init.yaml")])
    check_shown(capfd)
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "bad.csv"
    recipe.write_text(
        f"name: x\ndata: {{kind: folder, root: {tmp_path / 'videos'}}}\nclip: {{frames: 4, size: 16}}\n"
        "students: [{name: small, width: 4}]\n"
    )
    # compress would refuse: there are copies, and too few clips can be read
    assert run(["data", "scan", str(recipe), "--out", str(out), "--processes", "1"]) == 1
    assert "FORGED" in check_shown(capfd).out
    with out.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        paths = {row["path"] for row in csv.DictReader(file)}
    assert paths == {f"b/{HOSTILE}.mp4", "b/caf\\xe9\n.mp4"}  # the name by which a clip is listed is valid Unicode


def test_a_report_in_markdown_stays_one_table():
    report = {
        "schema": 1,
        "name": HOSTILE,
        "version": "1",
        "candidates": [{"name": f"x|y`<b>{HOSTILE}", "student": "x", "precision": "fp32"}],
        "notes": [f"{HOSTILE} | `x` <script>"],
    }
    text = render_markdown(report)
    assert not any(line.lstrip("-# ").startswith("FORGED") for line in text.splitlines())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "<script>" not in text.replace("\\<", "")


# ------------------------------------------------------------------------------------------ one way to the terminal
def test_no_command_prints_past_the_filter(root):
    """What is printed otherwise is our own text: the progress of a measurement, and lines of a protocol."""
    printing = re.compile(r"\b(?:click\.s?echo|print)\(")
    allowed = {
        "bench/skd_bench/untrusted/text.py",  # the door
        "bench/skd_bench/__main__.py",  # "measuring process 1 of 5"
        "bench/skd_bench/remote/pack_main.py",  # the same, and lines for the other end of the ssh connection
        "bench/skd_bench/benchmark/worker_program.py",  # for the parent process
        "skd_edge/data/sources/group_pattern.py",  # the same, from a child process
        "bench/skd_bench/inference/bundle.py",  # an example in a docstring
        "export/skd_export/bundle/readme.py",  # examples in a README
        "skd_edge/pipeline/console.py",  # rich's live display, through `escape_name`
        "skd_edge/__init__.py",  # an example in a docstring
    }
    sources = [p for top in ("skd_edge", "bench/skd_bench", "export") for p in (root / top).rglob("*.py")]
    found = {p.relative_to(root).as_posix() for p in sources if printing.search(p.read_text(encoding="utf-8"))}
    assert found - allowed == set()
