"""The program of worker processes: a result or one line, and no worker outlives the process that started it."""

import json

import pytest

from skd_bench.benchmark.worker_program import run_worker_program
from skd_bench.errors import UserError


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "job.json").write_text('{"number": 20}')
    return [str(tmp_path / "job.json"), str(tmp_path / "result.json")]


def test_the_result_is_written(paths, tmp_path):
    assert run_worker_program(lambda job: {"next": job["number"] + 1}, paths) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == {"next": 21}


def test_a_mistake_of_the_user_is_one_line_and_no_result(paths, tmp_path, capsys):
    def fail(job):
        raise UserError("the file is gone", exit_code=75)

    assert run_worker_program(fail, paths) == 75
    assert capsys.readouterr().err == "the file is gone\n"
    assert not (tmp_path / "result.json").exists()


def test_every_worker_ends_with_its_parent(root):
    """Each sets this before it works; what it does is tested in test_child_process.py."""
    programs = [p for p in (root / "bench").rglob("*.py") if "run_worker_program(" in p.read_text(encoding="utf-8")]
    workers = [p for p in programs if p.name != "worker_program.py"]
    assert len(workers) >= 4
    for worker in workers:
        program = worker.read_text(encoding="utf-8").partition('if __name__ == "__main__":\n')[2]
        assert program.startswith("    end_with_parent()\n"), worker
