"""Tables and JSON files of others, a row or an object at a time."""

import json
import time
import tracemalloc
import zipfile

import pytest

from egodistill import DataError
from egodistill.support import records


def test_a_json_file_is_read_an_object_at_a_time(tmp_path):
    """Peak memory is that of an object, not of the file; and any length of a read gives the same."""
    videos = [{"video_uid": f"v{k}", "actions": [{"n": i, "text": 300 * "x"} for i in range(50)]} for k in range(800)]
    table = tmp_path / "f.json"
    table.write_text(json.dumps({"n": 12.5, "videos": videos, "last": 7}))
    size = table.stat().st_size
    tracemalloc.start()
    uids = [item["video_uid"] for _, _, item in records.json_items(table, ("videos",))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert uids == [f"v{k}" for k in range(800)]
    assert size > 12e6 and peak < 6e6
    small = tmp_path / "s.json"
    small.write_text('{"n": 12.5, "a": {"b": []}, "videos": [{"x": -1.25e3, "y": "\\u00e9"}, {}], "last": 7}')
    for length in (1, 2, 3, 7):  # every number and word is split somewhere
        items = [item for *_, item in records.json_items(small, ("videos",), chunk=length)]
        assert items == [{"x": -1250.0, "y": "\u00e9"}, {}]


@pytest.mark.parametrize("rows", [range(3), range(2, 9, 3), range(5, 6), range(0), range(8, 40, 4)])
def test_some_rows_of_a_table_with_their_numbers(tmp_path, rows):
    """The lines between them are not looked at: a broken one is no error."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{k},x\n" if k in rows else '"\n' for k in range(10)))
    found = list(records.read_table(path, ("a",), rows=rows))
    inside = [k for k in rows if k < 10]
    assert found == [(f"{path}, row {k + 2}", {"a": str(k), "b": "x"}) for k in inside]
    if inside:
        path.write_text("a,b\n" + "".join("1\n" if k == inside[-1] else "1,2\n" for k in range(10)))
        with pytest.raises(DataError, match=f"t.csv, row {inside[-1] + 2}: fewer cells than the header"):
            list(records.read_table(path, ("a", "b"), rows=rows))


def test_a_short_row_has_empty_cells(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("video,start,split\na.mp4,1,train\nb.mp4\n")
    rows = [row for _, row in records.read_table(path, ("video",), ("start", "split"))]
    assert rows[1] == {"video": "b.mp4", "start": "", "split": ""}


def test_names_and_items_at_the_top_level(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"n": [1, {"videos": 2}], "annotations": {"x": {}}, "videos": []}')
    assert records.first_name(path, ("videos", "annotations")) == "annotations"
    assert records.first_name(path, ("takes",)) is None
    with pytest.raises(DataError, match=rf"^{path}, n\[0\]: no row"):
        list(records.json_items(path, ("n",), otherwise="no row"))
    path.write_text('[{"a": 1}, {}]')
    assert records.first_name(path, ("a",)) is None
    assert [item for *_, item in records.json_items(path)] == [{"a": 1}, {}]
    path.write_text('[{"a": 1}, 7]')
    with pytest.raises(DataError, match=rf"^{path}, \[1\]: not a JSON object"):
        list(records.json_items(path))


def test_a_table_that_is_not_utf_8_has_a_way_out(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes("video,label\na.mp4,Tür\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv: not a CSV table in UTF-8 .*save it as CSV"):
        list(records.read_table(table, ["video"]))
    with zipfile.ZipFile(table, "w", zipfile.ZIP_DEFLATED) as workbook:
        workbook.writestr("xl/workbook.xml", bytes(range(256)) * 9)
    with pytest.raises(DataError, match=r"t\.csv: an archive, such as a workbook of Excel.* save it as CSV"):
        list(records.read_table(table, ["video"]))


def test_ids_stay_inside_the_root():
    for name in ("P01-20240202-110250", "cmu_bike01_2", "ä", "ä" * 100):
        assert records.require_id("t.csv, row 2", name, "an id") == name
    for name in ("..", "a/b", "a\\b", "", "-x", "a.mp4", None, 3, "a\n", "ä" * 101):
        with pytest.raises(DataError, match=r"^t\.csv, row 2: .* is not an id"):
            records.require_id("t.csv, row 2", name, "an id")


def test_a_header_of_blanks_takes_no_time(tmp_path):
    table, began = tmp_path / "a.csv", time.process_time()
    table.write_text(",".join("video" + " " * 100_000 + name for name in "xyz") + "\n1,2,3\n")
    with pytest.raises(DataError, match=r"a.csv: no column"):
        list(records.read_table(table, ("start",)))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("stop", ["1000001", "1e300", "300000:00:00", "9" * 400])
def test_no_video_is_longer_than_eleven_days(stop):
    with pytest.raises(DataError, match=r"a.csv, row 2: .* is not a time in seconds"):
        records.start_and_stop("a.csv, row 2", "0", stop)
