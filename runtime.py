"""What models run on: device, precision, compilation, evaluation mode, and the processes of one training.

    from egodistill import runtime

    device = runtime.pick_device(None)                      # a GPU where there is one
    precision = runtime.pick_precision(device, "auto")      # "bf16" where it is faster than fp32
    with runtime.evaluation(model, device), runtime.autocast(device, precision):
        output = model(frames.to(device))

Under torchrun, the processes of a training share each batch (`Share`), and DistributedDataParallel averages their
gradients (`parallel`), so that they compute what one process with that batch computes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from egodistill import EgoDistillError, EgoDistillOSError

__all__ = [
    "BATCH_NORMS",
    "PRECISIONS",
    "Compiled",
    "Precision",
    "Share",
    "autocast",
    "average_statistics",
    "bf16_speed",
    "broadcast_object",
    "evaluation",
    "gather",
    "has_bf16_kernels",
    "is_first",
    "is_first_failure",
    "join_processes",
    "keep_frozen_statistics",
    "leave_processes",
    "lower_thread_priority",
    "parallel",
    "pick_device",
    "pick_precision",
    "propagate_failure",
    "rank_and_world_size",
    "require_precision",
    "share_batch_norm",
    "sync_batch_norm",
    "sum_over_processes",
]

Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# The option of DistributedDataParallel that leaves buffers alone in a forward pass; torch 2.13 has another name for it.
KEEP_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)
TIMEOUT = timedelta(minutes=5)  # A process that says nothing for so long is given up; writing a checkpoint takes less.


# ---------------------------------------------------------------------------------------------------------------
# Device, precision, compilation


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, else a GPU if there is one; under torchrun, the GPU of this process."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place == torch.device("cuda") and "LOCAL_RANK" in os.environ:
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return place


def bf16_speed(device: torch.device) -> tuple[bool, str]:
    """Return whether bf16 is faster than fp32 on a device, and the reason as a clause that follows "because".

    It is on NVIDIA GPUs from compute capability 8 on, on CPUs with AMX, and on AMD CPUs with AVX-512's bf16 products
    (Zen 4 and later; on a Zen 5 students and baselines took 0.4 to 0.7 of the time). On an Intel Xeon with these
    products and no AMX the student took 1.5 times as long; where oneDNN emulates bf16, a training step took 12 to 25
    times as long. A CPU that torch does not describe (torch 2.4 describes none) counts as slow.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return False, "bf16 was not measured on AMD GPUs"
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"the GPU has compute capability {major}.{minor}"
    if device.type != "cpu":
        return False, f"bf16 was not measured on {device.type!r} devices"
    if not hasattr(torch.cpu, "get_capabilities"):
        return False, f"torch {torch.__version__} does not say what this CPU is fast at"
    cpu = torch.cpu.get_capabilities()
    name = str(cpu.get("cpu_name") or "this CPU")
    # What the CPU can do and what oneDNN may use differ: the environment may limit its instruction set.
    if not has_bf16_kernels():
        return False, f"oneDNN has no bf16 kernels for the instruction set of {name}"
    if cpu.get("amx_bf16"):
        return True, f"{name} has AMX"
    if name.startswith("AMD"):
        return bool(cpu.get("avx512_bf16")), f"{name} has {'' if cpu.get('avx512_bf16') else 'no '}AVX512_BF16"
    return False, f"{name} has no AMX"


def has_bf16_kernels() -> bool:
    """Return whether oneDNN, where torch is built with it, computes in bf16 on this CPU and does not emulate it."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pick_precision(device: torch.device, precision: str, model: Any = None) -> str:
    """Return "fp32" or "bf16"; "auto" is bf16 where `bf16_speed()` says that it is faster.

    A model that runs in one precision only, such as an exported file, has an attribute `precision`, which wins.
    """
    require_precision(precision)
    if own := getattr(model, "precision", None):
        return own
    if precision == "auto":
        return "bf16" if bf16_speed(device)[0] else "fp32"
    return precision


def require_precision(precision: str) -> None:
    """Raise EgoDistillError if there is no such precision."""
    if precision not in PRECISIONS:
        raise EgoDistillError(f"precision is 'auto', 'fp32' or 'bf16'; got {precision!r}")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Compiled:
    """A model through torch.compile; if that fails (no compiler, say) the model as it is, and a line on stderr.

    It is compiled for the size of the first batch. A smaller last one runs uncompiled, or it would be compiled again.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.size = model, 0
        self.fast: Callable[..., Any] | None = None
        self.failed = False

    def __call__(self, *inputs: Tensor) -> Any:
        self.size = self.size or len(inputs[0])
        if self.failed or len(inputs[0]) != self.size:
            return self.model(*inputs)
        try:
            if self.fast is None:
                self.fast = torch.compile(self.model)
            return self.fast(*inputs)
        except Exception as error:  # Dynamo, its backends and compilers have no common class.
            output = self.model(*inputs)  # Raises by itself if the input is at fault.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"torch.compile failed, so the model runs uncompiled: {reason}", file=sys.stderr)
            self.failed = True
            return output


