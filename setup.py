"""Packaging: files and rooms in the repository, one package `egodistill` once installed.

What can be copied alone stands at the root, beside the doors and the method. Installed in this way, `data`, `teachers`
and `commands` would be top-level names and collide with everyone's own `data.py`. So `BuildPy` puts them into a package
on the way into a wheel: egodistill.py becomes egodistill/__init__.py, data.py becomes egodistill/data.py, and a room
such as recordings/ becomes egodistill/recordings/. In a checkout, egodistill.py itself, by its `__path__`, is the
package; an editable install in strict mode links the files as a wheel holds them.
"""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "egodistill"
HOME = "https://github.com/egodistill/egodistill"
SITE = "https://egodistill.github.io/egodistill/"  # what .github/workflows/docs.yml deploys
ROOT = Path(__file__).resolve().parent
# What is shipped, as (package, module, file): each module at the root, and each folder with an __init__.py, a room.
DOOR, VERSION = f"{PACKAGE}.py", ROOT / "support" / "version.py"
MODULES = [
    (PACKAGE, "__init__" if path.name == DOOR else path.stem, path.name)
    for path in sorted(ROOT.glob("*.py"))
    if path.name != "setup.py"
]
for sign in sorted(ROOT.glob("*/__init__.py")):
    room = sign.parent.name
    MODULES += [(f"{PACKAGE}.{room}", path.stem, f"{room}/{path.name}") for path in sorted(sign.parent.glob("*.py"))]
# What else is shipped: the mark of typed packages, and students.
FILES = ["py.typed", *sorted(f"students/{path.name}" for path in ROOT.glob("students/*.safetensors"))]
LARGEST = 300_000  # bytes of a student: a package index is no place for models
PLOTS = ["matplotlib"]
TUTORIALS = ["jupyter", *PLOTS]
# tools/site.py uses parts of pdoc that another major version may change. matplotlib: an annotation names it.
DOCS = [*PLOTS, "pdoc>=16,<17"]


class BuildPy(build_py):
    """Build the files and rooms as one package."""

    def find_modules(self):
        return MODULES

    def build_modules(self):
        super().build_modules()
        for file, target in self.files().items():
            if os.path.getsize(file) > LARGEST:
                raise RuntimeError(f"{file}: has more than {LARGEST:,} bytes; a larger student is for a download")
            self.mkpath(os.path.dirname(target))
            self.copy_file(file, target)

    def files(self) -> dict[str, str]:
        """Return {file: where it goes}; package_data applies to what is named in `packages`, and we name none."""
        return {file: os.path.join(self.build_lib, PACKAGE, *file.split("/")) for file in FILES}

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *self.files().values()]

    def get_output_mapping(self):
        """Return {built file: its source}: what an editable install in strict mode links."""
        return super().get_output_mapping() | {target: file for file, target in self.files().items()}


def version() -> str:
    """Return `__version__`, which is read and not imported: building must not need torch."""
    source = VERSION.read_text(encoding="utf-8")
    found = re.search(r'^__version__\s*=\s*"([^"]+)"', source, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{VERSION} has no line '__version__ = \"...\"'")
    return found.group(1)


def package_page(readme: str) -> str:
    """Return the README for the page of a package index, which has neither the repository's files nor a checkout."""
    tag = f"v{version()}"
    readme = re.sub(r"(!\[[^]]*\])\((?!https?:|#)([^)]+)\)", rf"\1({HOME}/raw/{tag}/\2)", readme)
    readme = re.sub(r"(?<!!)(\[[^]]*\])\((?!https?:|#)([^)]+)\)", rf"\1({HOME}/blob/{tag}/\2)", readme)
    return re.sub(r'pip install ("?)\.(?=[\s\[](?!.*pytest))', rf"pip install \1{PACKAGE}", readme)


def build_options() -> dict[str, dict[str, str]]:
    """Return where setuptools puts what it makes on the way: elsewhere if the checkout cannot be written."""
    if os.access(ROOT, os.W_OK):
        return {}
    scratch = tempfile.mkdtemp(prefix=f"{PACKAGE}-build-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return {"egg_info": {"egg_base": scratch}, "build": {"build_base": scratch}}


setup(
    name=PACKAGE,
    version=version(),
    description="EgoDistill: egocentric video understanding from few frames and head motion",
    long_description=package_page((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author="The egodistill authors",
    url=HOME,
    project_urls={
        "Documentation": SITE,
        "Source": HOME,
        "Issues": f"{HOME}/issues",
        "Changelog": f"{HOME}/blob/main/CHANGELOG.md",
        "Paper": "https://arxiv.org/abs/2301.02217",
    },
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["egocentric video", "IMU", "knowledge distillation", "action recognition", "pytorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # The editable install maps this name to egodistill.py alone; see BuildPy for the wheel.
    py_modules=[PACKAGE],
    cmdclass={"build_py": BuildPy},
    options=build_options(),
    python_requires=">=3.10",
    # The oldest versions on which the whole suite passes; .ci/oldest.txt holds the same for CI, a test compares them.
    # An upper bound would need a known break that cannot be bridged.
    install_requires=["torch>=2.4", "torchvision>=0.19", "numpy>=1.26.4", "av>=17.0"],
    extras_require={
        "plots": PLOTS,
        "tutorials": TUTORIALS,
        "docs": DOCS,
        # What export.py asks for by name when a format or int8 needs it; torch.export and AOTInductor need none.
        "export": ["onnx", "onnxscript", "onnxruntime", "torchao"],
        # Pictures of Project Aria's first generation; the standard library reads zstd from 3.14 on.
        "cameras": ["zstandard; python_version < '3.14'"],
        # setuptools: tests/test_package.py builds without a downloaded build environment.
        # Another minor version of ruff may format differently. mypy and basedpyright (pyright with the Node.js that it
        # needs): tests/test_types.py checks a user's program, .ci/run the library. safetensors: tests/engine/ compares.
        "test": [
            "basedpyright",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff>=0.17.6,<0.18",
            "safetensors",
            "setuptools>=77",
            *TUTORIALS,
            *DOCS,
        ],
    },
    entry_points={"console_scripts": [f"{PACKAGE} = {PACKAGE}.__main__:main"]},
    zip_safe=False,
)
