"""Labels, rules and models vote together; pseudo-labels retain trusted labels; known class shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_edge.data.csv_files import write_sheet
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.data.sources.registry import list_clips
from skd_edge.labels.cleaning.pseudo_labels import estimate_pseudo_labels
from skd_edge.labels.dataset import load_training_data
from skd_edge.labels.sources.annotators import add_annotators, resolve_class_prior
from skd_edge.recipe.labels import LabelSettings

CLASSES = ("blink", "grow", "spin_cw")
RULES = [{"label": c, "any": [c.replace("_", " ")], "within": ["title"]} for c in CLASSES]


def test_label_rules_and_a_table_vote_together(videos, cache, recipe, tmp_path):
    table = [
        ["clip", *CLASSES],
        *([f"{i}.mp4", *("0.8" if c == i % 3 else "0.1" for c in range(3))] for i in range(12)),
    ]
    table[3][1:] = ["", "", ""]  # clip 2 has no prediction
    table[5][1:] = ["0.34", "0.33", "0.33"]  # the model abstains on clip 4: 0.34 is below at_least
    write_sheet(tmp_path / "p.csv", table[0], table[1:])
    loaded = recipe(videos, rules=RULES, models=[{"name": "zoo", "table": tmp_path / "p.csv", "at_least": 0.5}])
    data = load_training_data(loaded, cache)
    assert data.votes.annotators == ("label", "rules", "zoo")
    for name, (label, rules, zoo) in zip(data.clips.train.names, data.votes.given.tolist(), strict=True):
        i = int(name.split(".")[0])
        assert label == ((i + 1) % 3 if i % 5 == 0 else i % 3)
        assert rules == (i % 3 if i % 2 else -1)
        assert zoo == (i % 3 if i < 12 and i not in (2, 4) else -1)
    truth = np.array([int(n.split(".")[0]) % 3 for n in data.clips.train.names])
    alone = load_training_data(recipe(videos), cache)
    assert (data.weak_labels == truth).mean() > (alone.weak_labels == truth).mean()
    assert data.weak_hash != alone.weak_hash


@pytest.mark.parametrize("how", ["windows", "spans", "utf-16", "parquet"])
def test_rules_find_the_texts_of_a_table_however_it_is_written(recipe, tmp_path, how):
    header = ["path", "label", "title", "split", "start"]
    rows = []
    for i in range(12):
        name, split = CLASSES[i % 3], ("train", "train", "val", "test")[i // 3]
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{i}.mp4").touch()
        path = f"{name}{chr(92) if how == 'windows' else '/'}{i}.mp4"
        rows.append([path, name, f"a {name.replace('_', ' ')} film", split, "0.5" if how == "spans" else ""])
    file = tmp_path / ("index.parquet" if how == "parquet" else "index.csv")
    if how == "parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
        write_table(arrow.table(columns), file)
    else:
        text = "".join(",".join(row) + "\n" for row in [header, *rows])
        file.write_text(text, encoding="utf-16" if how == "utf-16" else "utf-8")
    loaded = recipe(tmp_path, rules=RULES)
    data = loaded.data.model_copy(update={"file": Path(file.name), "start": "start"})
    loaded = loaded.model_copy(update={"data": data})
    listing = list_clips(data, seed=0, cache=tmp_path, external_labels=True)
    voted = add_annotators(listing, loaded, inference_preprocessing(loaded.clip), tmp_path)
    assert voted.annotators == ("label", "rules")
    assert [e.votes for e in voted.entries if e.split == "train"] == [(c, c) for c in CLASSES * 2]


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_damaged_votes_of_a_model_are_named_and_computed_again(videos, recipe, model, tmp_path, caplog, how):
    loaded = recipe(videos, rules=RULES, models=[{"name": "net", "onnx": model}])
    votes = load_training_data(loaded, tmp_path).votes.given
    (file,) = (tmp_path / "voters").iterdir()
    whole = file.read_bytes()
    damaged = {"flip": whole.replace(b"spin_cw", b"blink", 1), "cut": whole[: len(whole) // 2], "empty": b""}[how]
    file.write_bytes(damaged)
    assert np.array_equal(load_training_data(loaded, tmp_path).votes.given, votes)
    assert f"{file} is damaged: expected " in caplog.text
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"rules": [{"label": "grwo", "any": ["x"]}]}, "did you mean 'grow'"),
        ({"rules": [{"label": "grow", "any": ["x"], "within": ["tags"]}]}, "no column 'tags'"),
        ({"rules": [{"label": "grow", "any": ["x"], "voter": "label"}]}, "two annotators are named 'label'"),
        ({"models": [{"name": "m", "onnx": "nowhere.onnx"}]}, "does not exist"),
        ({"prior": {"grow": 1.0}, "rules": RULES}, "no share for class 'blink'"),
    ],
)
def test_errors_name_the_setting_and_the_way_out(videos, cache, recipe, labels, words):
    with pytest.raises(UserError, match=words):
        load_training_data(recipe(videos, **labels), cache)


@pytest.mark.parametrize("method", ["neighbours", "mixture", "soft"])
def test_pseudo_labels_retain_trusted_labels(method):
    rng = np.random.default_rng(0)
    n, classes = 300, 4
    truth = rng.integers(0, classes, n)
    weak = np.where(rng.random(n) < 0.3, (truth + 1) % classes, truth)
    q = np.full((n, classes), 0.05, np.float32)
    q[np.arange(n), truth] = 0.85
    features = (np.eye(classes)[truth] + 0.1 * rng.normal(size=(n, classes))).astype(np.float32)
    trusted = rng.random(n) < 0.3  # also labels that contradict network and neighbours
    pseudo = estimate_pseudo_labels(weak, q, features, LabelSettings(method=method), trusted)
    assert np.array_equal(pseudo.hard[trusted], weak[trusted])
    assert (pseudo.targets.max(1)[trusted] == 1).all()
    assert set(pseudo.why[trusted]) == {"trusted"}
    untrusted = estimate_pseudo_labels(weak, q, features, LabelSettings(method=method), np.zeros(n, bool))
    assert np.array_equal(
        untrusted.targets, estimate_pseudo_labels(weak, q, features, LabelSettings(method=method)).targets
    )


def test_known_class_shares_are_scaled_to_sum_1():
    assert resolve_class_prior(LabelSettings(prior={"b": 3, "a": 1}), ("a", "b")).tolist() == [0.25, 0.75]
    assert resolve_class_prior(LabelSettings(), ("a", "b")) is None
