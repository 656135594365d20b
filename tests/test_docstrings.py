"""Docstrings: their examples print what they say, in a folder with the files that they name (see examples.py)."""

import importlib
import inspect
import re
import shutil
from pathlib import Path

import docstring_examples
import pytest

import egodistill

ROOT = Path(egodistill.__file__).parent
ROOMS = [sign.parent for sign in ROOT.glob("*/__init__.py") if sign.parent.name != "tests"]
MODULES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in ("setup", "__main__", "__init__"))
MODULES += sorted(f"{room.name}.{path.stem}" for room in ROOMS for path in room.glob("*.py") if path.stem != "__init__")
OPTIONAL = {
    "recordings.pictures.draw_check": "matplotlib",
    "deploy.export.export": "onnx",
}  # examples that need an extra


def load(name):
    return importlib.import_module("egodistill" if name == "egodistill" else f"egodistill.{name}")


@pytest.fixture(scope="session")
def examples(once):
    from examples import make

    return once("examples", lambda folder: make(folder / "made"))


def documented():
    for name in MODULES:
        yield from docstring_examples.documented(load(name), name)


@pytest.mark.parametrize("found", list(documented()))
def test_example_prints_what_it_says(found, examples, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    if found.name == "inference.measure":  # its numbers are of the usual width; the student of the files is small
        shutil.copytree(examples, here)
        arguments = egodistill.EgoDistill.load(here / "student.safetensors").arguments
        wide = egodistill.EgoDistill(**(arguments | {"hidden": 1024, "image_weights": None}))
        wide.save(here / "student.safetensors")
    docstring_examples.run(found, examples, here, OPTIONAL.get(found.name), monkeypatch, capsys)


def public():
    """Yield each function and class in the modules' __all__, where it is defined, with its methods."""
    for name in MODULES:
        module = load(name)
        for public_name in getattr(module, "__all__", ()):
            value = getattr(module, public_name)
            if getattr(value, "__module__", None) != module.__name__ or not callable(value):
                continue
            yield f"{name}.{public_name}", value
            if inspect.isclass(value):
                for method, member in vars(value).items():
                    if not method.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                        yield f"{name}.{public_name}.{method}", member


def test_everything_public_is_documented():
    inherited = ("forward", "train", "load_state_dict")  # documented by torch, or by the class
    lacking = [n for n, value in public() if not value.__doc__ and n.rpartition(".")[2] not in inherited]
    assert lacking == []


def test_one_kind_of_backticks():
    files = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in room.glob("*.py"))]
    assert [path.name for path in files if re.search(r"(?<!`)``(?!`)", path.read_text(encoding="utf-8"))] == []
