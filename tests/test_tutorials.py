"""The notebooks: each runs from top to bottom on a smaller world, and is committed with what it printed and drew."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest
from waiting import LIMIT

import egodistill

FOLDER = Path(egodistill.__file__).parent / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="no tutorials beside the package: not a checkout")

# What the cells tagged "parameters" say instead, so that a notebook is a matter of seconds.
SMALL = {
    "01_data": {"train_acts": 64, "test_acts": 60},
    "02_teacher_and_imu_pretraining": {"epochs": 1},
    "03_distillation": {"epochs": 1},
    "04_efficiency": {"rows": ["EgoDistill"], "seconds": 0.1, "film_seconds": 4, "places": 1},
    "05_what_it_learned": {},
    "06_live_and_when_to_look": {"recordings": 1},
    "07_my_recordings": {"count": 4, "epochs": 1},
}
ENVIRONMENT = os.pathsep.join([str(FOLDER.parent), str(FOLDER), os.environ.get("PYTHONPATH", "")])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", ())


def outputs(path):
    return [output for cell in code_cells(path) for output in cell["outputs"]]


def test_all_tutorials_are_here():
    assert [path.stem for path in NOTEBOOKS] == list(SMALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_as_it_ran(path):
    """In one go from top to bottom, without errors and warnings, with its pictures, without this machine's names."""
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(map(is_parameters, cells)) == 1
    found = outputs(path)
    assert {output["output_type"] for output in found} <= {"stream", "display_data"}
    assert not [output["text"] for output in found if output.get("name") == "stderr"]
    pictures = sum(bool({"image/png", "image/jpeg"} & set(output.get("data", ()))) for output in found)
    assert pictures >= (1 if path.stem.startswith("07") else 2)
    assert all(len(part) < 4e5 for output in found for part in output.get("data", {}).values())  # 300 kB in base64
    printed = "".join("".join(output.get("text", ())) for output in found)
    source = "".join("".join(cell["source"]) for cell in read(path)["cells"])
    assert not re.search(r"/(home|root|tmp|work|Users)/|[A-Z]:\\", printed + source)
    assert not re.search(r"\b(from|import) lab\b", source)  # which an installed package does not have
    assert "not found" not in printed.lower()  # everyone has the files that a section shows
    assert max(map(len, printed.splitlines())) <= 100  # a page is no wider
    assert path.stat().st_size < 1e6


def test_the_first_one_ran_in_an_empty_folder():
    """As a reader's does: what notebook 2 adds to the store is not in the list that notebook 1 prints."""
    printed = "".join("".join(output.get("text", ())) for output in outputs(NOTEBOOKS[0]))
    assert "frames_4" in printed and "slowfast" not in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path):
    text = "".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert all((FOLDER / link).exists() for link in links if "://" not in link)
    following = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]
    assert not following or following[0].name in links


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_are_computed_and_not_written(path):
    """A result in the text would be wrong after the next run: percentages are those of settings, printed ones aside."""
    text = " ".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    assert not re.findall(r"\b\d+(?:\.\d+)? (?:points|°/s|ms|MB)\b|\bin this run\b", text)
    assert set(re.findall(r"\b(\d+(?:\.\d+)?) ?%", text)) <= {"95"}  # of a clip's IMU


def test_own_recordings_take_few_lines():
    """Forty, and fifteen for labels and background."""
    lines = "\n".join(
        "".join(cell["source"]) for cell in code_cells(NOTEBOOKS[-1]) if not is_parameters(cell)
    ).splitlines()
    assert sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines) <= 55


@pytest.mark.slow("seven notebooks")
def test_they_run_one_after_the_other(tmp_path, monkeypatch):
    """In one folder, as a reader's would be, and so in one test: parts of a file may run in several processes."""
    for needed in ("nbclient", "nbformat"):
        pytest.importorskip(needed)
    # The kernel is this Python with the checkout that is tested, whatever is installed, and charts.py beside it.
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for path in NOTEBOOKS:
        began = time.monotonic()
        run_small(path, tmp_path)
        print(f"{path.stem}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def run_small(path, place):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, 4)
    cell = next(cell for cell in notebook.cells if is_parameters(cell))
    names = set(re.findall(r"(?m)^(\w+) = ", cell.source))
    assert set(SMALL[path.stem]) <= names, "a parameter that the notebook does not have"
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in SMALL[path.stem].items())
    client = nbclient.NotebookClient(notebook, timeout=int(LIMIT), resources={"metadata": {"path": str(place)}})
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        pytest.fail(f"{path.name}: {error}")
    heard = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not heard


def test_an_earlier_notebook_is_asked_for(tmp_path, monkeypatch):
    """Notebook 3 in an empty folder says which one to run first."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(FOLDER / "03_distillation.ipynb", 4)
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="run notebooks 1 and 2 first"):
        nbclient.NotebookClient(notebook, timeout=int(LIMIT), resources={"metadata": {"path": str(tmp_path)}}).execute()
