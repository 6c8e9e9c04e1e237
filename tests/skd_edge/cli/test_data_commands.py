"""``data generate``, ``data scan`` and the options of ``labels audit``."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from skd_edge.cli.main import run

SMALL = ["--train", "20", "--val", "10", "--test", "10", "--frames", "4", "--size", "16"]


@pytest.fixture
def generated(tmp_path, capsys) -> Path:
    """A folder that ``data generate`` filled with 40 clips."""
    assert run(["data", "generate", "--out", str(tmp_path / "clips"), *SMALL, "--seed", "3"]) == 0
    assert str(tmp_path / "clips") in capsys.readouterr().out
    return tmp_path / "clips"


def test_generated_clips_depend_on_the_seed_only(generated, tmp_path):
    videos = sorted(p.relative_to(generated) for p in generated.rglob("*.mp4"))
    assert len(videos) == 40
    for seed, is_same in (("3", True), ("4", False)):
        again = tmp_path / seed
        assert run(["data", "generate", "--out", str(again), *SMALL, "--seed", seed]) == 0
        pairs = [(generated / name, again / name) for name in videos if (again / name).exists()]
        assert (len(pairs) == 40 and all(a.read_bytes() == b.read_bytes() for a, b in pairs)) is is_same


def test_scan_lists_the_unreadable_clips(film, tmp_path, capsys):
    for first, split in ((0, "train"), (10, "val"), (20, "test")):  # other seeds: no clip is a copy
        for name in ("spin_cw", "blink"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                film(tmp_path / split / name / f"{i}.mp4", name, seed=first + i)
    (tmp_path / "train" / "blink" / "0.mp4").write_text("this is text")
    roots = "".join(f", {key}: {folder}" for key, folder in (("val_root", "val"), ("test_root", "test")))
    (tmp_path / "r.yaml").write_text(
        f"name: r\ndata: {{kind: folder, root: train{roots}}}\nclip: {{frames: 4, size: 16}}\nstudents: [{{name: s}}]\n"
    )
    assert run(["data", "scan", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "bad.csv"), "--processes", "1"]) == 0
    assert "23 of 24 clips can be read" in capsys.readouterr().out
    with (tmp_path / "bad.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["label"], row["split"]) == ("blink", "train")
    assert row["path"].endswith("blink/0.mp4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "generate", "--out", "d", "--size", "-1"], "size"),
        (["data", "scan", "absent.yaml"], "absent.yaml"),
        (["labels", "audit", "absent.yaml"], "absent.yaml"),
        (["labels", "audit", "r.yaml", "--top", "0"], "--top"),
        (["labels", "audit", "r.yaml", "--set", "labels.no=1"], "labels.no"),
    ],
)
def test_wrong_options_make_no_folder(recipe, tmp_path, capsys, words, message):
    assert run(words) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [recipe]
