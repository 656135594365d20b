"""README and guide: their Python runs, their commands exist, their tables are complete, their links lead somewhere."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import examples
import guide
import mine
import numpy as np
import pytest
from foreign import linux_only
from torch.distributed import run as distributed_run

import egodistill
from egodistill import data
from egodistill.commands import cli
from egodistill.imu import IMU_READERS
from egodistill.recordings.recording import READERS
from egodistill.support import custom

ROOT = Path(egodistill.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
GUIDE = guide.TEXT
pytestmark = pytest.mark.skipif(not README, reason="no README.md beside the package: not a checkout")


@pytest.mark.parametrize(
    ("code", "printed"),
    re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL),
    ids=["student", "stream"],
)
def test_python_prints_what_is_below_it(code, printed, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_every_example_has_its_output():
    assert README.count("```python") == README.count("```text") == 2


def test_the_parts_of_ones_own_work(once, tmp_path, monkeypatch):
    """But for the method in a comparison, which the tests of the lab run."""
    guide.run_python(once("examples", lambda folder: examples.make(folder / "made")), tmp_path, monkeypatch)


def test_the_camera_of_ones_own_is_a_file_for_commands(kitchen, tmp_path, monkeypatch, capsys):
    """The section of the guide, and its commands; `prepare` starts processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(custom, "FILES", {})
    section = re.search(r"### A camera or an IMU format\n.*?(?=\n## )", GUIDE, re.DOTALL)[0]
    code = "".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    Path("my_camera.py").write_text(re.sub(r"(?m)^(IMU_READERS|READERS|print)\b.*", "", code))
    Path("films").mkdir()
    for name in ("films/a", "films/b", "walk"):
        mine.write_log(f"{name}.log", kitchen[0].recording.motion())
        shutil.copy(kitchen[0].video, f"{name}.mp4")
    readers = [*READERS]
    try:
        for line in re.findall(r"(?m)^egodistill (.*)$", section):
            assert cli.main([*shlex.split(line), *(["--workers", "2"] if "prepare" in line else [])]) == 0
    finally:
        READERS[:] = readers
        IMU_READERS.clear()
        sys.modules.pop("my_camera", None)
    assert "walk.mp4" in capsys.readouterr().out
    found, motion = data.ClipStore("store"), mine.read_log("walk.log")
    np.testing.assert_allclose(found.read("imu", [0])[0], motion.window(found.clips[0]["start"]), atol=1e-5)


def commands():
    """Each line of README and guide that calls egodistill, in a block or in the text."""
    text = README + GUIDE
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)).splitlines()
    for line in dict.fromkeys(blocks + re.findall(r"`([^`\n]*)`", text)):
        found = re.search(r"(?:^|&& |=1 )egodistill ([a-z].*)", line)
        if found and "..." not in found[1]:
            yield shlex.split(found[1], comments=True)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_are_understood(words, monkeypatch):
    """They parse: every command and option is there. Nothing is run."""
    parsed = []

    def parse(self, given=None, namespace=None):
        parsed.append(real(self, given, namespace))
        raise KeyboardInterrupt

    real = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    if len(words) == 1 and words != ["demo"]:  # Only its name.
        words = [*words, "--help"]
    with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
        cli.main(words)
    assert (parsed and parsed[0].command == words[0]) or ended.value.code == 0


@linux_only
def test_the_slurm_script_starts_one_job_on_all_machines(tmp_path):
    """With commands in place of SLURM's and torchrun; no SLURM was at hand."""
    script = re.search(r"```bash\n(#!.*?)```", GUIDE, re.DOTALL)[1]
    fakes = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": '"$@"',
        "torchrun": f'printf "%s\\n" "$@" > {tmp_path}/words',
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "12"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-eu", "-c", script], check=True, env=os.environ | slurm | {"PATH": path})
    found = distributed_run.parse_args((tmp_path / "words").read_text().splitlines())
    assert (found.nnodes, found.nproc_per_node, found.rdzv_endpoint, found.rdzv_id) == ("2", "4", "node7:29500", "12-0")
    assert found.rdzv_backend == "c10d" and found.module and found.training_script == "egodistill"
    assert cli.parse(found.training_script_args).command == "distill"


