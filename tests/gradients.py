"""Gradients of image networks in channels_last, compared with contiguous memory by a process that may crash.

A wrong kernel overwrites memory, so the comparison runs in a process of its own, with an allocator that checks its
heap and fills new memory with noise: `check("egodistill.small_resnet(4)[0]", instructions="AVX2")`.
"""

import copy
import os
import platform
import subprocess
import sys

import torch

import egodistill
from egodistill import baselines, data  # noqa: F401 (names for the expressions)

INSTRUCTIONS = ("AVX2", "AVX512_CORE", "ALL")  # of x86; elsewhere oneDNN ignores the choice


def check(network: str, instructions: str) -> None:
    """Raise AssertionError unless a network, given as an expression, has the same gradients in both formats."""
    checks = {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "42"}
    if platform.libc_ver()[0] == "glibc":  # MALLOC_CHECK_ needs this library since glibc 2.34.
        checks["LD_PRELOAD"] = "libc_malloc_debug.so.0"
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, network],
        env=os.environ | checks | {"DNNL_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"{network}, {instructions}: {result.returncode}\n{result.stderr}"


def compare(network: torch.nn.Module, repeats: int = 20, clips: int = 3, pixels: int = 64) -> None:
    """Run a network forward and backward in both formats on the same random images and compare all gradients."""
    channels = next(network.parameters()).shape[1]
    twin = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    network.to(memory_format=torch.channels_last)
    for _ in range(repeats):
        images, found = torch.randn(clips, channels, pixels, pixels), []
        for model, layout in ((twin, torch.contiguous_format), (network, torch.channels_last)):
            model.zero_grad()
            output = model(images.contiguous(memory_format=layout))
            (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
            found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        wanted, gradients = found
        for name, gradient in gradients.items():
            scale = wanted[name].abs().max().item()
            torch.testing.assert_close(gradient, wanted[name], rtol=0, atol=1e-3 * scale, msg=lambda s: f"{name}: {s}")


if __name__ == "__main__":
    torch.manual_seed(0)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        compare(eval(sys.argv[1]))
