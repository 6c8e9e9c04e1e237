"""``crossval.json`` is read as it was written, or refused with what to do."""

from __future__ import annotations

import json

import pytest

from skd_bench.errors import UserError
from skd_bench.integrity.checked_files import write_checked_json
from skd_edge.report.crossval.schema import CROSSVAL_FILE, load_crossval


def test_it_is_read_as_it_was_written(report, tmp_path):
    write_checked_json(tmp_path / CROSSVAL_FILE, report.model_dump(mode="json", by_alias=True))
    assert load_crossval(tmp_path) == report
    assert [fold.fold for fold in report.finished] == [1, 2]
    assert report.find_pooled("kd") is None
    assert report.folds[0].find_score("teacher").accuracy == 0.9


def test_what_cannot_be_read_is_refused(report, tmp_path):
    with pytest.raises(UserError, match="does not exist; run skd-edge crossval again"):
        load_crossval(tmp_path)
    content = report.model_dump(mode="json", by_alias=True)
    file = write_checked_json(tmp_path / CROSSVAL_FILE, content)
    file.write_text(file.read_text().replace("gestures", "other"))
    with pytest.raises(UserError, match="is not what skd-edge crossval wrote; run skd-edge crossval again"):
        load_crossval(tmp_path)
    write_checked_json(file, {**content, "folds": 3})
    with pytest.raises(UserError, match="is not what skd-edge crossval wrote"):
        load_crossval(tmp_path)
    write_checked_json(file, {**content, "schema": 2})
    with pytest.raises(UserError, match="written by a newer version"):
        load_crossval(tmp_path)
    assert json.loads(file.read_text())["kind"] == "crossval"
