"""tables: alignment, and sections that are replaced without touching the rest of a document."""

import pytest

from egodistill import DataError, tables

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


def test_provenance_names_command_versions_and_machine():
    caption = tables.provenance("egodistill measure")
    assert caption.startswith("`egodistill measure`; egodistill ") and tables.processor() in caption
