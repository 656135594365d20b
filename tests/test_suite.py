"""The suite itself: what is made once is made once and stays as it is; what is left out by default is little."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from once import Once

TESTS = Path(__file__).parent


def test_at_most_a_tenth_is_left_out_by_default(collected):
    slow, every = collected
    if every < 5000:
        pytest.skip("only a part of the tests was collected")
    assert slow <= 0.1 * every


def test_a_folder_is_made_once_and_again_after_a_failure(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Once(tmp_path)("name", fail)
    made = []
    for once in (Once(tmp_path), Once(tmp_path)):
        assert once("name", lambda folder: made.append((folder / "file").touch()) or folder) == tmp_path / "name"
    assert len(made) == 1 and [path.name for path in (tmp_path / "name").iterdir()] == ["file"]


def test_what_is_changed_removed_or_added_is_named(tmp_path):
    once = Once(tmp_path)
    for name in ("one", "two"):
        once(name, lambda folder: [(folder / file).write_text(file) for file in ("a", "b", "c")])
    assert once.changed() == []
    (tmp_path / "two/a").write_text("A")
    (tmp_path / "two/b").unlink()
    (tmp_path / "two/d").touch()
    assert once.changed() == ["two: a", "two: b", "two: d"]


@pytest.mark.parametrize("processes", [0, 2])
def test_a_run_fails_if_a_test_writes_where_others_read(tmp_path, processes):
    """Its processes share one folder, in which each thing is made once."""
    for file in ("conftest.py", "once.py"):
        (tmp_path / file).symlink_to(TESTS / file)
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import pytest

            def make(folder):
                (folder / "file").write_text("x")
                with open(folder.parent / "made.txt", "a") as file:
                    file.write("made ")
                return folder

            @pytest.mark.parametrize("k", range(8))
            def test_reading(once, k):
                folder = once("it", make)
                assert (folder.parent / "made.txt").read_text() == "made "

            def test_writing(once):
                (once("it", make) / "file").write_text("y")
        """)
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(processes), "-k"]
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}  # the checkout, whatever is installed
    options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True}
    done = subprocess.run([*words, "reading or writing"], **options)
    assert done.returncode == 1 and "it: file" in done.stdout and "9 passed" in done.stdout, done.stdout


def test_a_slow_test_says_why(tmp_path):
    for file in ("conftest.py", "once.py"):
        (tmp_path / file).symlink_to(TESTS / file)
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.slow\ndef test_it(): pass\n")
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4 and "test_it.py::test_it: say why it is left out" in done.stderr + done.stdout
