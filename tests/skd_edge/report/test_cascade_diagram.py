"""The cascade diagram: the tree of jobs, its two layouts, and the controls."""

from __future__ import annotations

from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

from skd_edge.report import cascade_diagram as cascade
from skd_edge.report.schema import JobReport, RunReport, parse_report


def report_of(*paths: list[str]) -> RunReport:
    return parse_report(
        {"schema": 1, "name": "n", "jobs": [{"learner": p[-1], "path": p, "job": "-".join(p)} for p in paths]}
    )


def test_the_sample_is_one_tree_with_the_chosen_path_marked(sample: ModuleType) -> None:
    result = parse_report(sample.full_result())
    drawing = cascade.build_wide_diagram(result)
    assert drawing
    assert len(drawing.boxes) == 8
    assert [b.title for b in drawing.boxes if b.on_path] == ["teacher", "assistant", "wide"]
    assert {b.state for b in drawing.boxes} == {"cached", "trained", "pruned"}
    assert [b.gain for b in drawing.boxes if b.on_path] == ["", "+4.3 pts", "+6.6 pts"]
    assert [c.how for c in cascade.list_controls(result)][1:] == ["alone, on the weak labels", "plain KD from teacher"]


def test_a_teacher_without_a_job_gets_a_box() -> None:
    drawing = cascade.build_wide_diagram(report_of(["teacher", "a", "s"], ["teacher", "s"]))
    assert drawing
    assert sorted((b.title, b.state) for b in drawing.boxes) == [
        ("a", "given"),
        ("s", "trained"),
        ("s", "trained"),
        ("teacher", "given"),
    ]


def test_the_parent_is_the_job_of_the_teacher() -> None:
    jobs = [
        {"learner": "t", "path": ["t"], "job": "one"},
        {"learner": "t", "path": ["t"], "job": "two"},
        {"learner": "s", "path": ["t", "s"], "job": "three", "teacher": "two"},
    ]
    roots = cascade.build_job_tree([JobReport.model_validate(job) for job in jobs])
    assert [len(root.children) for root in roots] == [0, 1]


def test_without_jobs_there_is_no_diagram(sample: ModuleType) -> None:
    result = parse_report(sample.minimal_result())
    assert cascade.build_wide_diagram(result) is None
    assert cascade.build_narrow_diagram(result) is None
    assert cascade.list_controls(result) == []


names = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4)


@given(st.lists(names, min_size=1, max_size=9))
def test_boxes_are_inside_the_diagram_and_do_not_overlap(paths: list[list[str]]) -> None:
    for drawing in (cascade.build_wide_diagram(report_of(*paths)), cascade.build_narrow_diagram(report_of(*paths))):
        assert drawing
        assert len(drawing.boxes) >= len(paths)
        for i, a in enumerate(drawing.boxes):
            assert a.x >= 0
            assert a.y >= 0
            assert a.x + a.width <= drawing.width
            assert a.y + a.height <= drawing.height
            assert all(
                a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
                for b in drawing.boxes[:i]
            )


def test_sparkline_needs_two_epochs() -> None:
    job = JobReport.model_validate(
        {"learner": "s", "curve": [{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": None}]}
    )
    assert cascade.format_sparkline_points(job) == ""
    job = JobReport.model_validate(
        {"learner": "s", "curve": [{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.9}]}
    )
    assert cascade.format_sparkline_points(job) == "2.0,20.0 94.0,2.0"
