"""Operator profiles on the HTML page: operators with their share of the time, layers in FP32, energy."""

import re

from skd_edge.report.html import render_html


def row(**more):
    profile = [
        {"op": "QLinearConv", "ran": "int8", "nodes": 7, "share": 0.62},
        {"op": "<b>Conv", "ran": "fp32", "nodes": 1, "share": 0.2},
    ]
    return {"name": "big>small int8", "precision": "int8", "operators": {"Conv": 1}, "fates": profile, **more}


def test_the_page_shows_operators_and_layers_in_fp32():
    page = render_html({"schema": 1, "name": "n", "candidates": [row(left_out=["node_<Conv_1"])]})
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"QLinearConv\s+int8\s+7\s+62", text)
    assert "1 layer in FP32: node_&lt;Conv_1" in page
    assert "&lt;b&gt;Conv" in page
    assert "<b>Conv" not in page


def test_a_candidate_without_a_profile_has_no_table():
    page = render_html({"schema": 1, "name": "n", "candidates": [row(fates=None)]})
    assert "ran as" not in page


def test_each_runtime_has_its_own_table():
    rows = [row(runtime="openvino", name="a int8 on openvino"), row(runtime="ort", name="a int8 on ort")]
    page = render_html({"schema": 1, "name": "n", "candidates": rows})
    heads = [page.index(f"<h3>{name}</h3>") for name in ("ONNX Runtime", "OpenVINO")]
    assert heads == sorted(heads)
    assert (
        page.index("operator profile of a int8 on ort")
        < heads[1]
        < page.index("operator profile of a int8 on openvino")
    )
    assert "<h3>ONNX Runtime</h3>" not in render_html({"schema": 1, "name": "n", "candidates": rows[1:]})


def test_there_is_a_column_for_energy_if_it_was_measured():
    page = render_html({"schema": 1, "name": "n", "candidates": [row(joules_per_clip=0.0213)]})
    assert "Joules<br>a clip" in page
    assert '<td class="n">0.021</td>' in page
    assert "Joules" not in render_html({"schema": 1, "name": "n", "candidates": [row()]})