@contextlib.contextmanager
def evaluation(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model on `device` in evaluation mode; afterwards restore its device and the mode of each layer."""
    modes = {layer: layer.training for layer in model.modules()}
    home = next((parameter.device for parameter in model.parameters()), device)
    model.to(device).eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        if home != device:
            model.to(home)


def keep_frozen_statistics(model: nn.Module) -> None:
    """Put the batch norms whose weights are not trained into evaluation mode: their statistics stay as they are."""
    for part in model.modules():
        if isinstance(part, BATCH_NORMS) and part.affine and not part.weight.requires_grad:
            part.eval()


def lower_thread_priority() -> None:
    """Lower the priority of this thread, and of those that it will begin; only on Linux has a thread one of its own.

    If decoding and the model share the cores, the model's threads wait for each other whenever a decoder takes the
    place of one of them, and they wait by spinning. So decoders get what the model leaves (LOG.md has the figures).
    """
    if sys.platform == "linux" and hasattr(os, "setpriority"):
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # A sandbox may forbid it.
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 5)


# ---------------------------------------------------------------------------------------------------------------
# Several processes, under torchrun


def join_processes(device: torch.device) -> None:
    """Connect to the other processes of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), once."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend, meeting = "nccl" if device.type == "cuda" else "gloo", {}
        with distributed_errors():
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and on_one_machine():
                rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
                meeting = {"store": torchrun_store(), "rank": rank, "world_size": processes}
            distributed.init_process_group(backend, timeout=TIMEOUT, **meeting)


def leave_processes() -> None:
    """End the connections to the other processes, if there are any."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def on_one_machine() -> bool:
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]


def torchrun_store() -> distributed.Store:
    """Return the store through which processes of one machine find each other.

    torchrun keeps it over restarts, with the addresses of processes that have died (pytorch issue 135712). New
    processes would wait for each other at those, so each attempt has its own part of the store.
    """
    store = distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=TIMEOUT,
        use_libuv=os.environ.get("USE_LIBUV", "1") == "1",  # As torch reads it; torch for Windows has no libuv.
    )
    return distributed.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def is_first_failure() -> bool:
    """Return whether no other process of this run, on this machine, has failed before.

    What ends one process ends all, and one error is enough. On several machines each process reports its own.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "MASTER_ADDR" not in os.environ or not on_one_machine():
        return True
    try:
        return torchrun_store().add("failed", 1) == 1
    except RuntimeError:  # Without torchrun's own, the first process keeps the store, and is gone.
        return True


