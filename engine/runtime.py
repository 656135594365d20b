"""Device, precision, compilation and evaluation mode of models.

    from egodistill.engine import runtime

    device = runtime.pick_device(None)                      # a GPU if there is one
    precision = runtime.pick_precision(device, "auto")      # "bf16" on hardware that is fast at it
    with runtime.evaluation(model, device), runtime.autocast(device, precision):
        output = model(frames.to(device))

`distributed` has what several processes share.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..support import tables
from ..support.errors import EgoDistillError, named
from . import checkpoints
from .recipes import PRECISIONS, Precision, require_precision

__all__ = [
    "BATCH_NORMS",
    "PRECISIONS",
    "Compiled",
    "Precision",
    "autocast",
    "bf16_speed",
    "evaluation",
    "has_bf16_kernels",
    "keep_frozen_statistics",
    "lower_thread_priority",
    "multiply_adds",
    "pick_device",
    "pick_precision",
    "pick_training_precision",
    "send",
    "require_precision",
    "numerics_record",
    "with_cast_weights",
]

# Data types of operations in mixed precision; weights, losses and optimizer stay in float32.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


# ---------------------------------------------------------------------------------------------------------------
# Device, precision, compilation


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the given device, or by default (None) a GPU if there is one; under torchrun, the GPU of this process.

    Raise EgoDistillError for a device that does not exist here.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if place == torch.device("cuda") and "LOCAL_RANK" in os.environ:
            place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if place.type == "meta":
            raise RuntimeError("it holds shapes, not values")
        torch.empty(0, device=place)  # on the GPU of this process, or each would take memory on the first one
    except (RuntimeError, AssertionError, ImportError) as error:  # A torch without CUDA asserts, without HPU imports.
        reason = str(error).splitlines()[0].rstrip(".")
        if isinstance(error, NotImplementedError):  # a page about its backends
            reason = "this build of torch lacks it"
        elif reason.startswith("Expected one of"):  # a list of twenty
            reason = "torch knows no device of this name; there are cpu, cuda (NVIDIA and AMD), mps (Apple) and others"
        raise EgoDistillError(
            f"the device {str(device)!r} cannot be used: {reason}; leave out {named('device')} for a GPU if there is "
            f"one, else the CPU"
        ) from error
    return place


def send(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU copies it from pinned memory, which torch keeps until then."""
    pins = device.type == "cuda" and x.device.type == "cpu"
    return (x.pin_memory() if pins else x).to(device, non_blocking=device.type != "mps")  # which would read it later


def bf16_speed(device: torch.device, *, training: bool = False) -> tuple[bool, str]:
    """Return whether "auto" is bf16 on a device, and the reason as a clause to follow "because".

    It is on NVIDIA GPUs with compute capability 8 or higher, on CPUs with AMX, and in inference on AMD CPUs with
    AVX512_BF16 (Zen 4 and later; on a Zen 5, students and baselines took 0.4 to 0.7 of the time). On an Intel Xeon with
    AVX512_BF16 but without AMX, the student took 1.5 times as long. If oneDNN emulates bf16, a training step takes 12
    to 25 times as long. A CPU that torch does not describe (torch 2.4 describes none) counts as slow. Nothing is timed:
    the answer is the same each time, because the weights that a seed gives depend on it. In training, of CPUs only
    those with AMX count.
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
    if name.startswith("AMD") and not training:
        return bool(cpu.get("avx512_bf16")), f"{name} has {'' if cpu.get('avx512_bf16') else 'no '}AVX512_BF16"
    return False, f"{name} has no AMX"


def describe_cpu() -> tuple[str, Mapping[str, Any]]:
    """Return the name of the CPU and its instruction sets, as far as torch knows them."""
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return str(cpu.get("cpu_name") or "this CPU"), cpu


def has_bf16_kernels() -> bool:
    """Return whether torch has oneDNN, and it computes in bf16 on this CPU instead of emulating it."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pick_precision(device: torch.device, precision: str, model: Any = None) -> str:
    """Return the precision for inference, "fp32", "bf16" or "fp16"; "auto" is bf16 where `bf16_speed()` says so.

    A model with an attribute `precision`, such as an exported file, runs only in that one. Raise EgoDistillError for
    weights that cannot run in mixed precision.

    >>> import torch
    >>> from egodistill.engine import runtime
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
            f"call model.float() first, or choose {named('precision', 'fp32')} to keep them"
        )
    return precision


def pick_training_precision(device: torch.device, model: nn.Module) -> tuple[str, str]:
    """Return what "auto" is in training, by `bf16_speed()`, and the reason as a clause to follow "because".

    Weights that do not mix with bf16 train in fp32, on CPUs also those of 3-D convolutions of torch.
    """
    if unmixable_weight(model):
        return "fp32", "the model has weights that are not float32"
    if device.type == "cpu" and trained_conv3d(model):
        return "fp32", "torch's bf16 gradients of 3-D convolutions are wrong on CPUs"
    fast, reason = bf16_speed(device, training=True)
    return "bf16" if fast else "fp32", reason


def numerics_record(device: torch.device) -> dict[str, Any]:
    """Return what the last bits of a training depend on beside its settings: {name: value}."""
    found: dict[str, Any] = {"torch": str(torch.__version__)}
    if device.type == "cuda":
        return found | {"device": torch.cuda.get_device_name(device)}
    kernels = torch.backends.cpu.get_cpu_capability()
    return found | {"processor": tables.processor(), "kernels": kernels, "threads": torch.get_num_threads()}


def is_exported(model: Any) -> bool:
    """Return whether a model is an exported file, which has one precision and shows neither weights nor layers."""
    return bool(getattr(model, "precision", None)) and next(model.parameters(), None) is None


def unmixable_weight(model: nn.Module) -> tuple[str, torch.dtype] | None:
    """Return name and data type of a weight that cannot be used in mixed precision, or None."""
    weights = ((name, weight.dtype) for name, weight in model.named_parameters())
    return next((found for found in weights if found[1] in (torch.float16, torch.float64)), None)


def trained_conv3d(model: nn.Module) -> str | None:
    """Return the name of a 3-D convolution of torch that is trained, or None; those of this library are others.

    On CPUs with AMX, torch 2.13 computes wrong weight gradients of it in bf16 (docs/log.md).
    """
    own = nn.Conv3d.forward
    found = (name for name, layer in model.named_modules() if getattr(type(layer), "forward", None) is own)
    return next((name for name in found if model.get_submodule(name).weight.requires_grad), None)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return a context in which operations that gain from it run in bf16 or fp16, if that is the precision.

    Others, such as fp32, or "int8" of an exported program, change nothing.
    """
    enabled = precision in ("bf16", "fp16")
    return torch.autocast(device.type, DTYPES[precision] if enabled else torch.bfloat16, enabled=enabled)


