"""benchmarks/sleeping_camera.py: few answers have no frame, although a camera is slow to start and loses pictures."""

import importlib
import sys
from pathlib import Path

import pytest
from streams import Fast

import egodistill

ROOT = Path(egodistill.__file__).parent
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="needs the repository's benchmarks")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("sleeping_camera")
    sys.modules.pop("sleeping_camera", None)


def share(script, motion, seed, way):
    found = script.run(Fast(), motion(600.0, seed), 1.0, 0.05, seed, **way)
    assert found["answers"] > 1180 and found["requests"] > 100
    return 100 * found["without"] / found["answers"]


@pytest.mark.parametrize(
    "way",
    [{}, pytest.param({"period": 2.0}, marks=pytest.mark.slow("requests by the clock are in test_stream_camera.py"))],
    ids=["moved", "period"],
)
def test_a_second_of_start_up_and_lost_pictures_leave_few_answers_without_a_frame(script, way):
    """At most 3 % of the answers of ten minutes, if 5 % of the pictures are lost."""
    assert share(script, script.wearer, 0, way) <= 3.0


@pytest.mark.slow("more seeds of a simulation that runs once by default")
@pytest.mark.parametrize("way", ["`Moved` (default)", "`Turned(0.6)`", "period of 2 s", "period of 3 s"])
@pytest.mark.parametrize("head", ["wearer", "still"])
def test_the_same_for_other_seeds_gates_and_heads(script, way, head):
    shares = [share(script, getattr(script, head), seed, script.WAYS[way]) for seed in range(1, 4)]
    assert max(shares) <= 3.0


def test_a_row_sums_up_its_runs(script):
    runs = [{"answers": 100, "without": without, "requests": 20, "on": 12.0, "seconds": 60.0} for without in (0, 3)]
    assert script.cells(runs) == ["200", "1.5", "3.0", "20.0", "20"]
