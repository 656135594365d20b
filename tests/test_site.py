"""The site: `tools/site.py` builds it without a warning or a broken link, and everything public is on a page."""

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import is_typeddict

import pytest

import egodistill

ROOT = Path(egodistill.__file__).parent
pytestmark = pytest.mark.skipif(not (ROOT / "tools").is_dir(), reason="no tools beside the package: not a checkout")
docstrings = pytest.importorskip("pdoc.docstrings", reason='building the site needs pip install ".[docs]"')


@pytest.fixture(scope="module")
def tool():
    paths = sys.path[:]
    sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("egodistill_site", ROOT / "tools" / "site.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sys.path[:] = paths
    return script


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built by a process of its own: pdoc changes what it documents."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "error", ROOT / "tools" / "site.py", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    return out


def test_a_broken_link_is_found(tool, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text('<a href="a/b.html#there">, <a href="#here">, <img alt="" src="no.png">')
    (tmp_path / "a" / "b.html").write_text('<h1 id="there"><a href="../index.html">, <a class="c" href="../a.html#x">')
    assert tool.broken_links(tmp_path) == ["a/b.html: ../a.html#x", "index.html: #here", "index.html: no.png"]


def test_links_of_documents_lead_to_pages_or_to_the_repository(tool, tmp_path):
    text = '<a href="../README.md#live"> <a href="log.md"> <a href="../results"> <a href="../data.py"> <a href="https://x.org/a.md">'
    places = ["../index.html#live", "log.html", "../results/index.html", f"{tool.FILES}/data.py", "https://x.org/a.md"]
    assert re.findall('"(.*?)"', tool.relink(text, Path("docs"), tmp_path)) == places
    tool.relink('<img src="../figures/idea.png">', Path("docs"), tmp_path)
    assert (tmp_path / "figures/idea.png").is_file()


@pytest.mark.slow("builds the site")
def test_every_document_and_every_public_name_is_there(site, tool):
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    documents = {
        f"{path.parent.name}/{path.stem.replace('README', 'index')}.html"
        for room in ("docs", "results", "lab")
        for path in ROOT.glob(f"{room}/*.md")
    }
    modules = {f"egodistill/{name.replace('.', '/')}.html" for name in [*tool.api.MODULES[1:], *tool.api.LOWER]}
    assert pages.keys() >= {
        "index.html",
        "CHANGELOG.html",
        "CONTRIBUTING.html",
        "egodistill.html",
        *documents,
        *modules,
    }
    for name in egodistill.__all__:
        place = re.search(
            rf'<a href="(egodistill/[\w/]+\.html)#{name}">|<section id="{name}">', pages["egodistill.html"]
        )
        assert place and f'<section id="{name}">' in pages[place[1] or "egodistill.html"], name


# The doors, and the modules that the door hands on and the guide calls.
DOORS = "egodistill data teachers deploy.events deploy.export deploy.gates world.synthetic student".split()


def handed_on(api):
    """Yield the modules that users call with the names they hand on: doors, signs of rooms, files marked "copy"."""
    house = (ROOT / "README.md").read_text(encoding="utf-8")
    copies = re.findall(r"(\w+)\.py", "".join(re.findall(r"(?m)^├── (.+)copy:", house)))
    assert "imu" in copies
    for module in map(api.import_module, [*DOORS, *copies]):
        yield module, module.__all__
    for sign in ROOT.glob("*/__init__.py"):
        if sign.parent.name != "tests":
            module = api.import_module(sign.parent.name)
            yield module, [name for name in dir(module) if not name.startswith("_")]


def with_arguments(api):
    """Yield each function, method and class that is handed on and can be called: (name, itself, its docstrings)."""
    for module, names in handed_on(api):
        for name in names:
            value = getattr(module, name)
            path = f"{module.__name__}.{name}"
            if inspect.isfunction(value):
                yield path, value, [value.__doc__]
            elif inspect.isclass(value) and not (issubclass(value, Exception) or is_typeddict(value)):
                if not getattr(value, "_is_protocol", False):
                    bases = [base for base in value.__mro__ if base.__module__.startswith("egodistill")]
                    yield path, value, [doc for base in bases for doc in (base.__doc__, base.__init__.__doc__)]
                for method, member in vars(value).items():
                    member = getattr(member, "__func__", member)  # of a class method or static method
                    if inspect.isfunction(member) and not method.startswith("_") and member.__doc__:
                        yield f"{path}.{method}", member, [member.__doc__]


def lacking_arguments(api):
    """Return 'name: arguments' for all that is handed on and does not list each of its arguments."""
    lacking = {}
    for path, value, texts in with_arguments(api):
        pages = (docstrings.convert(inspect.cleandoc(text), "google", None) for text in texts if text)
        lists = re.findall(r"(?ms)^###### (?:Arguments|Attributes):\n(.*?)(?=^######|\Z)", "\n".join(pages))
        listed = re.findall(r"(?m)^ - \*\*(.+?):\*\*", "".join(lists))
        shown = {name for names in listed for name in re.findall(r"\w+", names.partition(" (")[0])} | {"self", "cls"}
        missing = [name for name in inspect.signature(value).parameters if not (name in shown or name.startswith("_"))]
        if missing and "->" not in (value.__doc__ or ""):  # which has shapes instead
            lacking.setdefault(value, f"{path}: {', '.join(missing)}")
    return list(lacking.values())


def test_arguments_of_everything_handed_on_are_listed(tool):
    lacking = lacking_arguments(tool.api)
    assert not lacking, "\n".join(lacking)