def propagate_failure(stage: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a training stage: destroying this rank's process group unblocks the ranks that wait for it."""

    @functools.wraps(stage)
    def run(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return stage(*arguments, **options)
        except BaseException as error:
            # Asked before the others wake up: their errors follow from this one.
            error.is_first_failure = is_first_failure()
            # NCCL would wait for the others here; there the end of this process, and torchrun, end the rest.
            if rank_and_world_size()[1] > 1 and distributed.get_backend() == "gloo":
                leave_processes()
            raise

    return run


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process, and how many train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Return whether this process writes the files and shows the progress."""
    return rank_and_world_size()[0] == 0


@contextlib.contextmanager
def distributed_errors() -> Iterator[None]:
    """Turn torch's many lines about a process that has died into one EgoDistillOSError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise  # an error of the model's own, in a forward or backward pass
        raise EgoDistillOSError(
            f"another process of this training is gone or does not answer; its own error tells why "
            f"({str(error).splitlines()[0]})"
        ) from error


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if rank_and_world_size()[1] > 1:
        with distributed_errors():
            distributed.all_reduce(tensor)
    return tensor


def sum_over_processes(values: list[float], device: torch.device) -> list[float]:
    """Return each value summed over all processes."""
    if rank_and_world_size()[1] == 1:
        return values
    return all_reduce_sum(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


def broadcast_object(content: dict[str, Any]) -> dict[str, Any]:
    """Return what process 0 has: the machines of the others need not see its files."""
    box = [content]
    if rank_and_world_size()[1] > 1:
        with distributed_errors():
            distributed.broadcast_object_list(box, src=0)
    return box[0]


class SumOfAll(torch.autograd.Function):
    """all_reduce_sum() with a gradient, which is the sum of those of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return all_reduce_sum(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.clone(memory_format=torch.contiguous_format))


class Share(NamedTuple):
    """This process's part of a batch of `total` clips: those from `start` to `stop`.

    Each process has at least two clips, because batch norm and the contrastive loss need them. In a batch too small for
    that the last processes have none: they compute with the first clips, at weight 0, because all processes have to
    take part in every message.
    """

    start: int
    stop: int
    total: int

    @classmethod
    def of(cls, total: int) -> Share:
        rank, processes = rank_and_world_size()
        active = max(1, min(processes, total // 2))
        return cls(*(min(k, active) * total // active for k in (rank, rank + 1)), total)

    def rows(self, batch: Tensor) -> Tensor:
        """Return those of a batch's rows that this process reads."""
        return batch[self.start : self.stop] if self.stop > self.start else batch[:2]

    def weights(self, clips: int, device: torch.device) -> Tensor:
        """Return the weight of each clip that this process reads: 1, or 0 if it has none of its own, float [clips]."""
        return torch.full((clips,), float(self.stop > self.start), device=device)


def gather(own: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of all processes that have a weight, in the order of the batch, with gradients to each.

    Also return the places of this process's rows among them, int64 [b]; a row without weight has place 0.
    """
    counts = weight > 0
    places = (counts.cumsum(0) - 1).clamp(min=0)
    if rank_and_world_size()[1] == 1:
        return own[counts], places
    rank, processes = rank_and_world_size()
    numbers = torch.zeros(processes, dtype=torch.int64, device=own.device)
    numbers[rank] = counts.sum()
    numbers = all_reduce_sum(numbers).tolist()
    start, stop, total = sum(numbers[:rank]), sum(numbers[: rank + 1]), sum(numbers)
    own = own[counts].float()
    before, after = (own.new_zeros(count, *own.shape[1:]) for count in (start, total - stop))
    return SumOfAll.apply(torch.cat([before, own, after])), torch.where(counts, places + start, 0)


def parallel(objective: nn.Module, *, find_unused: bool) -> nn.Module:
    """Return a module that calls the objective and, in its backward pass, averages gradients over the processes.

    Weights and buffers become those of process 0. With `find_unused`, a step may leave parameters without a gradient,
    in some processes or in all.
    """
    if rank_and_world_size()[1] == 1:
        return objective
    options: dict[str, Any] = {
        "find_unused_parameters": find_unused,
        "gradient_as_bucket_view": True,
        KEEP_BUFFERS: False,
    }
    with distributed_errors():
        for buffer in objective.buffers():
            distributed.broadcast(buffer, src=0)
        return DistributedDataParallel(objective, **options)


@torch.no_grad()
def average_statistics(model: nn.Module, weight: float) -> None:
    """Average the running statistics of batch norms in training over the processes, of which this one has `weight`."""
    norms = [part for part in model.modules() if isinstance(part, BATCH_NORMS) and part.training]
    statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    if not statistics or rank_and_world_size()[1] == 1:
        return
    message = all_reduce_sum(weight * torch.cat([value.flatten() for value in statistics]))
    for value, piece in zip(statistics, message.split([value.numel() for value in statistics]), strict=True):
        value.copy_(piece.view_as(value))


class SyncBatchNorm(nn.BatchNorm1d):
    """Batch norm over the clips of all processes, of any shape and on any device.

    Clips of a process without a share do not count. torch's own class counts them, and works on GPUs alone.
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
        counts, means, variances = SumOfAll.apply(place * own).split([1, len(mean), len(mean)], dim=1)
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
    """Replace the batch norms of a model by ones that see the clips of all processes."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, BATCH_NORMS) and norm.affine and norm.track_running_stats:
                synced = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum)
                synced.load_state_dict(norm.state_dict())
                synced.weight, synced.bias = norm.weight, norm.bias
                synced.to(norm.weight.device).train(norm.training)
                setattr(parent, name, synced)


def share_batch_norm(model: nn.Module, share: Share) -> None:
    """Tell the batch norms that see all processes which part of the next batch this one has."""
    for part in model.modules():
        if isinstance(part, SyncBatchNorm):
            part.share = share
