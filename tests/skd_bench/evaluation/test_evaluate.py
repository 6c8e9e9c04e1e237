import csv
import json

import pytest

from skd_bench.errors import UserError
from skd_bench.evaluation.evaluate import evaluate
from skd_bench.evaluation.labelled_videos import load_labelled_videos
from skd_bench.text_tables import format_accuracy_table

# "bright" and "green" share their logit on greys: which of them is answered is not asked.
GREYS = {"dark": (20, 40, 60, 240), "bright": (10,)}


@pytest.fixture
def clips(tmp_path, video):
    """Real videos in a folder for each class; the last dark one is bright, and the bright one dark."""
    root = tmp_path / "clips"
    for name, greys in GREYS.items():
        (root / name).mkdir(parents=True)
        for grey in greys:
            video(root / name / f"{grey}.mp4", grey)
    return root


def test_every_file_is_scored_at_the_protocol_and_with_more_views(bundle, clips):
    (clips / "dark" / "broken.mp4").write_text("no video")
    seen = []
    got = json.loads(
        json.dumps(
            evaluate(bundle, clips, views=(1, 3), reject=0.5, named=["dark"], progress=lambda *p: seen.append(p)),
            allow_nan=False,
        )
    )
    assert got["videos"] == 5
    assert [u["path"] for u in got["unreadable"]] == [str(clips / "dark" / "broken.mp4")]
    assert seen[-1] == (6, 6)
    assert [(r["file"], r["views"]) for r in got["rows"]] == [
        (f, v) for v in (1, 3) for f in ("artefacts/fp32.onnx", "artefacts/other.onnx")
    ]
    one, _, three, _ = got["rows"]
    assert one["accuracy"]["top1"]["value"] == pytest.approx(3 / 5)
    assert three["accuracy"]["top1"]["value"] == pytest.approx(3 / 5)
    assert one["default"]
    assert one["against_one_view"] is None
    assert three["against_one_view"]["agreement"] == 1
    assert three["against_one_view"]["mcnemar"] == 1
    assert [r["class"] for r in one["rejecting"]["recall"]] == ["dark"]
    assert one["rejecting"]["recall"][0]["recall"] == 0.75
    assert one["rejecting"]["recall"][0]["false_reports"] == 1
    assert min(one["cost"].values()) > 0
    said = format_accuracy_table(got)
    assert "60.0%" in said
    assert "3 views against one view: +0.0 points" in said
    assert "broken.mp4" in said


def test_the_precisions_of_one_network_are_compared_with_fp32(bundle, clips):
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    data["artefacts"][1]["precision"] = "int8"
    path.write_text(json.dumps(data))
    fp32, int8 = evaluate(bundle, clips)["rows"]
    assert fp32["against_fp32"] is None
    assert int8["against_fp32"]["agreement"] == 1
    assert int8["against_fp32"]["n"] == 5


def test_labels_come_from_folders_or_a_table(tmp_path, clips):
    found = load_labelled_videos(clips, ["bright", "dark"])
    assert [v.label for v in found] == [0] + [1] * 4
    assert len({v.group for v in found}) == 5
    with (tmp_path / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group"), ("clips/dark/20.mp4", "dark", "g"), ("x", "dark", "")])
    first, second = load_labelled_videos(tmp_path / "index.csv", ["bright", "dark"])
    assert (first.label, first.group, first.path) == (1, "g", tmp_path / "clips/dark/20.mp4")
    assert second.group == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [("path\na.mp4\n", "needs the columns"), ("", "no labelled video"), ("path,label\na.mp4,cat\n", "label 'cat'")],
)
def test_a_table_that_says_nothing_is_refused(tmp_path, text, said):
    table = tmp_path / "index.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=said):
        load_labelled_videos(table, ["dark"])


def test_what_cannot_be_scored_is_refused(tmp_path, bundle, clips):
    with pytest.raises(UserError, match="cannot read"):
        evaluate(bundle, tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="no class 'cat'"):
        evaluate(bundle, clips, reject=0.5, named=["cat"])
    for path in clips.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no video of"):
        evaluate(bundle, clips)
