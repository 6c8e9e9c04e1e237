import json
from dataclasses import replace

import numpy as np
import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UserError
from skd_bench.inference.predict import predict
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes import find_runtime, registered_runtimes
from skd_bench.video.clip import decode_clip, normalise


def test_videos_get_classes_and_an_unreadable_one_an_error(tmp_path, bundle, video):
    dark, bright = video(tmp_path / "dunkel ü 1.mp4", 20), video(tmp_path / "bright.mp4", 240)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    got = json.loads(json.dumps(predict(bundle, [dark, text, bright, "missing.mp4"], top=2)))
    assert [entry["video"] for entry in got] == [str(dark), str(text), str(bright), "missing.mp4"]
    assert got[0]["top"][0][0] == "dark"
    assert got[2]["top"][0][0] in ("bright", "green")
    assert str(text) in got[1]["error"]
    assert "no such file" in got[3]["error"]
    assert "top" not in got[1]
    for entry in (got[0], got[2]):
        assert len(entry["top"]) == 2
        assert entry["top"][0][1] >= entry["top"][1][1]
        assert entry["milliseconds"].keys() == {"decode", "preprocess", "infer"}
        assert min(entry["milliseconds"].values()) > 0


def test_probabilities_are_those_of_the_network_on_the_decoded_clip(tmp_path, bundle, video):
    path = video(tmp_path / "v.mp4", 90)
    manifest = Manifest.load(bundle)
    clip = normalise(decode_clip(path, manifest.sampling, manifest.preprocess)[np.newaxis], manifest.preprocess)
    session = find_runtime("ort").load(bundle / manifest.default, threads=1)
    want = dict(zip(manifest.classes, softmax(session.run(clip))[0], strict=True))
    [entry] = predict(bundle, [path], top=10)
    assert dict(entry["top"]) == pytest.approx(want)


def test_another_artefact_can_be_chosen(tmp_path, bundle, video):
    path = video(tmp_path / "v.mp4", 90)
    assert predict(bundle, [path], artefact="artefacts/other.onnx")[0]["top"]
    with pytest.raises(UserError, match=r"no artefact 'x\.onnx'"):
        predict(bundle, [path], artefact="x.onnx")


def test_a_changed_or_missing_artefact_is_not_run(bundle):
    path = bundle / "artefacts" / "fp32.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="its sha256 differs"):
        predict(bundle, [])
    path.unlink()
    with pytest.raises(UserError, match="cannot read"):
        predict(bundle, [])


def test_a_manifest_that_does_not_match_its_network_is_refused(bundle):
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    data["sampling"]["frames"] = 8
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"the manifest says float32 \(batch, 3, 8, 16, 16\)"):
        predict(bundle, [])
    data["sampling"]["frames"] = 4
    data["classes"].append("fourth")
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="3 classes, but the manifest has 4"):
        predict(bundle, [])


def test_no_videos_give_an_empty_list_and_top_0_is_refused(bundle):
    assert predict(bundle, []) == []
    with pytest.raises(UserError, match="top must be at least 1"):
        predict(bundle, [], top=0)


def test_a_folder_that_is_not_a_bundle_is_refused(tmp_path):
    with pytest.raises(UserError, match="no bundle found"):
        predict(tmp_path, [])


def test_a_bundle_for_openvino_gives_the_same_probabilities(bundle, tmp_path, video):
    if reason := registered_runtimes()["openvino"].why_unavailable():
        pytest.skip(f"not installed is openvino here: {reason}")
    path = video(tmp_path / "v.mp4", 200)
    [before] = predict(bundle, [path])
    manifest = Manifest.load(bundle)
    rows = [replace(artefact, runtime="openvino") for artefact in manifest.artefacts]
    replace(manifest, artefacts=rows).save(bundle)
    [after] = predict(bundle, [path])
    assert dict(after["top"]) == pytest.approx(dict(before["top"]), abs=1e-5)


def test_the_confidence_is_calibrated_and_the_classes_stay(tmp_path, bundle, video):
    path, manifest = video(tmp_path / "v.mp4", 90), Manifest.load(bundle)
    [before] = predict(bundle, [path])
    assert "confidence" not in before
    sure = [replace(a, options={"temperature": 4.0}) for a in manifest.artefacts]
    replace(manifest, artefacts=sure).save(bundle)
    [after] = predict(bundle, [path])
    assert after["top"] == before["top"]
    shares = np.array([share for _, share in before["top"]])
    flat = shares ** (1 / 4)
    assert after["confidence"] == pytest.approx(flat.max() / flat.sum())
    wrong = [replace(a, options={"temperature": -1}) for a in manifest.artefacts]
    replace(manifest, artefacts=wrong).save(bundle)
    with pytest.raises(UserError, match="temperature is -1"):
        predict(bundle, [path])
