"""Fill results/gpu.md on a machine with a GPU: Table 3 in three forms, and training throughput at the paper's size.

    python benchmarks/gpu.py --markdown results/gpu.md          # about half an hour
    python benchmarks/gpu.py --device cpu --quick               # to try it without a GPU

Sections of the document are named after the GPU. Times are measured with device events.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistillError
from egodistill.engine import runtime
from egodistill.support import tables
from lab.__main__ import main as main_of_the_lab

FORMS = (["--precision", "fp32"], ["--precision", "bf16"], ["--precision", "bf16", "--compile"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small row and one round, to try it")
    tables.markdown_option(parser)
    a = parser.parse_args()
    try:
        runtime.pick_device(a.device)
    except EgoDistillError as error:
        sys.exit(str(error))
    document = ["--markdown", a.markdown] if a.markdown else []
    for form in FORMS[: 1 if a.quick else None]:
        small = ["--rows", "EgoDistill", "--batch-size", "2", "--repeats", "2"] if a.quick else []
        if code := main_of_the_lab(["table3", "--device", a.device, *form, *small, *document]):
            sys.exit(code)
    small = ["--only", "stage 1", "--rounds", "1", "--size", "demo"] if a.quick else ["--size", "paper"]
    steps = Path(__file__).with_name("steps.py")
    sys.exit(subprocess.run([sys.executable, steps, "--device", a.device, *small, *document], check=False).returncode)


if __name__ == "__main__":
    main()
