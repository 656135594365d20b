"""Packaging: flat files in the repository, one package `egodistill` once installed.

The modules lie side by side at the root, so that a reader finds them and can copy one alone.
Installed as they lie, `data`, `teachers` and `cli` would be top-level names and collide with
everyone's own `data.py`. So `BuildPy` puts them into a package on the way into a wheel:
egodistill.py becomes egodistill/__init__.py, data.py becomes egodistill/data.py. In a checkout and
in an editable install nothing is moved: there egodistill.py itself, by its `__path__`, is the
package.
"""

import os
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "egodistill"
# The one list of what is shipped: module in the package -> file at the root.
MODULES = {
    "__init__": "egodistill.py",
    "data": "data.py",
    "gpmf": "gpmf.py",
    "teachers": "teachers.py",
    "baselines": "baselines.py",
    "synthetic": "synthetic.py",
    "experiments": "experiments.py",
    "recordings": "recordings.py",
    "export": "export.py",
    "cli": "cli.py",
}
TYPED = "py.typed"
TUTORIALS = ["jupyter", "matplotlib"]
ROOT = Path(__file__).resolve().parent


class BuildPy(build_py):
    """Builds the flat files as one package."""

    def find_modules(self):
        return [(PACKAGE, module, file) for module, file in MODULES.items()]

    def build_modules(self):
        super().build_modules()
        # package_data applies to what is named in `packages`, and we name none.
        self.copy_file(TYPED, os.path.join(self.build_lib, PACKAGE, TYPED))


def version() -> str:
    """`__version__` of egodistill.py, read and not imported: building must not need torch."""
    source = (ROOT / MODULES["__init__"]).read_text(encoding="utf-8")
    found = re.search(r'^__version__\s*=\s*"([^"]+)"', source, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError(f'{MODULES["__init__"]} has no line \'__version__ = "..."\'')
    return found.group(1)


setup(
    name=PACKAGE,
    version=version(),
    description="EgoDistill: egocentric video understanding from few frames and head motion",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The egodistill authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["egocentric video", "IMU", "knowledge distillation", "action recognition", "pytorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # The editable install maps this name to egodistill.py alone; see BuildPy for the wheel.
    py_modules=[PACKAGE],
    cmdclass={"build_py": BuildPy},
    python_requires=">=3.10",
    # The tests were run with exactly these lower bounds, see CONTRIBUTING.md. An upper bound would
    # need a known break.
    install_requires=["torch>=2.4", "torchvision>=0.19", "numpy>=1.26.4", "av>=17.0"],
    extras_require={
        "tutorials": TUTORIALS,
        # What export.py asks for by name when a format or int8 needs it; torch.export and AOTInductor need none.
        "export": ["onnx", "onnxscript", "onnxruntime", "torchao"],
        # setuptools: tests/test_package.py builds without a downloaded build environment.
        "test": ["pytest", "ruff", "setuptools>=70.1", *TUTORIALS],
    },
    entry_points={"console_scripts": [f"{PACKAGE} = {PACKAGE}.cli:main"]},
    zip_safe=False,
)
