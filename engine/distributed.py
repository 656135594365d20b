"""The processes of a training that torchrun starts: they share each batch and compute what one process would.

    from egodistill.engine import distributed

    distributed.join_processes(device)                          # does nothing without torchrun
    share = distributed.Share.of(len(batch))                    # which clips of a batch this process computes
    objective = distributed.parallel(objective, find_unused=False)   # DistributedDataParallel averages gradients

An error of one process ends the others (`propagate_failure`).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..support import files
from ..support.errors import EgoDistillError, EgoDistillOSError
from .runtime import BATCH_NORMS

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

__all__ = [
    "Share",
    "all_reduce_sum",
    "average_statistics",
    "broadcast_object",
    "gather",
    "is_first",
    "is_first_failure",
    "join_processes",
    "leave_processes",
    "parallel",
    "propagate_failure",
    "rank_and_world_size",
    "share_batch_norm",
    "sum_over_processes",
    "sync_batch_norm",
]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# The option of DistributedDataParallel that broadcasts buffers before each forward pass; torch 2.13 renamed it.
BROADCAST_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


TIMEOUT = timedelta(minutes=5)  # for a process that does not answer; writing a checkpoint takes less


def join_processes(device: torch.device) -> None:
    """Join the process group of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), unless already done.

    Its device decides between NCCL and gloo. Raise EgoDistillError if MASTER_ADDR is missing.
    """
    share = files.environment_share()
    if share["world_size"] > 1 and not distributed.is_initialized():
        if "MASTER_ADDR" not in os.environ:
            raise EgoDistillError(
                "RANK={rank} and WORLD_SIZE={world_size} are set, but not MASTER_ADDR: start all processes with "
                "torchrun, or unset RANK and WORLD_SIZE for a training in this process alone".format(**share)
            )
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend, rendezvous = "nccl" if device.type == "cuda" else "gloo", {}
        with distributed_errors():
            if "TORCHELASTIC_RUN_ID" in os.environ:  # under torchrun
                threading.Thread(target=end_with_agent, args=[os.getppid()], daemon=True).start()
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                store = torchrun_store()
                ATTEMPT[:] = [agree_on_attempt(store, **share)]
                own = distributed.PrefixStore(ATTEMPT[0], store)  # pyright: ignore[reportPrivateImportUsage]
                rendezvous = {"store": own, **share}
            distributed.init_process_group(backend, timeout=TIMEOUT, **rendezvous)


ATTEMPT: list[str] = []  # the name of this attempt of a job, once this process has joined it


# Groups that were left while DistributedDataParallel held a reference. As the last owner, its destructor would join
# gloo's thread without releasing the interpreter lock, which that thread may need: a deadlock (torch 2.13).
LEFT_GROUPS: list[Any] = []


def leave_processes() -> None:
    """Leave the process group, if there is one. Its connections close unless a `parallel()` module still exists."""
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        if any(type(one) is DistributedDataParallel for one in gc.get_objects()):
            LEFT_GROUPS.append(distributed.group.WORLD)
        distributed.destroy_process_group()


def torchrun_store(timeout: timedelta = TIMEOUT) -> Store:
    """Return the store through which the processes find each other; the agent on the machine of process 0 hosts it."""
    return distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timeout,
        use_libuv=os.environ.get("USE_LIBUV", "1") == "1",  # As torch reads it; torch for Windows has no libuv.
    )


def agree_on_attempt(store: Store, rank: int, world_size: int) -> str:
    """Return a name for this attempt of the job, the same in all its processes and new after each restart.

    torchrun keeps the store over restarts, with the addresses of dead processes (pytorch issue 135712), for which new
    processes would wait; and the agents of several machines count restarts differently. So each process shows a random
    name, and process 0 answers every name that it sees with its own, until all others have got the answer. Process 0
    raises DistStoreError if that takes longer than `TIMEOUT`.
    """
    own = f"attempt {os.urandom(8).hex()}"
    if rank:
        store.set(f"process {rank}", own)
        attempt = store.get(f"answer to {own}").decode()  # waits for it
        store.add(f"{attempt} has", 1)
        return attempt
    stop = time.monotonic() + TIMEOUT.total_seconds()
    while store.add(f"{own} has", 0) < world_size - 1:
        for key in (f"process {other}" for other in range(1, world_size)):
            if store.check([key]):  # perhaps of a process that has died
                store.set(f"answer to {store.get(key).decode()}", own)
        if time.monotonic() > stop:
            raise distributed.DistStoreError("not all processes have started")
        time.sleep(0.02)
    return own


def end_with_agent(agent: int) -> None:
    """End this process when torchrun's agent, its parent, is killed: nobody would restart or stop it."""
    while os.getppid() == agent:
        time.sleep(0.5)
    print("\negodistill: torchrun has died on this machine, so this process ends, too", file=sys.stderr, flush=True)
    os._exit(1)


