"""What really ran, on the page: operators by their share of the time, and the layers that stayed in FP32."""

import re

from skd_edge.report.page import render_html


def row(**more):
    fates = [{"op": "QLinearConv", "ran": "int8", "nodes": 7, "share": 0.62},
             {"op": "<b>Conv", "ran": "fp32", "nodes": 1, "share": 0.2}]  # fmt: skip
    return {"name": "big>small int8", "precision": "int8", "operators": {"Conv": 1}, "fates": fates, **more}


def test_the_page_shows_what_ran_and_what_was_left_out():
    page = render_html({"schema": 1, "name": "n", "candidates": [row(left_out=["node_<Conv_1"])]})
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"QLinearConv\s+int8\s+7\s+62", text)
    assert "1 layers kept in FP32: node_&lt;Conv_1" in page
    assert "&lt;b&gt;Conv" in page
    assert "<b>Conv" not in page


def test_a_result_without_fates_has_no_table_of_them():
    page = render_html({"schema": 1, "name": "n", "candidates": [row(fates=None)]})
    assert "ran as" not in page
