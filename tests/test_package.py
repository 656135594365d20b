"""The package as others get it: what a wheel holds, and that it works on every road there is.

Nothing is downloaded. Each installation goes into an empty environment that sees the third-party
packages of the running one through a folder of links, in which egodistill itself is left out: an
installed copy must not stand in for the one under test.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import warnings
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Every Python file at the root or in a room is a module of the package; one that setup.py forgets is missed.
ROOMS = sorted(sign.parent.name for sign in ROOT.glob("*/__init__.py"))
FILES = {path.stem: path for path in ROOT.glob("*.py") if path.name not in ("setup.py", "egodistill.py")}
FILES |= {f"{room}.{path.stem}": path for room in ROOMS for path in (ROOT / room).glob("*.py")}
MODULES = sorted(FILES)
RUNTIME = {"torch", "torchvision", "numpy", "av"}
PIP = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
NOT_SOURCE = {"build", "dist", "__pycache__", "egodistill.egg-info", ".venv", ".git"}


def run(*command, cwd, path=None) -> str:
    """Runs a command with no trace of this process's Python settings; returns what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PYTHONDONTWRITEBYTECODE": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} in {cwd}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_files() -> list[Path]:
    """Files that git tracks or would offer to add; in an unpacked sdist, all that was not built."""
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).split("\0")
        names = {name for name in listed if name}
    else:
        names = {path.relative_to(ROOT) for path in ROOT.rglob("*")}
        names = {name for name in names if NOT_SOURCE.isdisjoint(name.parts)}
    return [path for path in sorted(ROOT / name for name in names) if path.is_file()]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of the source, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for path in source_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return copy


@pytest.fixture(scope="session")
def third_party(tmp_path_factory) -> Path:
    """Links to all that is installed beside this Python, but for egodistill and names like ours."""
    links = tmp_path_factory.mktemp("third_party")
    for folder in map(Path, sys.path):
        if folder.name not in ("site-packages", "dist-packages") or not folder.is_dir():
            continue
        for entry in folder.iterdir():
            ours = "egodistill" in entry.name or entry.stem in {*MODULES, *ROOMS} or entry.suffix == ".pth"
            if not ours and not (links / entry.name).exists():
                (links / entry.name).symlink_to(entry)
    return links


@pytest.fixture
def empty_environment(tmp_path, third_party) -> Path:
    """The `bin` folder of a new environment that has the third-party packages and no egodistill."""
    where = tmp_path / "environment"
    venv.create(where, with_pip=False, symlinks=True)
    (site_packages,) = where.glob("lib/python*/site-packages")
    (site_packages / "third_party.pth").write_text(f"{third_party}\n")
    return where / "bin"


@pytest.fixture(scope="session")
def built(once, checkout, third_party) -> dict[str, Path]:
    """The sdist of the checkout, and the wheel that comes out of that sdist."""
    return once("dist", lambda out: build(out, checkout, third_party))


def build(out: Path, checkout: Path, third_party: Path) -> dict[str, Path]:
    backend = "import sys; from setuptools import build_meta as b; b.build_{}(sys.argv[1])"
    run(sys.executable, "-S", "-c", backend.format("sdist"), out, cwd=checkout, path=third_party)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    (unpacked,) = (path for path in out.iterdir() if path.is_dir())
    run(sys.executable, "-S", "-c", backend.format("wheel"), out, cwd=unpacked, path=third_party)
    (wheel,) = out.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel, "unpacked": unpacked}