def is_first_failure() -> bool:
    """Return whether this is the first process of the run on this machine that fails.

    A failure ends all processes, but only the first error is of interest; each machine reports one, because its users
    may see no other output.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or "MASTER_ADDR" not in os.environ:
        return True
    machine = os.environ.get("GROUP_RANK", platform.node())
    attempt = ATTEMPT[0] if ATTEMPT else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        return torchrun_store(timedelta(seconds=10)).add(f"failed on {machine} in {attempt}", 1) == 1
    except RuntimeError:  # The process that hosts the store has exited, or its machine is gone.
        return True


def propagate_failure(stage: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a training stage: destroying this rank's process group unblocks the ranks that wait for it."""

    @functools.wraps(stage)
    def run(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return stage(*arguments, **options)
        except BaseException as error:
            # Before the other ranks are unblocked, because their errors follow from this one.
            cast(Any, error).is_first_failure = is_first_failure()
            # NCCL would wait for the other ranks here; with NCCL, torchrun ends them when this process exits.
            if rank_and_world_size()[1] > 1 and distributed.get_backend() == "gloo":
                leave_processes()
            raise

    return run


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Return whether this is process 0, which writes files and shows progress."""
    return rank_and_world_size()[0] == 0


@contextlib.contextmanager
def distributed_errors() -> Iterator[None]:
    """Convert torch's errors about a process that has died to EgoDistillOSError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise  # an error of the model
        raise EgoDistillOSError(
            f"another process of this training has died or does not answer; see its own error, perhaps in the output "
            f"of another machine ({str(error).splitlines()[0]})"
        ) from error


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if rank_and_world_size()[1] > 1:
        with distributed_errors():
            distributed.all_reduce(tensor)
    return tensor


def sum_over_processes(values: list[float], device: torch.device) -> list[float]:
    """Return the values, each summed over all processes."""
    if rank_and_world_size()[1] == 1:
        return values
    return all_reduce_sum(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


def broadcast_object(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of process 0, whose files other machines may not see."""
    box = [content]
    if rank_and_world_size()[1] > 1:
        with distributed_errors():
            distributed.broadcast_object_list(box, src=0)
    return box[0]


class AllReduceSum(torch.autograd.Function):
    """`all_reduce_sum()` with a gradient: the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return all_reduce_sum(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.clone(memory_format=torch.contiguous_format))


class Share(NamedTuple):
    """Part of a batch that this process trains on.

    A share has at least two clips, because batch norm and the contrastive loss need them. If a batch is too small, the
    last processes have no share. They compute the first clips with weight 0, because all processes must take part in
    every communication.
    """

    start: int  # number of its first clip in the batch
    stop: int  # number after its last clip
    total: int  # clips in the batch

    @classmethod
    def of(cls, total: int) -> Share:
        """Return the share of this process."""
        rank, processes = rank_and_world_size()
        active = max(1, min(processes, total // 2))
        return cls(*(min(k, active) * total // active for k in (rank, rank + 1)), total)

    def rows(self, batch: Tensor) -> Tensor:
        """Return the rows of a batch that this process reads."""
        return batch[self.start : self.stop] if self.stop > self.start else batch[:2]

    def weights(self, clips: int, device: torch.device) -> Tensor:
        """Return the weight of each clip that this process reads: 1, or 0 without a share, float [clips]."""
        return torch.full((clips,), float(self.stop > self.start), device=device)


def gather(own: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of all processes with a weight above 0, in batch order, and the indices of this process's rows.

    The rows are [b, ...], their weights float [b], the indices int64 [b]; rows without weight have index 0. Gradients
    flow back to all processes.
    """
    rank, processes = rank_and_world_size()
    if processes == 1:  # All clips have the weight 1. A copy, so that gradients add up in one order.
        return own.clone(), torch.arange(len(own), device=own.device)
    counts = weight > 0
    places = (counts.cumsum(0) - 1).clamp(min=0)
    numbers = torch.zeros(processes, dtype=torch.int64, device=own.device)
    numbers[rank] = counts.sum()
    numbers = all_reduce_sum(numbers).tolist()
    start, stop, total = sum(numbers[:rank]), sum(numbers[: rank + 1]), sum(numbers)
    own = own[counts].float()
    before, after = (own.new_zeros(count, *own.shape[1:]) for count in (start, total - stop))
    return AllReduceSum.apply(torch.cat([before, own, after])), torch.where(counts, places + start, 0)


def parallel(objective: nn.Module, *, find_unused: bool) -> nn.Module:
    """Wrap an objective in DistributedDataParallel, which averages gradients over the processes.

    Weights and buffers are copied from process 0. With `find_unused`, a step may leave parameters without a gradient.
    """
    if rank_and_world_size()[1] == 1:
        return objective
    options: dict[str, Any] = {
        "find_unused_parameters": find_unused,
        "gradient_as_bucket_view": True,
        BROADCAST_BUFFERS: False,
    }
    with distributed_errors():
        for buffer in objective.buffers():
            distributed.broadcast(buffer, src=0)
        return DistributedDataParallel(objective, **options)


@torch.no_grad()
def average_statistics(model: nn.Module, weight: float) -> None:
    """Average the running statistics of batch norms in training mode over the processes, whose weights add up to 1."""
    norms = [part for part in model.modules() if isinstance(part, BATCH_NORMS) and part.training]
    statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    if not statistics or rank_and_world_size()[1] == 1:
        return
    message = all_reduce_sum(weight * torch.cat([value.flatten() for value in statistics]))
    for value, piece in zip(statistics, message.split([value.numel() for value in statistics]), strict=True):
        value.copy_(piece.view_as(value))


class SyncBatchNorm(nn.BatchNorm1d):
    """Batch norm over the clips of all processes, for any shape and device.

    Clips of a process without a share do not count. `torch.nn.SyncBatchNorm` would count them, and needs GPUs.
    """

    share = Share(0, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        rank, processes = rank_and_world_size()
        if not self.training or processes == 1:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        count = x.new_full((1,), x.numel() / x.shape[1] * (self.share.stop > self.share.start), dtype=torch.float32)
        variance, mean = torch.var_mean(x.float(), dims, correction=0)
        own = torch.cat([count, mean, variance])
        place = F.one_hot(torch.tensor(rank, device=x.device), processes)[:, None]
        counts, means, variances = AllReduceSum.apply(place * own).split([1, len(mean), len(mean)], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * total / (total - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any shape."""


def sync_batch_norm(model: nn.Module) -> None:
    """Replace the batch norms of a model by `SyncBatchNorm`."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, BATCH_NORMS) and norm.affine and norm.track_running_stats:
                synced = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum)
                synced.load_state_dict(norm.state_dict())
                synced.weight, synced.bias = norm.weight, norm.bias
                synced.to(norm.weight.device).train(norm.training)
                setattr(parent, name, synced)


def share_batch_norm(model: nn.Module, share: Share) -> None:
    """Set the share of the next batch that this process has in each `SyncBatchNorm`."""
    for part in model.modules():
        if isinstance(part, SyncBatchNorm):
            part.share = share
