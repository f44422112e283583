"""Several processes that train one model: what they exchange.

``torchrun`` starts the processes and tells each its rank, on one machine or on many; it is PyTorch's own, so nothing
is installed for it. The processes draw the same batch and take a slice each. Their scene vectors are gathered for the
contrast, which compares all scenes of the batch, and their gradients are averaged, in one message: a GQN has few
weights. So N processes do what one would have done with the same batch.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gqn_rl.config import UserError

#: Where a process finds the others, in its environment.
_SET_BY_TORCHRUN: Final = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class World(NamedTuple):
    """This process among those that train together; the default is a process of its own."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process evaluates, logs and writes for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` things (a multiple of ``size``) are this process's."""
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def gather(self, part: Tensor) -> Tensor:
        """The parts (n, ...) of all processes, (size * n, ...) in the order of ranks; differentiable."""
        if self.size == 1:
            return part
        result: Tensor = _Gather.apply(part, self)
        return result

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.size == 1:
            return
        everything = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in everything])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(everything, flat.split([t.numel() for t in everything]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        total = torch.tensor([float(flag)], device=_message_device())
        dist.all_reduce(total)
        return bool(total.item())

    def agrees(self, *numbers: int) -> bool:
        """Whether all processes have the same ``numbers``, of 63 bits each."""
        if self.size == 1:
            return True
        mine = torch.tensor(numbers, device=_message_device())
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return all(bool((part == mine).all()) for part in parts)


def _message_device() -> str:
    """Where tensors lie that processes exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, world: World) -> Tensor:
        ctx.world = world
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.world.share(len(total))], None


@contextmanager
def joined(device: str) -> Iterator[tuple[World, str]]:
    """This process's world, and its device; alone unless ``torchrun`` started it.

    ``device`` as the user gave it; ``cuda`` becomes this process's own GPU.

    Raises:
        UserError: more processes on this machine than GPUs; or WORLD_SIZE is set, but not all that torchrun sets.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield World(), device
        return
    missing = [name for name in _SET_BY_TORCHRUN if name not in os.environ]
    if missing or not size.isdecimal():
        lacks = f", but not {', '.join(missing)}" if missing else ""
        raise UserError(
            f"WORLD_SIZE is {size!r} in the environment{lacks}: start this with torchrun, or unset WORLD_SIZE"
        )
    if device.startswith("cuda"):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(f"{local + 1} processes on this machine, but it has {torch.cuda.device_count()} GPUs")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    # Its functions' default arguments are the group that exists when it is imported. PyTorch's optimizers import it: if
    # that came after the next line, the group, and its threads, would outlive destroy_process_group, and the process
    # would abort at its end now and then.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), int(size)), device
    finally:
        dist.destroy_process_group()
