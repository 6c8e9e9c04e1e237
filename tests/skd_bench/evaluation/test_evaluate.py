import json

import pytest

from skd_bench.errors import UserError
from skd_bench.evaluation.evaluate import EvaluationSettings, evaluate
from skd_bench.text_tables import format_accuracy_table


def test_every_file_is_evaluated_with_one_view_and_with_several(bundle, clips):
    (clips / "dark" / "broken.mp4").write_text("no video")
    progress = []
    got = json.loads(
        json.dumps(
            evaluate(bundle, clips, EvaluationSettings((1, 3), 0.5, ["dark"]), progress=lambda *p: progress.append(p)),
            allow_nan=False,
        )
    )
    assert got["videos"] == 5
    assert [u["path"] for u in got["unreadable"]] == [str(clips / "dark" / "broken.mp4")]
    assert progress[-1] == (6, 6)
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
    text = format_accuracy_table(got)
    assert "60.0%" in text
    assert "3 views against one view: +0.0 points" in text
    assert "broken.mp4" in text


def test_the_precisions_of_one_network_are_compared_with_fp32(bundle, clips):
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    data["artefacts"][1]["precision"] = "int8"
    path.write_text(json.dumps(data))
    fp32, int8 = evaluate(bundle, clips)["rows"]
    assert fp32["against_fp32"] is None
    assert int8["against_fp32"]["agreement"] == 1
    assert int8["against_fp32"]["n"] == 5


def test_missing_videos_and_unknown_classes_are_refused(tmp_path, bundle, clips):
    with pytest.raises(UserError, match="does not exist"):
        evaluate(bundle, tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="unknown class 'cat'"):
        evaluate(bundle, clips, EvaluationSettings(reject=0.5, named=["cat"]))
    for path in clips.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no video in"):
        evaluate(bundle, clips)
