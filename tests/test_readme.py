"""The README: its Python prints what is below it, its commands exist, its tables are complete."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

import egodistill
from egodistill import cli

ROOT = Path(egodistill.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
pytestmark = pytest.mark.skipif(not README, reason="no README.md beside the package: not a checkout")


@pytest.mark.parametrize(
    ("code", "printed"), re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL), ids=["student"]
)
def test_python_prints_what_is_below_it(code, printed, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_every_example_has_its_output():
    assert README.count("```python") == README.count("```text") == 1


def commands():
    """Each line of the README that calls egodistill, in a block or in the text."""
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)).splitlines()
    for line in dict.fromkeys(blocks + re.findall(r"`([^`\n]*)`", README)):
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


def table(first):
    """The names in code in the first column of the README's table whose first column is headed so."""
    found = re.search(rf"(?m)^\| {first} \|.*\n\|[- |]*\n((?:\|.*\n)*)", README)
    cells = [row.split("|")[1] for row in found[1].splitlines()]
    return [name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)]


def test_the_table_names_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    known = re.findall(r"(?m)^    ([a-z]+)(?: |$)", capsys.readouterr().out)
    assert sorted(known) == sorted(table("command"))


def test_the_table_names_every_module():
    modules = {path.stem for path in ROOT.glob("*.py")} - {"setup", "__main__"}
    assert sorted(modules) == sorted(table("module"))


def links(text):
    """Return the targets of the links and images of a Markdown text."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("name", [path.name for path in sorted(ROOT.glob("*.md"))])
def test_links_of_documents_lead_to_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    local = [link.partition("#")[0] for link in links(text) if not re.match(r"https?:|#", link)]
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_tables_are_those_of_the_results():
    """The README's small table repeats RESULTS.md."""
    results = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    section = re.search(r"<!-- demo, Intel Xeon -->(.*?)<!-- /", results, re.DOTALL)[1]
    accuracy = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in section.splitlines() if "±" in row}
    shown = re.search(r"\| demo, three seeds.*?\n\n", README, re.DOTALL)[0]
    for row in shown.splitlines()[2:]:
        if not row:
            continue
        name, top1 = (cell.strip(" *") for cell in (row.split("|")[1], row.split("|")[-2]))
        assert accuracy[name.partition(" (")[0]] == top1, name
