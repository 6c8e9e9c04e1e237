"""A program for torchrun: trains a staged job with batch norm in evaluation mode; the first process writes the losses.

python distributed_steps.py FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conftest import PREPROCESS, STAGED, some_clips  # the conftest.py in the folder of this file

from skd_edge.distill.distributed import make_process_group
from skd_edge.distill.teacher_outputs import TeacherOutputCache
from skd_edge.distill.trainer import Trainer, TrainingInputs
from skd_edge.distill.views import training_view
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    process_group, clips = make_process_group(), some_clips()
    job = replace(STAGED, epochs=3)
    network = build_tsm(
        NetworkSpec(name="t", family="resnet", width=4, depths=(1, 1)), classes=4, frames=4, size=16, seed=9
    )
    make_view = lambda index, view: training_view(clips.train, index, view, job, PREPROCESS)  # noqa: E731
    teacher = TeacherOutputCache(
        network.eval().requires_grad_(False), make_view, len(clips.train), folder / f"t{process_group.rank}"
    )
    targets = np.eye(4, dtype=np.float32)[clips.train.labels]
    trainer = Trainer(job, TrainingInputs(clips, targets, PREPROCESS, teacher), folder, process_group=process_group)
    trainer.learner.eval()  # batch norm would normalise by the shard of each process
    losses = []
    for epoch in range(job.epochs):
        for index in trainer._iter_batches(epoch):
            terms = trainer.train_step(index, 0, teacher.outputs_for_view(0))
            losses.append({name: float(term) for name, term in terms.items()})
    weights = float(sum(p.double().abs().sum() for p in trainer.learner.parameters()))
    if process_group.rank == 0:
        (folder / f"{process_group.size}.json").write_text(json.dumps({"losses": losses, "weights": weights}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
