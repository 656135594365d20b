"""Device, precision, compilation and evaluation mode of models, and the processes of a distributed training.

    from egodistill import runtime

    device = runtime.pick_device(None)                      # a GPU if there is one
    precision = runtime.pick_precision(device, "auto")      # "bf16" if it is faster than fp32
    with runtime.evaluation(model, device), runtime.autocast(device, precision):
        output = model(frames.to(device))

Under torchrun, the processes of a training share each batch (`Share`), and DistributedDataParallel averages their
gradients (`parallel`), so they compute the same as one process with the whole batch.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import inspect
import os
import platform
import statistics
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from egodistill import EgoDistillError, EgoDistillOSError, checkpoints, files

__all__ = [
    "BATCH_NORMS",
    "PRECISIONS",
    "Compiled",
    "Precision",
    "Share",
    "autocast",
    "average_statistics",
    "bf16_gain",
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
    "pick_training_precision",
    "propagate_failure",
    "rank_and_world_size",
    "require_precision",
    "share_batch_norm",
    "sync_batch_norm",
    "sum_over_processes",
    "with_cast_weights",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# Data types of operations in mixed precision; weights, losses and optimizer stay in float32.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# The option of DistributedDataParallel that broadcasts buffers before each forward pass; torch 2.13 renamed it.
BROADCAST_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)
BF16_MARGIN = 1.2  # bf16 must be faster by this factor in the trial, whose result varies on a busy machine
TIMEOUT = timedelta(minutes=5)  # for a process that does not answer; writing a checkpoint takes less


# ---------------------------------------------------------------------------------------------------------------
# Device, precision, compilation


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the given device, or by default a GPU if there is one; under torchrun, the GPU of this process.

    Raise EgoDistillError for a device that does not exist here.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if place == torch.device("cuda") and "LOCAL_RANK" in os.environ:
            place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if place.type == "meta":
            raise RuntimeError("it holds shapes, no values")
        torch.empty(0, device=place)  # on the GPU of this process, or each would take memory on the first one
    except (RuntimeError, AssertionError, ImportError) as error:  # A torch without CUDA asserts, without HPU imports.
        raise EgoDistillError(f"the device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return place


def bf16_speed(device: torch.device) -> tuple[bool, str]:
    """Return whether bf16 is faster than fp32 on a device, and the reason as a clause to follow "because".

    It is faster on NVIDIA GPUs with compute capability 8 or higher, on CPUs with AMX, and on AMD CPUs with AVX512_BF16
    (Zen 4 and later; on a Zen 5, students and baselines took 0.4 to 0.7 of the time). On an Intel Xeon with AVX512_BF16
    and no AMX the student took 1.5 times as long. If oneDNN emulates bf16, a training step takes 12 to 25 times as
    long. A CPU that torch does not describe (torch 2.4 describes none) counts as slow.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return False, "bf16 was not measured on AMD GPUs"
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"the GPU has compute capability {major}.{minor}"
    if device.type != "cpu":
        return False, f"bf16 was not measured on {device.type!r} devices"
    if not hasattr(torch.cpu, "get_capabilities"):
        return False, f"torch {torch.__version__} does not describe this CPU"
    name, cpu = describe_cpu()
    # The environment may limit the instruction set that oneDNN uses.
    if not has_bf16_kernels():
        return False, f"oneDNN has no bf16 kernels for the instruction set of {name}"
    if cpu.get("amx_bf16"):
        return True, f"{name} has AMX"
    if name.startswith("AMD"):
        return bool(cpu.get("avx512_bf16")), f"{name} has {'' if cpu.get('avx512_bf16') else 'no '}AVX512_BF16"
    return False, f"{name} has no AMX"


def describe_cpu() -> tuple[str, dict[str, Any]]:
    """Return the name of the CPU and its instruction sets, as far as torch knows them."""
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return str(cpu.get("cpu_name") or "this CPU"), cpu


