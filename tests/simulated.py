"""The device "sim", a simulated accelerator for tests (simulated.cpp): register() once, in a process of its own.

It shows what a machine without a GPU hides: a constant that is made on the CPU in a forward pass, a buffer that stayed
behind, `.numpy()` of a tensor on the device, a checkpoint that loads only where it was written. It does not show
reduced precision, pinned memory, streams, NCCL, limits of memory, or speed.
"""

import shutil
import subprocess
import types
from pathlib import Path

import torch
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILER = shutil.which("c++") or shutil.which("g++")


def build(library: Path) -> None:
    """Compile the device into a shared library, in a quarter of a minute."""
    words = [COMPILER, "-shared", "-fPIC", "-std=c++20", "-O0", "-w", str(SOURCE), "-o", str(library)]
    words += [f"-isystem{folder}" for folder in cpp_extension.include_paths()]
    words += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    words += [f"-L{folder}" for folder in cpp_extension.library_paths()]
    subprocess.run([*words, "-lc10", "-ltorch_cpu"], check=True)


def register(library: Path) -> None:
    """Make "sim" a device of this process, with what `torch.sim` must have."""
    torch.ops.load_library(str(library))
    torch.ops.sim.start()
    torch.utils.rename_privateuse1_backend("sim")
    module = types.ModuleType("torch.sim")
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    # Random numbers are the CPU's.
    module.get_rng_state = lambda device=0: torch.empty(0, dtype=torch.uint8)
    for name in ("set_device", "synchronize", "manual_seed", "manual_seed_all", "set_rng_state"):
        setattr(module, name, lambda *_: None)
    torch._register_device_module("sim", module)
    torch.utils.generate_methods_for_privateuse1_backend()
