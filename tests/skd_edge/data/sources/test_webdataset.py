"""WebDataset shards: the same samples as webdataset reads, and errors that name shard and sample."""

from __future__ import annotations

import pytest

from skd_bench.errors import UserError
from skd_edge.data.sources.registry import list_clips
from skd_edge.recipe.data import ShardData


def test_shards_that_are_wrong(tmp_path):
    wds = pytest.importorskip("webdataset")

    def written(name, *samples):
        with wds.TarWriter(str(tmp_path / name)) as shard:
            for i, sample in enumerate(samples):
                shard.write({"__key__": f"s{i}", **sample})

    data = ShardData(kind="webdataset", root=tmp_path, train="t.tar", val="v.tar", test="t.tar", label="json.what")
    with pytest.raises(UserError, match=r"t\.tar does not exist"):
        list_clips(data, seed=0, cache=tmp_path)
    written("t.tar", {"mp4": b"x", "json": b'{"what": "a"}'}, {"json": b"{}"})
    with pytest.raises(UserError, match=r"sample s1 has no video \(only: json\)"):
        list_clips(data, seed=0, cache=tmp_path)
    written("t.tar", {"mp4": b"x", "json": b'{"what": "a"}'}, {"mp4": b"x", "json": b"[broken"})
    with pytest.raises(UserError, match="the member 'json' cannot be read"):
        list_clips(data, seed=0, cache=tmp_path)
    written("t.tar", {"mp4": b"x", "json": b'{"what": "a"}'}, {"mp4": b"x"})
    written("v.tar", {"mp4": b"x"})
    with pytest.raises(UserError, match=r"has no 'json\.what', and it is in val"):
        list_clips(data, seed=0, cache=tmp_path)
    (tmp_path / "t.tar").write_bytes(b"\x1f\x8b no tar")
    with pytest.raises(UserError, match="a shard must be an uncompressed, complete tar file"):
        list_clips(data, seed=0, cache=tmp_path)


def test_samples_and_labels_equal_those_of_webdataset(tmp_path):
    wds = pytest.importorskip("webdataset")
    for split, labels in (("t", "aabb"), ("v", "ab"), ("e", "ab")):
        with wds.TarWriter(str(tmp_path / f"{split}.tar")) as shard:
            for i, label in enumerate(labels):
                shard.write({"__key__": f"dir/{split}{i}", "mp4": f"{split}{i}".encode() * 99, "cls": label})
    data = ShardData(kind="webdataset", root=tmp_path, train="t.tar", val="v.tar", test="e.tar", group=r"/(\w)")
    entries = list_clips(data, seed=0, cache=tmp_path).entries
    read = list(wds.WebDataset([str(tmp_path / f"{s}.tar") for s in "tve"], shardshuffle=False, empty_check=False))
    assert [(e.name.partition("/")[2].removesuffix(".mp4"), e.label) for e in entries] == [
        (sample["__key__"], sample["cls"].decode()) for sample in read
    ]
    for entry, sample in zip(entries, read, strict=True):
        raw = entry.path.read_bytes()
        assert raw[entry.span.offset :][: entry.span.size] == sample["mp4"]


def test_labels_may_be_indices_and_training_samples_unlabelled(tmp_path):
    wds = pytest.importorskip("webdataset")
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    for split, labels in (("t", ["0", "1", "0", "1", None]), ("v", ["0", "1"]), ("e", ["0", "1"])):
        with wds.TarWriter(str(tmp_path / f"{split}.tar")) as shard:
            for i, label in enumerate(labels):
                member = {} if label is None else {"cls": label}
                shard.write({"__key__": f"{split}{i}", "mp4": b"x", **member})
    data = ShardData(kind="webdataset", root=tmp_path, train="t.tar", val="v.tar", test="e.tar", classes="classes.txt")
    listing = list_clips(data, seed=0, cache=tmp_path)
    assert listing.classes == ("walk", "run")
    assert [e.label for e in listing.entries if e.split == "train"] == ["walk", "run", "walk", "run", ""]
    assert {e.name: e.label for e in listing.entries if e.split == "val"} == {
        "v.tar/v0.mp4": "walk",
        "v.tar/v1.mp4": "run",
    }


def test_a_large_member_is_not_read_as_a_label(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "t.tar")) as shard:
        shard.write({"__key__": "s0", "mp4": b"x", "cls": "a" * ((1 << 20) + 1)})
    data = ShardData(kind="webdataset", root=tmp_path, train="t.tar", val="t.tar", test="t.tar")
    with pytest.raises(UserError, match="sample s0 has no 'cls', and it is in val"):
        list_clips(data, seed=0, cache=tmp_path)
