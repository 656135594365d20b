"""What README, guide and lab/README.md say of the lab: its Python runs, its commands exist."""

import re
import shlex

import examples
import guide
import pytest
from commandline import ROOT

from egodistill.commands import cli
from lab.__main__ import main

LAB = (ROOT / "lab" / "README.md").read_text(encoding="utf-8")
TEXT = (ROOT / "README.md").read_text(encoding="utf-8") + guide.TEXT + LAB


def test_the_method_in_a_comparison_works(once, tmp_path, monkeypatch, capsys):
    made = once("examples", lambda folder: examples.make(folder / "made"))
    names = guide.run_python(made, tmp_path, monkeypatch, with_lab=True)
    assert len(names["first"]) == len(names["second"]) == 2 and len(names["bench"].methods) == 1


def commands():
    """Each line that calls the lab, in a block or in the text, as words."""
    lines = TEXT.splitlines() + re.findall(r"`([^`\n]*)`", TEXT)
    for line in dict.fromkeys(lines):
        if (found := re.match(r"python -m (lab[\w.]*) ([^`]*)", line)) and "COMMAND" not in line:
            yield pytest.param(found[1], shlex.split(found[2], comments=True), id=line.split("  ")[0])


@pytest.mark.parametrize(("program", "words"), list(commands()))
def test_commands_are_understood(program, words):
    if program == "lab" and len(words) > 1:
        assert cli.parse(words, "python -m lab").command == words[0]
    elif program == "lab":
        assert words[0] in cli.COMMANDS
    else:
        assert (ROOT / f"{program.replace('.', '/')}.py").exists()


def test_the_page_of_the_lab_is_short_and_names_every_module():
    assert LAB.count("\n") <= 40
    named = set(re.findall(r"\w+", LAB))
    assert {path.stem for path in (ROOT / "lab").glob("[!_]*.py")} <= named
    with pytest.raises(SystemExit):
        main(["--help"])
