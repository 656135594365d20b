"""tables: alignment, and sections that are replaced without touching the rest of a document."""

import datetime
import re
from pathlib import Path

import pytest
import torch

import egodistill
from egodistill import DataError
from egodistill.support import tables

TABLE = tables.Table(["model", "top-1"], [["a|b", "1.0"], ["longer name", "22.0"]])


def test_text_is_aligned():
    assert TABLE.text().splitlines() == [
        "model        top-1",
        "-----------  -----",
        "a|b            1.0",
        "longer name   22.0",
    ]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError):
        tables.Table(["a", "b"], [["only one"]]).text()


def test_markdown_escapes_bars():
    assert "| a\\|b | 1.0 |" in TABLE.markdown()


def test_cells_do_not_act_on_a_terminal():
    odd = tables.Table(["model\n", "top-1"], [["a\x1b[31m\u2028b", "1\x9b"], ["é 　日本\u200d", "−2"]])
    assert odd.text().split("\n") == [
        "model\\n           top-1",
        "----------------  -----",
        "a\\x1b[31m\\u2028b  1\\x9b",
        "é 　日本\u200d               −2",
    ]
    assert odd.markdown().splitlines()[2] == "| a\\x1b[31m\\u2028b | 1\\x9b |"


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ((0.834, 0.004), ["0.83", "0.00"]),
        ((0.1, 0.0999), ["0.10", "0.10"]),
        ((0.0962, 0.004), ["0.096", "0.004"]),
        ((0.0031, 0.00026), ["0.0031", "0.0003"]),
        ((1.0, 0.0), ["1.00", "0.00"]),
        ((0.0, 0.0), ["0.00", "0.00"]),
        ((), []),
    ],
)
def test_the_best_of_many_classes_is_never_zero(scores, shown):
    assert tables.scores_text(scores) == shown


@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
def test_no_cell_of_a_csv_is_a_formula(sign):
    assert tables.csv_text(f"{sign}cmd") == f"'{sign}cmd" and tables.csv_text(f" \t{sign}a") == f"' \\t{sign}a"
    assert tables.csv_text(f"a{sign}b") == f"a{sign}b" and tables.csv_text("") == ""
    assert tables.csv_text("\ud800\x00é") == "\\ud800\\x00é"


def test_a_section_is_added_then_replaced_and_the_rest_stays(tmp_path):
    document = tmp_path / "R.md"
    document.write_text("# Results\n\nby hand\n", encoding="utf-8")
    tables.write_section(document, "demo", TABLE, caption="`\\1 command`")
    tables.write_section(document, "demo, again", TABLE)
    before = document.read_text(encoding="utf-8")
    assert before.startswith("# Results\n\nby hand\n\n<!-- demo -->\n\n| model |") and "`\\1 command`" in before
    tables.write_section(document, "demo", tables.Table(["new"], [["x"]]))
    after = document.read_text(encoding="utf-8")
    assert "22.0" in after.split("<!-- demo, again -->")[1]
    assert "22.0" not in after.split("<!-- /demo -->")[0] and "| new |" in after
    assert after.startswith("# Results\n\nby hand\n\n<!-- demo -->")
    assert after.count("<!-- demo -->") == after.count("<!-- /demo -->") == 1


def test_a_section_without_end_is_refused_and_nothing_is_written(tmp_path):
    document = tmp_path / "R.md"
    document.write_text("<!-- demo -->\nkeep me\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"R.md: the section <!-- demo --> has no end <!-- /demo -->"):
        tables.write_section(document, "demo", TABLE)
    assert document.read_text(encoding="utf-8") == "<!-- demo -->\nkeep me\n"
    document.write_text("<!-- /demo -->\n\n<!-- demo -->\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no end"):
        tables.write_section(document, "demo", TABLE)
    document.write_bytes("Maße\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"R\.md: not a UTF-8 document"):
        tables.write_section(document, "demo", TABLE)


def test_provenance_names_command_versions_and_machine():
    caption = tables.provenance("egodistill measure")
    assert caption.startswith("egodistill measure; egodistill ") and tables.processor() in caption


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("AMD EPYC 9R45", "AMD EPYC"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "Intel Xeon"),
        ("12th Gen Intel(R) Core(TM) i7-1260P", "Intel Core"),
        ("Apple M2", "Apple M2"),
        ("aarch64", "aarch64"),
    ],
)
def test_short_name_is_vendor_and_family(name, short, monkeypatch):
    monkeypatch.setattr(tables, "processor", lambda: name)
    assert tables.short_processor() == short