def table(first):
    """The names in code in the first column of the README's table whose first column is headed so."""
    found = re.search(rf"(?m)^\| {first} \|.*\n\|[- |]*\n((?:\|.*\n)*)", README)
    cells = [row.split("|")[1] for row in found[1].splitlines()]
    return [name for cell in cells for name in re.findall(r"`([a-z0-9_]+)`", cell)]


def test_the_table_names_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    known = re.findall(r"(?m)^    ([a-z]+)(?: |$)", capsys.readouterr().out)
    assert sorted(known) == sorted(table("command"))


def test_the_house_names_every_room_and_every_module_at_the_root():
    (house,) = re.findall(r"## The house\n\n```\n(.*?)```", README, re.DOTALL)
    lines = house.splitlines()
    assert len(lines) <= 20 and all(re.match(r"[├└]── \S", line) for line in lines)
    assert [line[0] for line in lines] == ["├"] * (len(lines) - 1) + ["└"]
    entries = [word for line in lines for word in re.split(" {3,}", line[4:])[0].split()]
    modules = {path.name for path in ROOT.glob("*.py")} - {"setup.py", "__main__.py"}
    assert sorted(entries) == sorted(modules | {f"{sign.parent.name}/" for sign in ROOT.glob("*/__init__.py")})


def links(text):
    """Return the targets of the links and images of a Markdown text."""
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)


def anchors(text):
    """Return the anchors that GitHub gives to the headings of a Markdown text."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("results/*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_documents_lead_to_files_and_headings(document):
    missing = []
    for link in links(document.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            missing.append(link)
    assert missing == []


def test_generated_tables_lie_in_the_document_of_their_script():
    for document in set(ROOT.glob("results/*.md")) - {ROOT / "results" / "gpu.md"}:  # has several, on another machine
        for name in re.findall(r"(?m)^<!-- ([^/].*) -->$", document.read_text(encoding="utf-8")):
            assert re.match(r"(?:benchmarks/|lab/)?(\w+)", name)[1] == document.stem, name


NUMBER = r"[+-]?\d+(?:\.\d+)?"


def plain(numbers):
    """Return numbers without a plus sign: tables and text differ in whether they have it."""
    return tuple(number.removeprefix("+") for number in numbers)


def measured_intervals():
    """Return (value, low, high) of each interval in the generated tables; some have the ends in the next column."""
    form = re.compile(rf"({NUMBER}) (?:\(|\| )({NUMBER}) to ({NUMBER})(?:\)| \|)")
    return {plain(found) for path in ROOT.glob("results/*.md") for found in form.findall(path.read_text("utf-8"))}


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/world.md"])
def test_intervals_are_those_of_a_generated_table(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    interval = rf"\(({NUMBER})\s+to\s+({NUMBER})(?=[);,])"
    quoted = re.findall(rf"({NUMBER})(?: points| %)?\s+{interval}", text)
    assert len(quoted) == len(re.findall(interval, text)) > 0, "an interval has no value before it"
    measured = measured_intervals()
    assert [found for found in quoted if plain(found) not in measured] == []


def primary_contrasts(world):
    """The primary contrasts of a world: {(method, other method): row}."""
    tables = (ROOT / "results" / "evidence_report.md").read_text(encoding="utf-8")
    section = re.search(rf"<!-- \S+, world {world}: primary contrasts -->(.*?)<!-- /", tables, re.DOTALL)[1]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in section.splitlines() if row.startswith("| Ego")]
    return {tuple(row[:2]): row[2:] for row in rows}


def test_the_differences_are_those_of_the_results():
    first, second = primary_contrasts("A"), primary_contrasts("B")
    shown = re.search(r"\| difference of accuracies.*?\n\n", README, re.DOTALL)[0].splitlines()[2:]
    pairs = [("EgoDistill, N = 1", "VisOnly-Distill, N = 1"), ("EgoDistill, N = 1", "VisIMU, N = 1")]
    pairs.append(("EgoDistill, N = 4", "EgoDistill, N = 1"))
    for pair, row in zip(pairs, filter(None, shown), strict=True):
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        assert cells == [first[pair][0], second[pair][0], *first[pair][5:7]], pair
