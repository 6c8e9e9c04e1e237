"""Data-parallel training of one job: torchrun starts the processes, Lightning Fabric connects them.

Each process computes the learner's outputs for its shard of every batch. Some losses compare the clips of a batch with
each other, so every process gathers the outputs of all shards and computes the loss of the whole batch; the gradients
flow back to the shard they belong to. The loss and the step are then those of a single process with the same batch,
except for two things: floats are added in another order, and batch normalisation. On GPUs its statistics are those of
the whole batch (SyncBatchNorm). On CPUs SyncBatchNorm does not exist, so each process normalises by its own shard.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skd_bench.errors import UserError
from skd_edge.models.substages import SubstageOutput

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Net = TypeVar("Net", bound=nn.Module)
_TIMEOUT = timedelta(days=7)  # the others wait while one process decodes or measures, which may take long


class ProcessGroup:
    """A single process: batches are not divided and outputs are not gathered.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank, size = 0, 1

    def shard(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part of a batch that this process computes: ``index (B,)`` to ``(B / size,)``."""
        return index

    def all_gather(self, output: SubstageOutput) -> SubstageOutput:
        """The outputs for the whole batch, joined from all shards; gradients flow back to each shard."""
        return output

    def all_reduce(self, parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor]) -> None:
        """Make gradients and floating-point buffers equal in all processes; to be called after the backward pass."""

    def convert_batch_norm(self, network: Net) -> Net:
        """The network with batch normalisation over the whole batch, where the device supports it."""
        return network

    def broadcast(self, value: Any) -> Any:
        """The value of the first process, returned in every process."""
        return value


class FabricProcessGroup(ProcessGroup):
    """The processes that torchrun started.

    Args:
        fabric: A `Fabric` that was launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric, self.rank, self.size = fabric, fabric.global_rank, fabric.world_size

    def shard(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `ProcessGroup.shard`.

        Raises:
            UserError: The batch cannot be divided evenly.
        """
        if len(index) % self.size:
            raise UserError(
                f"a batch of {len(index)} clips cannot be divided evenly among {self.size} processes; change "
                "training.batch, or torchrun's --nproc-per-node"
            )
        return np.split(index, self.size)[self.rank]

    def all_gather(self, output: SubstageOutput) -> SubstageOutput:
        """See `ProcessGroup.all_gather`."""
        logits = None if output.logits is None else self._all_gather_tensor(output.logits)
        return SubstageOutput([self._all_gather_tensor(f) for f in output.features], logits)

    def _all_gather_tensor(self, local: Tensor) -> Tensor:
        gathered: Any = self.fabric.all_gather(local.contiguous(), sync_grads=True)
        whole: Tensor = gathered.flatten(0, 1)
        return whole

    def all_reduce(self, parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor]) -> None:
        """See `ProcessGroup.all_reduce`.

        Every process computes the whole loss, so the gradient of each shard arrives ``size`` times; the mean corrects
        that.
        """
        self._average_across_processes([p.grad for p in parameters if p.grad is not None])
        self._average_across_processes([b for b in buffers if b.is_floating_point()])

    def _average_across_processes(self, tensors: list[Tensor]) -> None:
        if not tensors:
            return
        flat: Any = self.fabric.all_reduce(torch.cat([t.reshape(-1) for t in tensors]), reduce_op="mean")
        for tensor, piece in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(piece.view_as(tensor))

    def convert_batch_norm(self, network: Net) -> Net:
        """See `ProcessGroup.convert_batch_norm`."""
        if self.fabric.device.type != "cuda":
            return network
        converted: Net = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted

    def broadcast(self, value: Any) -> Any:
        """See `ProcessGroup.broadcast`."""
        return self.fabric.broadcast(value)


def count_processes() -> int:
    """How many processes torchrun started, this one included; 1 without torchrun."""
    # Cluster schedulers set WORLD_SIZE too.
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def make_process_group() -> ProcessGroup:
    """The process group of this process: that of torchrun, or a single process if torchrun did not start it.

    Raises:
        ImportError: Lightning Fabric is not installed.
    """
    size = count_processes()
    if size == 1:
        return ProcessGroup()
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    gpu = torch.cuda.device_count() >= local_size
    strategy = DDPStrategy(process_group_backend="nccl" if gpu else "gloo", timeout=_TIMEOUT)
    fabric = Fabric(
        accelerator="cuda" if gpu else "cpu", devices=local_size, num_nodes=size // local_size, strategy=strategy
    )
    fabric.launch()
    return FabricProcessGroup(fabric)