@pytest.fixture(scope="module")
def version() -> str:
    source = (ROOT / "support" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


def test_wheel_holds_one_package_with_every_module(built):
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    files = {name for name in names if ".dist-info/" not in name}
    modules = {f"egodistill/{name.replace('.', '/')}.py" for name in ("__init__", *MODULES)}
    assert files == modules | {"egodistill/py.typed", "egodistill/students/glasses.safetensors"}
    assert zipfile.ZipFile(built["wheel"]).getinfo("egodistill/students/glasses.safetensors").file_size <= 300_000
    assert any(name.endswith("LICENSE") for name in names)


def test_sdist_holds_tests_and_papers(built, checkout):
    """What is needed to test the sdist, and what a distributor must pass on."""
    there = {str(path.relative_to(built["unpacked"])) for path in built["unpacked"].rglob("*")}
    wanted = {str(path.relative_to(checkout)) for path in (checkout / "tests").rglob("*.py")}
    wanted |= {
        "LICENSE",
        "CITATION.cff",
        "CHANGELOG.md",
        "README.md",
        "docs/api.md",
        "docs/results.md",
        "tools",
        "pyproject.toml",
        "py.typed",
    }
    assert wanted <= there


def check_release_notes(version):
    """A release has its dated entry and is what is cited; what comes after it is "Unreleased"."""
    changes, citation = ((ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff"))
    released = re.findall(r"(?m)^## ([\d.]+) \(\d{4}-\d\d-\d\d\)$", changes)
    coming, dev, _ = version.partition(".dev")
    assert re.findall(r"(?m)^## Unreleased \((.*)\)$", changes) == ([coming] if dev else [])
    assert dev or released[0] == version
    assert f"\nversion: {released[0]}\n" in citation


def test_metadata(built, version):
    with zipfile.ZipFile(built["wheel"]) as archive:
        folders = [path for path in zipfile.Path(archive).iterdir() if "dist-info" in path.name]
        metadata = PathDistribution(folders[0]).metadata
    assert metadata["Version"] == version
    assert metadata["Requires-Python"] == ">=3.10"
    always = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.match(r"[\w-]+", line).group() for line in always} == RUNTIME
    assert {"tutorials", "test"} <= set(metadata.get_all("Provides-Extra"))
    check_release_notes(version)
    assert metadata["License-Expression"] == "MIT" and metadata["License-File"] == "LICENSE"
    labels = [line.split(", ")[0] for line in metadata.get_all("Project-URL")]
    assert {"Documentation", "Source", "Issues", "Changelog", "Paper"} <= set(labels)
    assert "Programming Language :: Python :: 3.10" in metadata.get_all("Classifier")


LINK = re.compile(r"!?\[[^]]*\]\(([^)]+)\)")


def test_readme_works_on_a_package_page(built):
    """Links lead to the repository, and commands name the package, but that of the tests, which needs a clone."""
    with zipfile.ZipFile(built["wheel"]) as archive:
        folders = [path for path in zipfile.Path(archive).iterdir() if "dist-info" in path.name]
        page = PathDistribution(folders[0]).metadata.get_payload()
    source = (ROOT / "README.md").read_text(encoding="utf-8")
    inside = {link for link in LINK.findall(source) if not link.startswith(("https:", "#"))}
    assert len(inside) > 5 and all((ROOT / link.partition("#")[0]).exists() for link in inside)
    outside = LINK.findall(page)
    assert len(outside) == len(LINK.findall(source)) and all(re.match("https:|#", link) for link in outside)
    assert re.search(r"!\[[^]]*\]\(https://[^)]+/raw/v[^)]+[.]png\)", page)
    assert "pip install egodistill && egodistill demo" in page and "pip install ." not in page
    assert 'pip install "egodistill[tutorials]"' in page
    assert re.findall(r'.*pip install "?\..*', page) == re.findall(r'pip install ".\[test\]" && pytest.*', source)


def test_oldest_versions_are_the_lower_bounds(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        folders = [path for path in zipfile.Path(archive).iterdir() if "dist-info" in path.name]
        needed = [line for line in PathDistribution(folders[0]).requires if "extra ==" not in line]
    pinned = dict(line.split("==") for line in (ROOT / ".ci/oldest.txt").read_text().splitlines() if "==" in line)
    bounds = dict(line.split(">=") for line in needed)
    assert pinned.keys() == bounds.keys() == RUNTIME
    for name, bound in bounds.items():
        assert pinned[name].split(".")[: len(bound.split("."))] == bound.split("."), name


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's right to write anywhere away, as Linux does")
def test_a_wheel_comes_out_of_a_checkout_that_cannot_be_written(checkout, third_party, tmp_path):
    """As from a folder that is mounted read-only into a container."""
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(checkout, source)
    out.mkdir()
    before = sorted(source.rglob("*"))
    for path in (source, *before):
        path.chmod(0o555)
    # PR_CAPBSET_DROP of CAP_DAC_OVERRIDE takes effect at the next exec.
    mortal = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    build = (
        "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.get_requires_for_build_wheel(); "
        "b.prepare_metadata_for_build_wheel(out); b.build_wheel(out)"
    )
    try:
        python = (sys.executable, "-S", "-c")
        run(*python, mortal, *python, build, out, cwd=source, path=third_party)
    finally:
        for path in (source, *before):
            path.chmod(0o755)
    (wheel,) = out.glob("*.whl")
    assert "egodistill/data.py" in zipfile.ZipFile(wheel).namelist()
    assert sorted(source.rglob("*")) == before


def test_a_deprecated_call_of_ours_is_an_error():
    """What a dependency will take away is seen before its next release; the calls of others are their own matter."""
    for module in ("egodistill", "egodistill.data", "tests.test_data"):
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            with pytest.raises(category):
                warnings.warn_explicit("old", category, "file.py", 1, module=module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module="torch.nn")
    assert len(caught) < 2


IMPORT_ALL = """
import importlib, importlib.util, pathlib, sys
import egodistill
home = pathlib.Path(sys.argv[1])
assert egodistill.__version__ == sys.argv[2], egodistill.__version__
assert (pathlib.Path(egodistill.__file__).parent / "py.typed").is_file(), "type checkers need it"
for name in sys.argv[4:]:
    module = importlib.import_module("egodistill." + name)
    assert home in pathlib.Path(module.__file__).parents, module.__file__
    top = name.partition(".")[0]
    if sys.argv[3] == "installed" and top != "__main__":
        assert importlib.util.find_spec(top) is None, f"{top} is a top-level module"
from egodistill import data, teachers
"""


def check(python, *, home, version, cwd, road="installed"):
    """Every module imports as egodistill.NAME from `home`; installed, none of them as NAME."""
    modules = [name.removesuffix(".__init__") for name in MODULES]
    run(python, "-c", IMPORT_ALL, Path(home).resolve(), version, road, *modules, cwd=cwd)


def test_road_checkout(checkout, empty_environment, version):
    python = empty_environment / "python"
    check(python, home=checkout, version=version, cwd=checkout, road="checkout")
    for module in ("egodistill", "egodistill.commands.cli"):
        assert version in run(python, "-m", module, "--version", cwd=checkout)


# The developers' line: what it links is laid out as in a wheel, so editors and type checkers see it.
STRICT = "pip install -e . --config-settings editable_mode=strict"


@pytest.mark.slow("an environment for each way to install")
@pytest.mark.parametrize("road", ["pip install .", "pip install -e .", STRICT, "pip install SDIST"])
def test_road_installed(road, checkout, built, empty_environment, version, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = empty_environment / "python"
    what = built["sdist"] if road.endswith("SDIST") else road.removeprefix("pip install ")
    run(python, "-m", "pip", "install", *PIP, *str(what).split(), cwd=checkout)
    home = checkout if "-e" in road else empty_environment.parent
    check(python, home=home, version=version, cwd=elsewhere)
    assert version in run(empty_environment / "egodistill", "--version", cwd=elsewhere)
    assert version in run(python, "-m", "egodistill", "--version", cwd=elsewhere)


DRAWING = {"recordings.pictures", "drawing.canvas"}


@pytest.mark.parametrize("name", ["egodistill", *MODULES])
def test_modules_import_declared_packages_only(name):
    """Anywhere in a file, also in functions: the standard library, ourselves, the run-time four."""
    tree = ast.parse(FILES.get(name, ROOT / "egodistill.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {node.module.split(".")[0]} if not node.level else set()
    # matplotlib: for the figure, inside the function that draws it. typing_extensions: for type checkers alone.
    drawing = {key: {"matplotlib"} for key in DRAWING}
    extras = (drawing | {key: {"typing_extensions"} for key in ("distillation", "engine.recipes")}).get(name, set())
    beside = {"cameras", "gpmf"} if name == "imu" else set()  # files beside a copy of imu.py
    assert imported - set(sys.stdlib_module_names) <= RUNTIME | extras | beside | {"egodistill"}
    at_import = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
    assert not any(module.startswith(tuple(extras)) for module in at_import if extras)


# Written so that this file does not match itself.
FORBIDDEN = re.compile(
    r"/(?:work|root|farm)/|/tmp/(?:bash_job[s]|v/|plan/)|pypi[.]org|python[h]osted|registry[.]npmjs|deb[.]debian"
)


def test_no_path_of_a_machine_and_no_package_index():
    found = []
    for path in source_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
