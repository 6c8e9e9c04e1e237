"""Every tenth cell of the differential suite; bench/suites/robustness/decode_matrix.py compares all."""

from __future__ import annotations

import json

import pytest

from bench.suites.robustness import decode_matrix
from bench.suites.robustness.decode_matrix import CODECS, ODDITIES, list_cells


def test_a_tenth_of_the_cells_is_equal_or_refused_for_a_true_reason():
    found = decode_matrix.run(list_cells()[::10])
    assert found["wrong"] == {}
    assert found["cells"] > 65
    assert found["equal"] > 0.9 * found["cells"]
    assert found["only_fast_way"] > found["cells"] / 3


def test_every_pair_of_codec_container_and_oddity_that_fits_is_a_cell():
    cells = list_cells()
    assert len(set(cells)) == len(cells) > 900
    assert {cell.codec for cell in cells} == set(CODECS)
    assert {cell.oddity for cell in cells} == set(ODDITIES)


@pytest.mark.parametrize("name", ["h264, ts, clock jumps forward", "h264, mp4, hflip"])
def test_a_wrong_decoder_is_noticed(tmp_path, monkeypatch, name):
    cell = next(cell for cell in list_cells() if cell.name == name)
    assert decode_matrix.compare_cell(cell, tmp_path) == "equal"
    real = decode_matrix.decode_clip
    monkeypatch.setattr(decode_matrix, "decode_clip", lambda *how: real(*how)[::-1])
    assert decode_matrix.compare_cell(cell, tmp_path).startswith("wrong")


def test_the_page_states_the_stored_results(root):
    found = json.loads(decode_matrix.RESULTS.read_text(encoding="utf-8"))
    page = " ".join((root / "docs/data.md").read_text(encoding="utf-8").split())
    assert found["wrong"] == {}
    assert found["cells"] >= 500
    counts = [len(found[axis]) for axis in ("codecs", "containers", "oddities")]
    assert f"compares {found['cells']} cells ({counts[0]} codecs in {counts[1]} containers with {counts[2]} " in page
    assert f"{found['equal']} are equal, {len(found['refused'])} refused with the true reason, none is wrong" in page
