import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from skd_bench.errors import UserError
from skd_bench.metrics.accuracy import compute_accuracy, compute_logits, softmax
from skd_bench.runtimes import find_runtime
from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing

NAMES = ["a", "b", "c", "d"]
SIZE = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def one_hot(answers) -> np.ndarray:
    return np.eye(len(NAMES), dtype=np.float32)[list(answers)] * 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_the_metrics_equal_those_of_scikit_learn(pairs):
    labels, answers = map(np.array, zip(*pairs, strict=True))
    got = compute_accuracy(one_hot(answers), labels, NAMES)
    assert got.n == len(pairs)
    assert got.top1.value == pytest.approx((labels == answers).mean())
    assert got.macro_f1.value == pytest.approx(f1_score(labels, answers, average="macro", zero_division=0))
    assert got.confusion == confusion_matrix(labels, answers, labels=range(4)).tolist()
    columns = precision_recall_fscore_support(labels, answers, labels=range(4), zero_division=0)
    for row, name, p, r, f, s in zip(got.per_class, NAMES, *columns, strict=True):
        assert row == {
            "class": name,
            "support": s,
            "precision": pytest.approx(p),
            "recall": pytest.approx(r),
            "f1": pytest.approx(f),
        }
    assert 0 <= got.ece <= 1
    json.dumps(got.to_json(), allow_nan=False)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    # Confidence is always 80 % and 6 of 10 are right: the gap is 0.2.
    sure = np.log(np.array([[0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3]])).repeat(10, axis=0)
    assert compute_accuracy(sure, [0] * 6 + [1] * 4, NAMES).ece == pytest.approx(0.2)
    certain = one_hot([0, 1, 2]) * 100
    assert compute_accuracy(certain, [0, 1, 2], NAMES).ece == pytest.approx(0)
    # Over- and underconfidence in different bins do not cancel.
    mixed = np.log(np.array([[0.9, 0.1], [0.6, 0.4]]))
    assert compute_accuracy(mixed, [1, 0], ["x", "y"]).ece == pytest.approx((0.9 + 0.4) / 2)


def test_the_reliability_diagram_covers_every_clip():
    logits = np.log(np.array([[1 - share, share] for share in (0.55, 0.55, 0.95, 0.95)]))
    got = compute_accuracy(logits, [0, 1, 1, 1], ["a", "b"])
    assert [(p["n"], round(p["confidence"], 2), p["accuracy"]) for p in got.reliability] == [
        (2, 0.55, 0.5),
        (2, 0.95, 1),
    ]
    gap = sum(p["n"] * abs(p["confidence"] - p["accuracy"]) for p in got.reliability) / 4
    assert gap == pytest.approx(got.ece)


def test_groups_widen_the_interval():
    labels = np.zeros(200, int)
    answers = np.repeat(np.arange(10) % 2, 20)
    alone = compute_accuracy(one_hot(answers), labels, NAMES)
    grouped = compute_accuracy(one_hot(answers), labels, NAMES, groups=np.repeat(np.arange(10), 20).tolist())
    assert grouped.top1.high - grouped.top1.low > 2 * (alone.top1.high - alone.top1.low)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((2, 3)), [0, 1]),
        (np.zeros((3, 4)), [0, 1]),
        (np.zeros((2, 4)), [0, 4]),
        (np.zeros((2, 4)), [-1, 0]),
        (np.zeros((2, 4)), [0.0, 1.0]),
    ],
)
def test_logits_and_labels_that_do_not_match_are_refused(logits, labels):
    with pytest.raises(ValueError, match=r"logits|labels"):
        compute_accuracy(logits, labels, NAMES)


def test_no_labels_are_refused():
    with pytest.raises(UserError, match="no clip"):
        compute_accuracy(np.zeros((0, 4)), [], NAMES)


def test_softmax_survives_large_logits():
    got = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]]))
    np.testing.assert_allclose(got, [[1, 0], [0.5, 0.5]])


# -------------------------------------------------------------------------------------------------- through a runtime
def clips(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 4, 16, 16, 3), dtype=np.uint8)


def test_logits_are_in_order_for_any_batches(tmp_path, network):
    session = find_runtime("ort").load(network(tmp_path / "n.onnx"), threads=1)
    data = clips(10)
    whole = compute_logits(session, [data], SIZE)
    parts = compute_logits(session, iter([data[:3], data[3:4], data[4:]]), SIZE)
    assert whole.shape == (10, 3)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    mean = normalise(data, SIZE).mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(whole[:, 1], mean, atol=1e-4)


def test_a_network_with_a_fixed_batch_of_one_gets_single_clips(tmp_path, network):
    import onnx

    path = network(tmp_path / "n.onnx")
    free = compute_logits(find_runtime("ort").load(path, threads=1), [clips(5)], SIZE)
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    fixed = compute_logits(find_runtime("ort").load(path, threads=1), [clips(5)], SIZE)
    np.testing.assert_allclose(fixed, free, atol=1e-5)


def test_the_error_for_nan_or_infinity_gives_the_clip(tmp_path, network):
    session = find_runtime("ort").load(network(tmp_path / "n.onnx", bias=float("nan")), threads=1)
    with pytest.raises(UserError, match="clip 0 contains NaN"):
        compute_logits(session, [clips(3)], SIZE)

    class SessionWithInfinity:
        input, output = session.input, session.output

        def run(self, x):
            answer = np.zeros((len(x), 3), np.float32)
            answer[x[:, 0, 0, 0, 0] > 0.9, 1] = np.inf
            return answer

    data = np.zeros((6, 4, 16, 16, 3), np.uint8)
    data[4] = 255
    with pytest.raises(UserError, match="clip 4 "):
        compute_logits(SessionWithInfinity(), [data[:3], data[3:]], SIZE)


def test_no_clips_are_refused(tmp_path, network):
    session = find_runtime("ort").load(network(tmp_path / "n.onnx"), threads=1)
    with pytest.raises(UserError, match="no clip"):
        compute_logits(session, [], SIZE)
