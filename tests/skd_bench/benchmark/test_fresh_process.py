"""A job in a process of its own: what it imports, which GPU it sees, and how it fails."""

import pytest

from skd_bench.benchmark.fresh_process import run_worker
from skd_bench.errors import UserError

WORKER = """
import json, os, random, sys
job = json.load(open(sys.argv[1]))
if job.get("fail"):
    sys.exit("the reason")
if job.get("kill"):
    os.kill(os.getpid(), 9)
json.dump({k: os.environ.get(k) for k in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}, open(sys.argv[2], "w"))
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A module `some_worker`, and a current folder whose random.py must not be imported."""
    (tmp_path / "some_worker.py").write_text(WORKER)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "random.py").write_text("raise SystemExit('the wrong random')")
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return {"worker": "some_worker", "import_path": [str(tmp_path)]}


def test_a_worker_sees_one_gpu_or_those_of_this_process(worker):
    assert run_worker(worker["worker"], {}, import_path=worker["import_path"]) == {
        "CUDA_VISIBLE_DEVICES": None,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # "the first GPU" is nvidia-smi's, not the fastest
    }
    seen = run_worker(worker["worker"], {}, gpu="GPU-12ab", import_path=worker["import_path"])
    assert seen == {"CUDA_VISIBLE_DEVICES": "GPU-12ab", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(("job", "why"), [({"fail": 1}, "^the reason$"), ({"kill": 1}, "killed by signal 9")])
def test_a_worker_that_fails_is_one_sentence(worker, job, why):
    with pytest.raises(UserError, match=why):
        run_worker(worker["worker"], job, import_path=worker["import_path"])


def test_a_relative_import_path_of_the_user_still_counts(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own_worker.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert "CUDA_VISIBLE_DEVICES" in run_worker("own_worker", {})
