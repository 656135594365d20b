"""Work in several processes: all of it is done, errors and crashes are told, and no process outlives its parent.

`test_data` kills the parent, sends Ctrl-C, and lets decoders crash.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import LIMIT

import egodistill
from egodistill import EgoDistillError
from egodistill.support import files, processes

BUNDLES = [[{"name": f"P0{k}_101", "acts": 1, "width": 32, "height": 32}] for k in (1, 2, 3)]


def test_every_bundle_is_worked_on(tmp_path):
    path, bundles = tmp_path / "lines.jsonl", [{"number": k} for k in range(4)]
    processes.Processes("support.files.append_line", str(path), bundles, workers=2).run()
    assert sorted(files.read_lines(path), key=lambda line: line["number"]) == bundles


def test_an_error_ends_all_and_is_one_line(tmp_path, capfd):
    (tmp_path / "P01").write_text("a file where a folder has to be")
    work = processes.Processes("world.synthetic.write_bundle", str(tmp_path), BUNDLES, workers=1)
    told = r"world.synthetic.write_bundle\(\) ended with code 1 \(see its output above\); .* call again"
    with pytest.raises(EgoDistillError, match=told):
        work.run()
    said = capfd.readouterr().err
    assert "P01" in said and "Traceback" not in said and not (tmp_path / "P02").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_killed_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "WORKER", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(EgoDistillError, match=r"code -9 \(killed, perhaps because memory ran out\)"):
        processes.Processes("world.synthetic.write_bundle", str(tmp_path), BUNDLES, workers=2).run()
    assert -signal.SIGSEGV in processes.CRASHES and -signal.SIGTERM not in processes.CRASHES


def test_a_process_ends_when_its_parent_does(tmp_path):
    """Its stdin closes; the work that it is given would take hours."""
    words = [str(Path(egodistill.__file__).parent), "world.synthetic.write_bundle", str(tmp_path)]
    child = subprocess.Popen([sys.executable, "-c", processes.WORKER, *words], stdin=subprocess.PIPE, encoding="utf-8")
    print(json.dumps([{"name": "P01_101", "acts": 4000}]), file=child.stdin, flush=True)
    child.stdin.close()
    assert child.wait(LIMIT) == 1 and not list(tmp_path.rglob("*.MP4"))


def test_the_bar_shows_what_is_done(capsys):
    done = iter(range(1, 100))
    with processes.Watch(files.Progress("work", 5), lambda: min(5, next(done) * 5)):
        pass
    assert "work: 5/5 clips" in capsys.readouterr().err