def has_bf16_kernels() -> bool:
    """Return whether torch has oneDNN, and it computes in bf16 on this CPU instead of emulating it."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pick_precision(device: torch.device, precision: str, model: Any = None) -> str:
    """Return the precision for inference; "auto" is bf16 if it is faster by `bf16_speed()`, otherwise fp32.

    A model with an attribute ``precision``, such as an exported file, runs only in that one. Raise EgoDistillError for
    weights that cannot run in mixed precision.

    >>> import torch
    >>> from egodistill import runtime
    >>> runtime.pick_precision(torch.device("cpu"), "fp32")
    'fp32'
    """
    require_precision(precision)
    if own := getattr(model, "precision", None):
        return own
    if precision == "auto":
        precision = "bf16" if bf16_speed(device)[0] else "fp32"
    if precision != "fp32" and isinstance(model, nn.Module) and (found := unmixable_weight(model)):
        raise EgoDistillError(
            f"the weights of {type(model).__name__} are {found[1]} ({found[0]}), which do not mix with {precision}: "
            f"call model.float() first, or choose precision='fp32' to keep them"
        )
    return precision


def pick_training_precision(device: torch.device, model: nn.Module) -> tuple[str, str]:
    """Return "bf16" if a model's training is faster in it than in fp32, otherwise "fp32", and the reason.

    The reason is a clause to follow "because". On CPUs, `bf16_gain()` decides, if the CPU reports AMX or AVX512_BF16.
    """
    if unmixable_weight(model):
        return "fp32", "the model has weights that are not float32"
    if device.type != "cpu":
        fast, reason = bf16_speed(device)
        return "bf16" if fast else "fp32", reason
    name, cpu = describe_cpu()
    if not (has_bf16_kernels() and (cpu.get("amx_bf16") or cpu.get("avx512_bf16"))):
        return "fp32", f"{name} reports neither AMX nor AVX512_BF16 to torch {torch.__version__}"
    gain = bf16_gain(*trial_layer(model))
    return "bf16" if gain >= BF16_MARGIN else "fp32", f"bf16 ran {gain:.1f} times as fast as fp32 in a trial on {name}"


WIDEST_TRIAL = 1024


def trial_layer(model: nn.Module) -> tuple[int, int]:
    """Return the layer that stands for a model in `bf16_gain()`: its dimensions, 0 for a linear one, and its channels.

    It is linear, with the median width but not above `WIDEST_TRIAL`, if the model has more linear layers than
    convolutions; otherwise a convolution of 64 channels with the highest dimensions in the model.
    """
    layers = list(model.modules())
    kernels = [one.weight.ndim - 2 for one in layers if isinstance(one, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    widths = [one.in_features for one in layers if isinstance(one, nn.Linear)]
    if len(widths) > len(kernels):
        return 0, min(statistics.median_low(widths), WIDEST_TRIAL)
    return max(kernels, default=2), 64


@functools.lru_cache
def bf16_gain(dims: int, channels: int) -> float:
    """Return how many times as fast as in fp32 this CPU trains a layer with so many channels in bf16.

    ``dims`` is 1, 2 or 3 for a convolution, 0 for a linear layer. The trial takes a fraction of a second, or a few for
    wide layers: forward and backward passes in both precisions take turns, and the result is the median. It counts
    processor time, which other programs change less.
    """
    clock = time.perf_counter if sys.platform == "win32" else time.process_time  # That of Windows has steps of 15.6 ms.
    shape = {0: (2048, channels), 1: (4, channels, 1024), 2: (4, channels, 32, 32), 3: (4, channels, 4, 16, 16)}[dims]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        kind = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims]
        layer = kind(channels, channels, **({"kernel_size": 3, "padding": 1} if dims else {}))
        x = torch.randn(shape, requires_grad=True)

        def seconds(precision: str) -> float:
            start_time = clock()
            with autocast(x.device, precision):
                layer(x).float().square().mean().backward()
            return clock() - start_time

        pairs = [(seconds("fp32"), seconds("bf16")) for _ in range(9)]
    # The first ones compile kernels. A clock with coarse steps may show no time at all.
    return statistics.median(exact / max(fast, 1e-9) for exact, fast in pairs[2:])


def is_exported(model: Any) -> bool:
    """Return whether a model is an exported file, which has one precision and shows neither weights nor layers."""
    return bool(getattr(model, "precision", None)) and next(model.parameters(), None) is None


def unmixable_weight(model: nn.Module) -> tuple[str, torch.dtype] | None:
    """Return name and data type of a weight that cannot be used in mixed precision, or None."""
    weights = ((name, weight.dtype) for name, weight in model.named_parameters())
    return next((found for found in weights if found[1] in (torch.float16, torch.float64)), None)


def require_precision(precision: str) -> None:
    """Raise EgoDistillError for an unknown precision."""
    if precision not in PRECISIONS:
        raise EgoDistillError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return a context in which operations that gain from it run in bf16 or fp16, if that is the precision.

    An exported program has a precision of its own, such as int8, which the context does not change.
    """
    enabled = precision in ("bf16", "fp16")
    return torch.autocast(device.type, DTYPES[precision] if enabled else torch.bfloat16, enabled=enabled)


# {model: (its state, its copy)} of with_cast_weights()
CAST_COPIES: weakref.WeakKeyDictionary[nn.Module, tuple[Any, nn.Module]] = weakref.WeakKeyDictionary()


