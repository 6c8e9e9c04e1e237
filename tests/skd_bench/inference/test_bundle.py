"""A bundle as an object gives what the functions behind it give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skd_bench.bundle.manifest import Manifest
from skd_bench.errors import UserError
from skd_bench.inference.bundle import Bundle
from skd_bench.inference.predict import predict


def test_it_predicts_what_predict_predicts(tmp_path, bundle, video):
    dark, missing = video(tmp_path / "dark.mp4", 20), tmp_path / "missing.mp4"
    opened = Bundle(bundle)
    assert opened.classes == ("dark", "bright", "green")
    assert repr(opened) == f"Bundle({str(bundle)!r})"
    first, second = opened.predict([dark, missing], top=2)
    assert first.top == tuple(predict(bundle, [dark], top=2)[0]["top"])
    assert first.video == str(dark)
    assert first.answer == first.top[0][0] == "dark"
    assert first.error is None
    assert set(first.milliseconds) == {"decode", "preprocess", "infer"}
    assert "no such file" in second.error
    assert (second.top, second.answer, second.milliseconds) == ((), None, {})
    with pytest.raises(UserError, match="top must be at least 1"):
        opened.predict([dark], top=0)


def test_an_answer_below_the_threshold_is_the_background_or_none(tmp_path, bundle, video):
    manifest = Manifest.load(bundle)
    for background in ("green", None):
        options = {"reject": {"threshold": 1.0, "background": background}}
        replace(manifest, artefacts=[replace(a, options=options) for a in manifest.artefacts]).save(bundle)
        [prediction] = Bundle(bundle).predict([video(tmp_path / "v.mp4", 90)])
        assert prediction.answer == background
        assert prediction.top


def test_opening_checks_the_manifest_and_verify_every_file(tmp_path, bundle):
    with pytest.raises(UserError, match="no bundle found"):
        Bundle(tmp_path / "none")
    opened = Bundle(bundle)
    assert opened.verify() == []
    (bundle / opened.manifest.default).write_bytes(b"other")
    assert len(opened.verify()) == 1
    with pytest.raises(UserError, match="its sha256 differs"):
        opened.predict([])
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="malformed"):
        Bundle(bundle)
