"""Atomic writes, locks, progress, reading ahead, the same run."""

import pytest

from egodistill import files


def test_a_full_disk_is_told_with_the_file(tmp_path, full_disk):
    """Of texts, such as tables of results: the system's own words name no file."""
    path = tmp_path / "results.json"
    path.write_text("old")
    with (
        full_disk(100),
        pytest.raises(OSError, match=r"/results\.json: cannot be written: File too large; .* MB are free"),
        files.atomic_write(path) as part,
    ):
        part.write_text("new" * 100)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