# {model: (its state, its copy)} of with_cast_weights()
CAST_COPIES: weakref.WeakKeyDictionary[nn.Module, tuple[Any, nn.Module]] = weakref.WeakKeyDictionary()


def with_cast_weights(model: nn.Module, precision: str) -> nn.Module:
    """Return a copy of a model whose linear layers and convolutions have weights in bf16 or fp16; for fp32, the model.

    >>> import torch
    >>> from egodistill import EgoDistill
    >>> from egodistill.engine import runtime
    >>> model = EgoDistill.load("student.safetensors")
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
    """A callable that runs a model through torch.compile, or uncompiled with a message on stderr if that fails.

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


USES: weakref.WeakKeyDictionary[nn.Module, Use] = weakref.WeakKeyDictionary()
USES_LOCK = threading.Lock()


@dataclass
class Use:
    """How a model was before it was used in evaluation mode, and how many users it has."""

    modes: dict[nn.Module, bool]
    home: torch.device
    device: torch.device
    count: int = 0


def multiply_adds(network: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Return the multiply-adds of one call of a network."""
    # torch counts every implementation of attention except the one for CPUs.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {attention: lambda q, k, v, *rest, out_shape=None, **options: sdpa_flop_count(q, k, v)}
    # In inference mode, torch 2.4 counts neither convolutions nor linear layers.
    with torch.inference_mode(False), torch.no_grad():
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            network(*inputs)
    return counter.get_total_flops() / 2


@contextlib.contextmanager
def evaluation(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a model to a device, in evaluation mode; afterwards restore its device and the mode of each layer.

    Threads may use a model at the same time; the last of them restores it. Raise EgoDistillError if it is in use on
    another device.
    """
    with USES_LOCK:
        use = USES.get(model)
        if use is None:
            home = next((parameter.device for parameter in model.parameters()), device)
            use = Use({layer: layer.training for layer in model.modules()}, home, device)
            model.to(device).eval()
            USES[model] = use
        elif use.device != device:
            raise EgoDistillError(f"the model is in use on {use.device}, so it cannot move to {device}; load it twice")
        use.count += 1
    try:
        yield
    finally:
        with USES_LOCK:
            use.count -= 1
            if not use.count:
                del USES[model]
                for layer, mode in use.modes.items():
                    layer.training = mode
                if use.home != device:
                    model.to(use.home)


def keep_frozen_statistics(model: nn.Module) -> None:
    """Put batch norms with frozen weights into evaluation mode, so that their statistics do not change.

    One without weights is frozen if it has an attribute `keeps_statistics = True`.
    """
    for part in model.modules():
        if isinstance(part, BATCH_NORMS):
            frozen = not part.weight.requires_grad if part.affine else getattr(part, "keeps_statistics", False)
            if frozen:
                part.eval()


def lower_thread_priority() -> None:
    """Lower the priority of this thread and of the threads that it starts; only Linux has priorities per thread.

    If decoding and the model share the cores, the threads of the model spin while they wait for one that a decoder has
    displaced. With a lower priority, decoders use the time that the model leaves (docs/log.md has measurements).
    """
    if sys.platform == "linux" and hasattr(os, "setpriority"):
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # A sandbox may forbid this.
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 5)
