"""Weight gradients of image networks in channels_last, checked by a process that may crash.

A wrong kernel overwrites memory. So the check runs in a process of its own, with an allocator that verifies its heap
and fills new memory with noise: `check("student", 4, "AVX2")`.
"""

import functools
import os
import platform
import subprocess
import sys

import torch
from torch import nn
from waiting import LIMIT

import egodistill
from egodistill import student

NETWORKS = {"student": lambda width: student.build_image_encoder(f"resnet10x{width}", None)[0]}


def check(name: str, width: int, instructions: str, program: str = __file__) -> None:
    """Raise AssertionError unless a network of the NETWORKS of a program has the right gradients.

    `instructions` are the most that oneDNN may use, of those that an x86 processor has; others ignore the choice.
    """
    checks = {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "42", "DNNL_MAX_CPU_ISA": instructions}
    if platform.libc_ver()[0] == "glibc":  # MALLOC_CHECK_ needs this library since glibc 2.34.
        checks["LD_PRELOAD"] = "libc_malloc_debug.so.0"
    checks["PYTHONPATH"] = os.pathsep.join([os.path.dirname(egodistill.__file__), os.path.dirname(__file__)])
    command = [sys.executable, "-X", "faulthandler", program, name, str(width)]
    result = subprocess.run(command, env=os.environ | checks, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, f"{name} with {instructions}: exit status {result.returncode}\n{result.stderr}"


def compare(network: nn.Module, precision: str) -> None:
    """Train for a step in channels_last; compare each convolution's weight gradient with that of contiguous memory.

    Both come from the same inputs and output gradients, since two whole passes would differ where rounding moves a
    number across zero in front of a ReLU. The error is relative to the product of their norms, which bounds a weight's
    gradient: the gradient itself may be near zero in front of a batch norm.
    """
    network.to(memory_format=torch.channels_last).zero_grad()
    images = torch.randn(3, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [layer.register_forward_hook(functools.partial(record, seen, name)) for name, layer in layers.items()]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output = network(images).float()
    (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
    for hook in hooks:
        hook.remove()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    for name, layer in layers.items():
        x, gradient = seen[name]
        wanted = nn.grad.conv2d_weight(x, layer.weight.shape, gradient, layer.stride, layer.padding)
        error = (layer.weight.grad - wanted).abs().max() / (x.norm() * gradient.norm())
        assert error < {"fp32": 1e-6, "bf16": 1e-3}[precision], f"{name} in {precision}: error {error:.1e}"


def record(seen: dict[str, list[torch.Tensor]], name: str, layer: nn.Conv2d, inputs: tuple, output: torch.Tensor):
    """Copy a layer's input, and the gradient of its output once it is known, to contiguous memory."""
    copy = functools.partial(torch.clone, memory_format=torch.contiguous_format)
    seen[name] = [copy(inputs[0].detach().float())]
    output.register_hook(lambda gradient: seen[name].append(copy(gradient.float())))


def main(networks: dict) -> None:
    """Check the network that the command line names."""
    torch.manual_seed(0)
    network = networks[sys.argv[1]](int(sys.argv[2]))
    for precision in ("fp32", "bf16"):
        for repeat in range(20):
            torch.set_num_threads(1 + repeat % 2)
            compare(network, precision)


if __name__ == "__main__":
    main(NETWORKS)
