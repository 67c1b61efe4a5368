"""Several processes that train one network together, as torchrun starts them; each takes its share of the lanes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from gatewatch.models.errors import GatewatchError

LEADER_SPEAKS_S = 10.0
"""An error that all processes run into is the leader's to tell: torchrun ends the others when it has ended, unless it
needs longer than that."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Processes:
    """This process among all: number `rank` of `size`. Number 0 writes; alone, it is the only one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors that all processes bring, in all of them."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, network: nn.Module, numbers: Tensor) -> Tensor:
        """Give each process the sum of all gradients, and of `numbers`, in one exchange."""
        if self.size == 1:
            return numbers
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        flat = self.sum(torch.cat([*(gradient.flatten() for gradient in gradients), numbers.to(gradients[0])]))
        sizes = [gradient.numel() for gradient in gradients]
        *summed, told = torch.split(flat, [*sizes, len(numbers)])
        for gradient, part in zip(gradients, summed, strict=True):
            gradient.copy_(part.view_as(gradient))
        return told

    def gather(self, part: Part) -> list[Part]:
        """What each process brings, in order of rank, in all of them."""
        if self.size == 1:
            return [part]
        found: list[Part] = [part] * self.size
        distributed.all_gather_object(found, part)  # pickled, but between processes of one training only
        return found

    def lead(self, act: Callable[[], None]) -> None:
        """Let the leader act, and the others wait; where it raises a GatewatchError, all of them do."""
        problem: GatewatchError | None = None
        if self.leads:
            try:
                act()
            except GatewatchError as error:
                problem = error
        problem, *_ = self.gather(problem)
        if problem is not None:
            raise problem


ALONE = Processes()


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Meet the other processes where torchrun started this one; alone, nothing is to be met.

    A GatewatchError passes on at once in the leader, later in the others.
    """
    if not distributed.is_torchelastic_launched():
        yield ALONE
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    processes = Processes(distributed.get_rank(), distributed.get_world_size())
    try:
        yield processes
    except GatewatchError:
        if not processes.leads:
            time.sleep(LEADER_SPEAKS_S)
        raise
    finally:
        distributed.destroy_process_group()
