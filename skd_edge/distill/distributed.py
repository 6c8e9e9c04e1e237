"""Several processes that train one job together, each on its part of every batch: Lightning Fabric under torchrun.

Losses that compare the clips of a batch need all of them, so every process gathers what the learners said of the whole
batch and computes the whole loss; gradients come back to the part that they belong to. The loss is then that of one
process at the same batch, and so is the step, but for the order in which floats are added, and for batch normalisation:
on GPUs its statistics are those of the whole batch (SyncBatchNorm); on a CPU, where that does not exist, each process
normalises by its own part, as with a smaller batch.
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
_TIMEOUT = timedelta(days=7)  # what one process does alone (decoding, measuring) may take long


class ProcessGroup:
    """A team of one: nothing is divided, nothing gathered."""

    rank, size = 0, 1

    def shard(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process' rows of a batch ``(B,)``."""
        return index

    def all_gather(self, output: SubstageOutput) -> SubstageOutput:
        """What all processes' learners said, as if one had seen the whole batch; gradients flow back."""
        return output

    def all_reduce(self, parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor]) -> None:
        """Make gradients and running statistics the same in all processes, after the loss went backwards."""

    def convert_batch_norm(self, network: Net) -> Net:
        """The network with batch normalisation that sees the whole batch, where there is one."""
        return network

    def broadcast(self, value: Any) -> Any:
        """What the first process says, in all of them."""
        return value


class FabricProcessGroup(ProcessGroup):
    """The processes that torchrun started.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric, self.rank, self.size = fabric, fabric.global_rank, fabric.world_size

    def shard(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """See ``Team.part``.

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
        """See ``Team.gather``."""
        logits = None if output.logits is None else self._all_gather_tensor(output.logits)
        return SubstageOutput([self._all_gather_tensor(f) for f in output.features], logits)

    def _all_gather_tensor(self, local: Tensor) -> Tensor:
        gathered: Any = self.fabric.all_gather(local.contiguous(), sync_grads=True)
        whole: Tensor = gathered.flatten(0, 1)
        return whole

    def all_reduce(self, parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor]) -> None:
        """See ``Team.settle``: each process holds its part's gradient as often as there are processes, so: the mean."""
        self._average_across_processes([p.grad for p in parameters if p.grad is not None])
        self._average_across_processes([b for b in buffers if b.is_floating_point()])

    def _average_across_processes(self, tensors: list[Tensor]) -> None:
        if not tensors:
            return
        flat: Any = self.fabric.all_reduce(torch.cat([t.reshape(-1) for t in tensors]), reduce_op="mean")
        for tensor, piece in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(piece.view_as(tensor))

    def convert_batch_norm(self, network: Net) -> Net:
        """See ``Team.convert``."""
        if self.fabric.device.type != "cuda":
            return network
        converted: Net = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted

    def broadcast(self, value: Any) -> Any:
        """See ``Team.tell``."""
        return self.fabric.broadcast(value)


def make_process_group() -> ProcessGroup:
    """The team that this process belongs to: torchrun's, or a team of one.

    Raises:
        ImportError: Lightning Fabric is not installed.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
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