def with_cast_weights(model: nn.Module, precision: str) -> nn.Module:
    """Return a copy of a model whose linear layers and convolutions have weights in this precision.

    In fp32, return the model itself. Autocast converts fp32 weights in every call, which for a single clip takes longer
    than the network. Under `autocast()` the copy returns the same outputs to the bit. Callers share one copy until the
    model's weights change.

    >>> import torch
    >>> from egodistill import EgoDistill, runtime
    >>> model = EgoDistill.load("student.pt")
    >>> runtime.with_cast_weights(model, "fp32") is model
    True
    >>> runtime.with_cast_weights(model, "bf16").classifier.weight.dtype, model.classifier.weight.dtype
    (torch.bfloat16, torch.float32)
    """
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if precision == "fp32" or not any(isinstance(layer, layers) for layer in model.modules()):
        return model
    modes = [layer.training for layer in model.modules()]
    state = (precision, modes, checkpoints.weights_fingerprint(model, {}))
    if model not in CAST_COPIES or CAST_COPIES[model][0] != state:
        cast = copy.deepcopy(model)
        for layer in cast.modules():
            if isinstance(layer, layers):
                layer.to(DTYPES[precision])
        CAST_COPIES[model] = (state, cast)
    return CAST_COPIES[model][1]


class Compiled:
    """Callable that runs a model through torch.compile, or uncompiled with a message on stderr if that fails.

    The model is compiled for the size of the first batch. A smaller last batch runs uncompiled, because compiling again
    would take longer.
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
        except Exception as error:  # Dynamo, its backends and compilers have no common error.
            output = self.model(*inputs)  # Raises its own error if the input is wrong.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"torch.compile failed, so the model runs uncompiled: {reason}", file=sys.stderr)
            self.failed = True
            return output


@contextlib.contextmanager
def evaluation(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a model to a device, in evaluation mode; afterwards restore its device and the mode of each layer."""
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
    """Put batch norms with frozen weights into evaluation mode, so that their statistics do not change."""
    for part in model.modules():
        if isinstance(part, BATCH_NORMS) and part.affine and not part.weight.requires_grad:
            part.eval()


def lower_thread_priority() -> None:
    """Lower the priority of this thread and of the threads that it starts; only Linux has priorities per thread.

    If decoding and the model share the cores, the threads of the model spin while they wait for one that a decoder has
    displaced. With a lower priority, decoders use the time that the model leaves (LOG.md has measurements).
    """
    if sys.platform == "linux" and hasattr(os, "setpriority"):
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # A sandbox may forbid this.
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 5)


# ---------------------------------------------------------------------------------------------------------------
# Several processes, under torchrun


def join_processes(device: torch.device) -> None:
    """Join the process group of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), unless already done."""
    share = files.environment_share()
    if share["world_size"] > 1 and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend, rendezvous = "nccl" if device.type == "cuda" else "gloo", {}
        with distributed_errors():
            if "TORCHELASTIC_RUN_ID" in os.environ:  # under torchrun
                threading.Thread(target=end_with_agent, args=[os.getppid()], daemon=True).start()
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                store = torchrun_store()
                ATTEMPT[:] = [agree_on_attempt(store, **share)]
                rendezvous = {"store": distributed.PrefixStore(ATTEMPT[0], store), **share}
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


def torchrun_store(timeout: timedelta = TIMEOUT) -> distributed.Store:
    """Return the store through which the processes find each other; the agent on the machine of process 0 hosts it."""
    return distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timeout,
        use_libuv=os.environ.get("USE_LIBUV", "1") == "1",  # As torch reads it; torch for Windows has no libuv.
    )


def agree_on_attempt(store: distributed.Store, rank: int, world_size: int) -> str:
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
            error.is_first_failure = is_first_failure()
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
    """Part of a batch of ``total`` clips that this process trains on: the clips from ``start`` to ``stop``.

    A share has at least two clips, because batch norm and the contrastive loss need them. If a batch is too small, the
    last processes have no share. They compute the first clips with weight 0, because all processes must take part in
    every communication.

    >>> from egodistill import runtime
    >>> runtime.Share.of(64)  # without torchrun
    Share(start=0, stop=64, total=64)
    """

    start: int
    stop: int
    total: int

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

    Gradients flow back to all processes. The indices are int64 [b]; rows without weight have index 0.
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
    return AllReduceSum.apply(torch.cat([before, own, after])), torch.where(counts, places + start, 0)


def parallel(objective: nn.Module, *, find_unused: bool) -> nn.Module:
    """Wrap an objective in DistributedDataParallel, which averages gradients over the processes.

    Weights and buffers are copied from process 0. With ``find_unused``, a step may leave parameters without a gradient,
    in some processes or in all.
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
    """Average the running statistics of batch norms in training mode over the processes, weighted by ``weight``."""
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