def test_report_prints_and_replaces_the_section_of_this_machine_only(tmp_path, monkeypatch, capsys):
    document, words = tmp_path / "R.md", ["/bin/egodistill", "demo", "--seeds", "0,1"]
    tables.report(TABLE, "demo", None, words)
    assert capsys.readouterr().out == TABLE.text() + "\n" and not document.exists()
    for name in ("AMD EPYC 9R45", "Intel(R) Xeon(R) Processor"):
        monkeypatch.setattr(tables, "processor", lambda name=name: name)
        tables.report(TABLE, "demo", document, words)
    other = tables.Table(["new"], [["x"]])
    tables.report(other, "demo", document, words)
    tables.report(other, "demo", document, words, machine="NVIDIA H100")
    text = document.read_text(encoding="utf-8")
    names = re.findall("<!-- ([^/].*) -->", text)
    assert names == ["demo, AMD EPYC", "demo, Intel Xeon", "demo, NVIDIA H100"]
    assert text.count("22.0") == 1 and text.count("| new |") == 2


def test_a_table_of_lines_replaces_that_of_fewer_lines_whatever_made_them(tmp_path):
    for table, origin in ((TABLE, "AMD EPYC"), (tables.Table(["new"], [["x"]]), "AMD EPYC, Intel Xeon")):
        tables.report(table, "lines", tmp_path / "R.md", ["report.py"], origin=origin)
    text = (tmp_path / "R.md").read_text(encoding="utf-8")
    assert re.findall("<!-- ([^/].*) -->", text) == ["lines"] and "22.0" not in text and "AMD EPYC, Intel Xeon" in text


def test_the_command_is_given_as_typed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    words = ["python -m lab", "compare", "--teacher", "t-{seed}", "--markdown", "R.md", "--jobs", "2"]
    assert tables.command_line(words) == "python -m lab compare --teacher 't-{seed}' --jobs 2"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["/x/benchmarks/decode.py", "--quick", "--markdown=R.md"]
    assert tables.command_line(words) == "OMP_NUM_THREADS=1 python benchmarks/decode.py --quick"
    words = ["/x/lab/evidence.py", "plan"]  # as `python -m lab.evidence` has it
    assert tables.command_line(words) == "OMP_NUM_THREADS=1 python -m lab.evidence plan"


@pytest.mark.parametrize(
    "script", sorted((Path(egodistill.__file__).parent / "benchmarks").glob("*.py")), ids=lambda p: p.stem
)
def test_every_benchmark_writes_its_table(script):
    code = script.read_text(encoding="utf-8")
    if script.stem in ("better_student", "evidence", "planted_faults"):  # they write lines and a page
        return
    if "def main(" not in code:  # networks of another script
        return
    own, passed_on = f'"benchmarks/{script.name}' in code, '["--markdown", a.markdown]' in code
    assert "tables.markdown_option(" in code and (own or passed_on)


def test_a_caption_is_complete(tmp_path, monkeypatch):
    """Command, versions, machine, cores and date, all of them those of the table."""
    monkeypatch.setattr(tables.files, "available_cores", lambda: 5)
    monkeypatch.setattr(tables, "processor", lambda: "AMD EPYC 9R45")
    versions = f"egodistill {tables.__version__}, torch {torch.__version__}"
    today = datetime.date.today()
    assert tables.provenance("run me") == f"run me; {versions}, AMD EPYC 9R45, 5 cores, {today}."
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    words = ["egodistill", "measure", "--teacher-file", "my file.safetensors", "--markdown", "R.md", "--compile"]
    tables.report(TABLE, "measure", tmp_path / "R.md", words, machine="NVIDIA H100")
    command = "OMP_NUM_THREADS=3 egodistill measure --teacher-file 'my file.safetensors' --compile"
    caption = f"`{command}`; {versions}, NVIDIA H100, 5 cores, {today}."
    text = (tmp_path / "R.md").read_text(encoding="utf-8")
    assert (
        text == f"<!-- measure, NVIDIA H100 -->\n\n{TABLE.markdown()}\n\n{caption}\n\n<!-- /measure, NVIDIA H100 -->\n"
    )


def test_a_name_that_is_part_of_another_is_a_section_of_its_own(tmp_path):
    document = tmp_path / "R.md"
    document.write_text("The demo, as measured.\n", encoding="utf-8")
    for name in ("demo quick, AMD EPYC", "demo", "demo, AMD EPYC"):
        tables.write_section(document, name, TABLE)
    tables.write_section(document, "demo", tables.Table(["new"], [["x"]]))
    text = document.read_text(encoding="utf-8")
    names = re.findall("<!-- ([^/].*) -->", text)
    assert names == ["demo quick, AMD EPYC", "demo", "demo, AMD EPYC"] and text.startswith("The demo, as measured.\n\n")
    assert text.count("| new |") == 1 and text.count(TABLE.markdown()) == 2


def test_markdown_is_aligned_like_the_text():
    expected = "| model | top-1 |\n| --- | ---: |\n| a\\|b | 1.0 |\n| longer name | 22.0 |"
    assert TABLE.markdown() == expected
