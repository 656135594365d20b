"""A small share of the fuzz: damaged inputs of all formats; see fuzz.py for the long run.

EGODISTILL_FUZZ=100 pytest tests/test_fuzz.py        # a hundred times as many
"""

import os
import random
import struct

import pytest
from fuzz import FORMATS, SECONDS, Format, Gpmf, make, peak, run_case
from gopro import device

from egodistill import gpmf

SHARE = float(os.environ.get("EGODISTILL_FUZZ", 1))
CASES = {"Gpmf": 2000, "ImuTable": 500, "OwnTable": 500, "Epic": 500, "Ego4d": 500, "Store": 200, "Telemetry": 200}
CASES |= {"HDEpic": 300, "EgoExo4d": 300, "LiveStream": 20, "Teacher": 40}
CASES |= {"Gyroflow": 200, "Vrs": 200}


@pytest.mark.slow("thousands of damaged files; in .ci/run by tools/lane.py")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_inputs_are_read_where_they_are_sound_or_refused(name, tmp_path):
    form = make(name, tmp_path / name)
    cases = int(SHARE * CASES.get(name, 30))
    results = [run_case(form, number) for number in range(cases)]
    finds = [f"{name}:{one['case']}: {one['reason']}" for one in results if one["outcome"] == "find"]
    assert not finds, "; ".join(finds[:3])
    refused = sum(one["outcome"] == "refused" for one in results)
    assert 0.05 * cases < refused < cases  # Damage is real, and not all of it is deadly.


class Broken(Gpmf):
    """A reader with a fault, which the fuzz must find."""

    def __init__(self, fault):
        self.fault = fault
        self.sound = self.make()
        self.wanted = None

    def read(self, content):
        return self.fault(content)


def hang(content):
    while True:
        pass


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda content: [][0], "IndexError"),
        (hang, "no end after"),
        (lambda content: bytes(range(256)) * 1_000_000 and None, "MB"),
        (lambda content: gpmf.Payload(*[gpmf.np.full((1, 3), gpmf.np.nan)] * 2, "", ""), "not finite"),
    ],
)
def test_the_fuzz_finds_faults(fault, words, monkeypatch):
    monkeypatch.setattr("fuzz.SECONDS", 0.5)
    monkeypatch.setattr("fuzz.MEGABYTES", 100)
    result = run_case(Broken(fault), 0)
    assert result["outcome"] == "find" and words in result["reason"]


def test_a_case_is_the_same_again(tmp_path):
    form = make("OwnTable", tmp_path)
    one, again, other = (form.damage(random.Random(seed)) for seed in ("0 OwnTable 3", "0 OwnTable 3", "1 OwnTable 3"))
    assert one == again != other
    assert issubclass(type(form), Format) and SECONDS >= 1


def test_sizes_that_lie_take_no_memory():
    """An element may announce 16 million bytes: they are looked for, not allocated."""
    memory = peak()
    for key in (b"DEVC", b"ACCL", b"SCAL"):
        lie = struct.pack(">4scBH", key, b"s", 255, 65535)
        whole = device([(1, 2, 3)], [(4, 5, 6)])
        with pytest.raises(gpmf.GPMFError, match="truncated"):
            gpmf.parse(lie + whole)
    assert peak() - memory < 50
