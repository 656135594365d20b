"""Tables and JSON files of others, a row or an object at a time."""

import json
import tracemalloc

from egodistill import records


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
