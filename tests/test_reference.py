"""REFERENCE.md: its examples print what stands below them, it names all that is public and nothing else."""

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
from pathlib import Path

import pytest
import torch

import egodistill

ROOT = Path(egodistill.__file__).parent
REFERENCE = (ROOT / "REFERENCE.md").read_text(encoding="utf-8") if (ROOT / "REFERENCE.md").exists() else ""
pytestmark = pytest.mark.skipif(not REFERENCE, reason="no REFERENCE.md beside the package: not a checkout")

# Modules that programs use, or that can be copied alone. What only other modules need is documented by docstrings.
SIBLINGS = (
    "synthetic",
    "data",
    "clips",
    "annotations",
    "store",
    "video",
    "imu",
    "gpmf",
    "recordings",
    "offset",
    "teachers",
    "video_transformers",
    "video_convnets",
    "student",
    "export",
    "baselines",
    "experiments",
    "cli",
)
MODULES = {name: importlib.import_module(f"egodistill.{name}") for name in SIBLINGS} | {"egodistill": egodistill}
OPTIONAL = {"experiments.draw(": "matplotlib"}  # Examples that need what is not among the run-time dependencies.

EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", REFERENCE))]
NAME = re.compile(rf"(?<![\w./])({'|'.join(SIBLINGS)}|{'|'.join(egodistill.__all__)})(?!\w)((?:\.[A-Za-z_]\w*)*)")


def test_examples_print_what_stands_below_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "reference"}
    with torch.random.fork_rng(devices=[]):
        for example in EXAMPLE.finditer(REFERENCE):
            code, said = example.groups()
            before = REFERENCE.count("\n", 0, example.start(1))
            if any(call in code and importlib.util.find_spec(needed) is None for call, needed in OPTIONAL.items()):
                continue
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                # Empty lines before it: a traceback names the line in the file.
                exec(compile("\n" * before + code, str(ROOT / "REFERENCE.md"), "exec"), names)
            where = f"REFERENCE.md, line {before + 1}"
            assert said, f"{where}: the example has no output below it; it prints\n{printed.getvalue()}"
            wanted = ".+?".join(re.escape(piece) for piece in said.split("..."))  # "." is no end of a line.
            assert re.fullmatch(wanted, printed.getvalue()), f"{where}: printed\n{printed.getvalue()}and not\n{said}"


HEADINGS = re.findall(r"`([^`]+)`", "".join(re.findall(r"(?m)^### .*", REFERENCE)))


def prefix(module):
    return "" if module == "egodistill" else f"{module}."


def has_entry(module, name):
    """It has a heading under its module, or under another one that shows the same: `data.probe` is `video.probe`."""
    value = getattr(MODULES[module], name)
    return any(
        prefix(other) + name in HEADINGS and name in shown.__all__ and getattr(shown, name) is value
        for other, shown in MODULES.items()
    )


@pytest.mark.parametrize("module", MODULES)
def test_each_public_name_has_an_entry(module):
    public = MODULES[module].__all__
    lacking = [prefix(module) + name for name in public if not has_entry(module, name)]
    assert lacking == [], 'public, and without a heading "### `name`" in REFERENCE.md'
    entries = [name.rpartition(".")[2] for name in HEADINGS if name.rpartition(".")[0] == prefix(module)[:-1]]
    assert sorted(set(entries) - set(public)) == [], f"REFERENCE.md has entries for what is not in {module}'s __all__"


def test_headings_are_of_modules_that_are_listed():
    assert {name.rpartition(".")[0] or "egodistill" for name in HEADINGS} == set(MODULES)


def names_of(span):
    """Names of the package in code: the module, and the parts of the name below it."""
    for first, rest in NAME.findall(span):
        parts = rest.split(".")[1:]
        yield (first, parts) if first in SIBLINGS else ("egodistill", [first, *parts])


def look_up(module, parts):
    """What a dotted name stands for (the class, where it is a field without default). AttributeError if nothing."""
    found = MODULES[module]
    for part in parts:
        if not (isinstance(found, type) and part in inspect.get_annotations(found)):
            found = getattr(found, part)
    return found


def test_names_exist():
    strange = []
    for span in SPANS:
        for module, parts in names_of(span):
            try:
                look_up(module, parts)
                assert not parts or parts[0] in MODULES[module].__all__
            except (AttributeError, AssertionError):
                strange.append(".".join([module, *parts]))
    assert not strange


def signatures():
    """(name, callable, its arguments as the file lists them) of each line of code that is a signature."""
    for span in SPANS:
        found = re.fullmatch(r"([\w.]+)\((.+?)\)(?: -> .*)?", span)
        if not found or re.match(r"\.\.\.|\"", found[2]):  # An example: `prepare(..., audio=True)`.
            continue
        for module, parts in names_of(found[1]):
            with contextlib.suppress(AttributeError):  # test_names_exist() tells.
                yield pytest.param(module, look_up(module, parts), found[2], id=found[1])


@pytest.mark.parametrize(("module", "function", "arguments"), list(signatures()))
def test_signatures_are_true(module, function, arguments):
    """Arguments are there, in that order, with these defaults, and none is left out unless "..." says so."""
    names = dict(vars(MODULES[module]))
    exec(f"def listed({re.sub(r'(, )?[.]{3}', '', arguments)}): ...", names)
    listed = inspect.signature(names["listed"]).parameters
    real = inspect.signature(function).parameters.items()
    shown = {name: p for name, p in real if name != "self" and not name.startswith("_")}
    if "..." in arguments:
        shown = {name: p for name, p in shown.items() if name in listed}
    assert list(listed) == list(shown)
    for name, parameter in listed.items():
        assert parameter.kind == shown[name].kind, name
        assert parameter.default == shown[name].default or repr(shown[name].default) == "<factory>", name


def test_contents_lead_to_the_sections():
    def anchor(heading):
        return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")

    sections = [anchor(heading) for heading in re.findall(r"(?m)^## (.*)", REFERENCE)]
    assert re.findall(r"\]\(#([^)]*)\)", REFERENCE) == sections
