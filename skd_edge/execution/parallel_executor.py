"""Trains jobs beside each other on this machine: each in a process of its own, as many as cores and memory allow.

A job's process has its own threads, and their number is a setting of the recipe. So a job's weights depend neither on
the number of cores nor on what is trained beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping

from skd_bench.errors import UserError
from skd_edge.execution.job_graph import TrainingJob
from skd_edge.execution.job_process import JobProcess
from skd_edge.execution.job_results import JobResult, ProgressListener
from skd_edge.execution.memory import MemoryModel, read_available_bytes, read_private_bytes
from skd_edge.execution.worker_executor import WorkerExecutor
from skd_edge.labels.dataset import TrainingData
from skd_edge.recipe.schema import Recipe
from skd_edge.run_folder import Run

_RETRIES = 3  # how often a job is restarted after its process died
_POLL_SECONDS = 1.0  # time after which a job that waits for memory is considered again


class ParallelExecutor(WorkerExecutor):
    """Trains jobs in processes of this machine; finished jobs are read from the run folder, as by `LocalExecutor`.

    Args:
        recipe: the recipe.
        run: the run folder.
        training_data: clips and weak labels, as loaded by this process.
        most_jobs: number of jobs at the same time, at most.
        allow_code: whether the teacher's factory may run in the processes.
    """

    def __init__(
        self, recipe: Recipe, run: Run, training_data: TrainingData, *, most_jobs: int, allow_code: bool = False
    ) -> None:
        super().__init__(recipe, run, training_data, allow_code=allow_code)
        self.most_jobs = most_jobs
        self._memory = MemoryModel()
        self._deaths = Counter[str]()  # of processes, by the job's hash

    def _train_in_workers(
        self, remaining: Mapping[str, list[TrainingJob]], on_progress: ProgressListener
    ) -> Generator[JobResult]:
        waiting = {job_hash: equal_jobs[0] for job_hash, equal_jobs in _longest_chain_first(remaining)}
        running: dict[str, JobProcess] = {}
        try:
            while waiting or running:
                while (job := self._choose_next(waiting, running)) is not None:
                    del waiting[job.hash]
                    running[job.hash] = JobProcess(self.worker_context, job)
                for process in JobProcess.wait_for_any(running.values(), _POLL_SECONDS):
                    for event in process.receive():
                        self._receive_event(event, process.job, on_progress)
                    if process.has_ended:
                        del running[process.job.hash]
                        if self._is_finished(process):
                            yield from self._load_results(remaining[process.job.hash])
                        else:
                            waiting = {process.job.hash: process.job, **waiting}
        finally:
            JobProcess.stop_all(running.values())

    def _choose_next(self, waiting: Mapping[str, TrainingJob], running: Mapping[str, JobProcess]) -> TrainingJob | None:
        """The job to start now: the first whose requirements are finished, if there are a core and memory for it."""
        unfinished = waiting.keys() | running.keys()
        ready = (job for job in waiting.values() if not any(n.hash in unfinished for n in job.required_jobs))
        job = next(ready, None)
        if job is None or not running:
            return job
        if len(running) >= self.most_jobs or self._deaths.keys() & {job.hash, *running}:
            return None  # a job whose process died is trained alone: perhaps memory ran out
        return job if self._fits_into_memory(job, running) else None

    def _fits_into_memory(self, job: TrainingJob, running: Mapping[str, JobProcess]) -> bool:
        available = read_available_bytes()
        if available is None:
            return True
        still_to_come = sum(
            max(self._memory.estimate_bytes(process.job) - read_private_bytes(process.pid), 0)
            for process in running.values()
        )
        return self._memory.estimate_bytes(job) + still_to_come <= available

    def _is_finished(self, process: JobProcess) -> bool:
        """Whether an ended process has finished its job; if it died, the job is to be trained again.

        Raises:
            UserError: The training failed, the process did not start, or it died too often.
        """
        job, outcome = process.job, process.outcome
        if outcome is not None:
            if outcome.error is not None:
                raise outcome.error
            self._memory.add_peak(job, outcome.peak_bytes)
            self._deaths.pop(job.hash, None)
            return True
        end = process.describe_end()
        self._deaths[job.hash] += 1
        self.run.record_event("worker_died", job=job.hash, name=job.spec.name, reason=end)
        if not process.began_training and end.startswith("exit code"):
            raise UserError(
                f"the process that trains job {job.spec.name} does not start ({end}; its error message is above); if "
                "your own script starts the training, put its code under: if __name__ == '__main__':"
            )
        if self._deaths[job.hash] > _RETRIES:
            raise UserError(
                f"the process that trains job {job.spec.name} died {_RETRIES + 1} times ({end}); finished jobs and "
                "checkpoints are stored; if memory ran out, lower training.batch or raise training.accumulate, and "
                "repeat the command"
            )
        return False


def _longest_chain_first(remaining: Mapping[str, list[TrainingJob]]) -> list[tuple[str, list[TrainingJob]]]:
    """The jobs, those first on which the longest chain of others waits; so teachers come before learners."""
    chain = dict.fromkeys(remaining, 1)
    for job_hash, (job, *_) in reversed(list(remaining.items())):
        for required in job.required_jobs:
            if required.hash in chain:
                chain[required.hash] = max(chain[required.hash], 1 + chain[job_hash])
    return sorted(remaining.items(), key=lambda item: -chain[item[0]])
