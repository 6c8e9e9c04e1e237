"""Files of logits: reading, matching of classes, and invalid files."""

from __future__ import annotations

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.models.external.logits_file import read_logits_file

CLIPS, CLASSES = np.array(["a/1.mp4", "b/2.mp4", "c/3.mp4"]), np.array(["run", "Jump_high"])
LOGITS = np.array([[1.0, 2.0], [0.5, -0.5], [3.0, 0.0]])


def test_rows_by_clip_and_columns_by_class(tmp_path):
    np.savez(tmp_path / "t.npz", clips=CLIPS, logits=LOGITS, classes=CLASSES)
    table = read_logits_file(tmp_path / "t.npz")
    assert table.logits_for(("c/3.mp4", "a/1.mp4"), ("jump high", "run")).tolist() == [[0.0, 3.0], [2.0, 1.0]]
    assert read_logits_file(tmp_path / "t.npz", ("x", "y")).logits_for(("a/1.mp4",), ("y", "x")).tolist() == [
        [2.0, 1.0]
    ]
    np.savez(tmp_path / "bare.npz", clips=CLIPS, logits=LOGITS)
    assert read_logits_file(tmp_path / "bare.npz").logits_for(("b/2.mp4",), ("any", "two")).tolist() == [[0.5, -0.5]]


def test_probabilities_become_logits(tmp_path):
    p = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], np.float16)
    np.savez(tmp_path / "t.npz", clips=CLIPS, probabilities=p)
    logits = read_logits_file(tmp_path / "t.npz").logits_for(tuple(CLIPS), ("a", "b"))
    e = np.exp(logits)
    assert np.allclose(e / e.sum(1, keepdims=True), p, atol=1e-3)
    assert np.isfinite(logits).all()


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"run": LOGITS[:, 0], "clip": CLIPS, "Jump_high": LOGITS[:, 1]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert read_logits_file(tmp_path / "t.parquet").logits_for(("c/3.mp4",), ("jump high", "run")).tolist() == [
        [0.0, 3.0]
    ]
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        read_logits_file(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"clips": CLIPS}, "it must contain 'clips'"),
        ({"clips": CLIPS[:2], "logits": LOGITS}, "one row for each clip"),
        ({"clips": CLIPS[[0, 0, 1]], "logits": LOGITS}, "names the clip a/1.mp4 twice"),
        ({"clips": CLIPS, "logits": LOGITS * [[1, np.nan]]}, "value for a/1.mp4 that is not a finite number"),
        ({"clips": CLIPS, "probabilities": LOGITS}, "do not sum to 1"),
        ({"clips": CLIPS, "logits": LOGITS, "classes": CLASSES[:1]}, "2 columns, but 1 class names"),
        ({"clips": np.array([{"a": 1}] * 3, dtype=object), "logits": LOGITS}, "cannot be read as .npz"),
    ],
)
def test_invalid_files_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_logits_file(tmp_path / "t.npz")


def test_unknown_clips_and_classes_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", clips=CLIPS, logits=LOGITS)
    table = read_logits_file(tmp_path / "t.npz")
    with pytest.raises(
        UserError, match=r"has no row for 1 of 2 clips \(first: d/4.mp4\).*first name in the file is a/1.mp4"
    ):
        table.logits_for(("a/1.mp4", "d/4.mp4"), ("x", "y"))
    with pytest.raises(UserError, match="has 2 classes, but the dataset has 3"):
        table.logits_for(("a/1.mp4",), ("x", "y", "z"))
    for name in ("text.npz", "gone.npz"):
        (tmp_path / "text.npz").write_text("no archive")
        with pytest.raises(UserError, match="cannot be read"):
            read_logits_file(tmp_path / name)
