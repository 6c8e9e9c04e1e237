"""Result objects as aligned text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.metrics.accuracy import compute_accuracy
from skd_bench.text_tables import align_columns, format_accuracy_table, format_analysis_table, format_benchmark_table

LATENCY = {
    "p50_ms": 1.234,
    "p50_interval": [1.0, 2.0],
    "p90_ms": 123.4,
    "p99_ms": None,
    "n": 80,
    "load_ms": 5.0,
    "first_ms": 2.0,
    "peak_mb": None,
}
ARTEFACT = {
    "name": "artefacts/a.onnx",
    "default": True,
    "latency": LATENCY,
    "bytes": 12_345,
    "energy": {"reason": "not measurable here: no counter"},
}
BENCHMARK = {
    "name": "tiny",
    "device": {"cpu": "a processor"},
    "device_id": "0123456789ab",
    "contract": {"frames": 4, "height": 16, "width": 24},
    "threads": 1,
    "artefacts": [ARTEFACT],
    "not_run": [{"name": "b.onnx", "reason": "it is not installed"}],
    "clips": None,
    "notes": ["the machine was busy"],
}


@given(st.lists(st.lists(st.text("abc", max_size=9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_cells_of_a_column_end_or_begin_at_the_same_place(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row, line in zip(rows, align_columns(rows), strict=True):
        padded = line.ljust(sum(widths) + 4)
        assert padded[: widths[0]] == row[0].ljust(widths[0])
        assert padded.endswith(row[2].rjust(widths[2]))


def test_unknown_numbers_of_a_benchmark_are_not_guessed():
    text = format_benchmark_table(BENCHMARK)
    row = next(line for line in text.splitlines() if line.startswith("* artefacts/a.onnx"))
    assert row.split()[2:] == ["1.23", "[1,", "2]", "123", "n/a", "80", "5", "2", "n/a", "12.3", "n/a"]
    assert "4 frames, 16x24, 1 thread;" in text
    assert "not run: b.onnx: it is not installed" in text
    assert "energy: not measurable here: no counter" in text
    assert "note: the machine was busy" in text
    assert "2 threads;" in format_benchmark_table({**BENCHMARK, "threads": 2})


def test_a_bound_without_a_batch_size_has_its_reason():
    bound = {"bound_ms": 3.0, "metric": "p90_ms", "batch": None, "clips_per_second": None, "reason": "too slow"}
    artefact = {**ARTEFACT, "bound": bound}
    text = format_benchmark_table({**BENCHMARK, "artefacts": [artefact]})
    assert "artefacts/a.onnx: within p90_ms <= 3: no batch size: too slow" in text
    artefact["bound"] = bound | {"batch": 8, "clips_per_second": 1234.5}
    text = format_benchmark_table({**BENCHMARK, "artefacts": [artefact]})
    assert "artefacts/a.onnx: within p90_ms <= 3: 1234 clips/s with batch 8" in text


def test_only_the_first_events_of_a_video_are_printed():
    event = {"start": 0.5, "end": 2.0, "class": "dark", "probability": 0.75}
    video = {
        "video": "v.mp4",
        "seconds": 10.0,
        "answers": 3,
        "real_time_factor": 0.25,
        "shares": {"decode": 0.5},
        "answer_ms": 1.5,
        "events": [event] * 23,
    }
    result = {
        "name": "tiny",
        "file": "a.onnx",
        "device": {"cpu": "a processor"},
        "total": {"stages": {"decode": 1.0, "infer": 1.0}},
        "videos": [video, {"video": "bad.mp4", "error": "bad.mp4 cannot be read"}],
        "alarms": None,
    }
    lines = format_analysis_table(result).splitlines()
    assert "v.mp4: 23 events" in lines
    assert lines.count("      0.50 to     2.00 s  dark  75.0%") == 20
    assert "  and 3 more (--json prints all)" in lines
    assert lines[-1] == "bad.mp4 cannot be read"


def test_rejected_clips_and_unreadable_files_of_an_evaluation_are_printed():
    row = {
        "file": "a.onnx",
        "views": 1,
        "default": True,
        "accuracy": {"top1": {"value": 0.5, "low": 0.25, "high": 0.75}, "macro_f1": 0.5, "ece": 0.125, "per_class": []},
        "cost": {"decode_ms": 2.0, "infer_ms": 1.0},
        "against_fp32": None,
        "against_one_view": {"difference": -0.01, "difference_interval": [-0.02, 0.03], "mcnemar": 0.5},
        "rejecting": {
            "threshold": 0.5,
            "answered": 0.0,
            "right": None,
            "recall": [{"class": "dark", "support": 0, "recall": None, "false_reports": 0}],
        },
    }
    result = {
        "name": "tiny",
        "videos": 8,
        "classes": ["dark"],
        "rows": [row],
        "unreadable": [{"path": "bad.mp4", "reason": "it is damaged"}],
        "not_run": {"b.onnx": "it is not installed"},
    }
    text = format_accuracy_table(result)
    assert "* a.onnx" in text
    assert "50.0% [25.0%, 75.0%]" in text
    assert "a.onnx against one view: -1.0 points [-2.0, +3.0], McNemar p = 0.5" in text
    assert "0.0% answered, n/a of these correct" in text
    assert "balanced" not in text
    assert text.endswith("not read: bad.mp4: it is damaged\nnot run: b.onnx: it is not installed")


def test_balanced_accuracy_has_a_column_where_classes_are_unequal():
    labels, logits = [0] * 8 + [1] * 2, np.eye(2)[[0] * 9 + [1]]
    row = {
        "file": "a.onnx",
        "views": 1,
        "default": True,
        "accuracy": compute_accuracy(logits, labels, ["dark", "light"]).to_json(),
        "cost": {"decode_ms": 2.0, "infer_ms": 1.0},
        "against_fp32": None,
        "against_one_view": None,
        "rejecting": None,
    }
    result = {
        "name": "tiny",
        "videos": 10,
        "classes": ["dark", "light"],
        "rows": [row],
        "unreadable": [],
        "not_run": {},
    }
    head, line = format_accuracy_table(result).splitlines()[2:4]
    assert head.split("[95 %]")[1].strip() == "balanced"
    assert "90.0% [" in line
    assert "75.0% [" in line
