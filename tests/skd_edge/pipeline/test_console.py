"""Progress of a run: one line for each finished step, and a live line on terminals only."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph
from skd_edge.execution.job_results import JobResult
from skd_edge.pipeline.console import JobProgress, RunConsole, _format_elapsed
from skd_edge.recipe.schema import Recipe

RECIPE = Recipe.model_validate(
    {
        "name": "some",
        "data": {"kind": "generated"},
        "teacher": {"width": 8},
        "students": [{"name": "small", "width": 4}],
        "training": {"teacher_epochs": 3, "epochs": 2, "rounds": 1},
        "schedule": {"controls": ["alone", "kd"]},
    }
)
JOBS = build_recipe_job_graph(RECIPE, DatasetFingerprint("data", "weak", 10), RECIPE.students)


def make_console(*, terminal: bool) -> tuple[RunConsole, io.StringIO]:
    text = io.StringIO()
    return RunConsole(Console(file=text, force_terminal=terminal, width=120, color_system=None)), text


def test_a_finished_step_has_the_time_in_front():
    console, text = make_console(terminal=False)
    console.log("budget: 3.00 ms")
    assert re.fullmatch(r" +\d+:\d\d  budget: 3.00 ms\n", text.getvalue())


def test_a_log_file_has_no_live_line():
    console, text = make_console(terminal=False)
    with console.progress_bar("decoding clips") as bar:
        bar.update(1, 2)
    assert text.getvalue() == ""


def test_a_terminal_shows_the_live_line():
    console, text = make_console(terminal=True)
    with console.progress_bar("decoding clips") as bar:
        bar.update(1, 2)
    assert "decoding clips" in text.getvalue()
    assert "1/2" in text.getvalue()


def test_without_a_console_nothing_is_printed(capsys):
    console = RunConsole()
    console.log("budget: 3.00 ms")
    with console.progress_bar("decoding clips") as bar:
        bar.update(1, 2)
    assert capsys.readouterr() == ("", "")


def test_every_finished_job_is_a_line_with_its_number_and_role():
    console, text = make_console(terminal=False)
    with JobProgress(console, JOBS) as progress:
        for job in JOBS:
            progress.update_job(job, {})
            row = {"epoch": 1, "epochs": job.spec.epochs, "share": 0.5, "terms": {"ce": 2.0}, "accuracy": 0.25}
            progress.update_job(job, row)
            progress.finish_job(
                JobResult(job, Path("x"), 0.5, 12.4, job is JOBS[0], [], np.zeros(0, bool), np.zeros(0, int))
            )
    lines = [line.split("  ")[-1] for line in text.getvalue().splitlines()]
    assert [line.split()[1] for line in lines] == [f"{i}/{len(JOBS)}" for i in range(1, len(JOBS) + 1)]
    assert lines[0].startswith(f"job 1/{len(JOBS)} teacher (first teacher, on the weak labels): 50.0% (cached, ")
    assert "(12 s, " in lines[1]
    assert any("(control without the method)" in line for line in lines)
    assert any("(control, plain KD)" in line for line in lines)


def test_every_job_in_training_has_a_live_line_with_epoch_loss_and_accuracy():
    console, text = make_console(terminal=True)
    with JobProgress(console, JOBS) as progress:
        row = {"epoch": 2, "epochs": 3, "share": 0.5, "terms": {"ce": 2.0}, "accuracy": 0.25}
        progress.update_job(JOBS[0], row)
        progress.update_job(JOBS[1], {})
    shown = text.getvalue()
    assert f"0/{len(JOBS)} jobs" in shown
    assert "epoch 2/3 | ce 2.00 | accuracy 25.0%" in shown
    assert "starting" in shown
    for number in (1, 2):
        assert f"job {number}/{len(JOBS)} " in shown


def test_a_note_of_a_job_is_a_line():
    console, text = make_console(terminal=False)
    with JobProgress(console, JOBS) as progress:
        progress.update_job(JOBS[0], {"note": "the loss is not finite", "epoch": 1, "epochs": 3, "share": 0.0})
    assert text.getvalue().rstrip().endswith(": the loss is not finite")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (60, "1:00"), (3725, "62:05")])
def test_elapsed_time(seconds, text):
    assert _format_elapsed(seconds) == text
