"""Names of a user's own classes: what is found, what is said of what is not."""

import concurrent.futures
import multiprocessing
import sys

import pytest

from egodistill import EgoDistillError, EgoDistillOSError
from egodistill.support import custom
from egodistill.support.custom import is_name, resolve


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of one's own beside another that it imports; what they leave in this process is taken back."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(custom, "FILES", {})
    before = {*sys.modules}
    (tmp_path / "neighbour_of_mine.py").write_text("SIZE = 3\n")
    path = tmp_path / "parts_of_mine.py"
    path.write_text("from neighbour_of_mine import SIZE\n\nclass Spectrum:\n    class Band:\n        size = SIZE\n")
    yield path
    for name in {*sys.modules} - before:
        del sys.modules[name]


def test_a_class_in_a_file_or_a_module_is_found_once(file):
    found = resolve(f"{file}:Spectrum")
    assert found.Band.size == 3 and (found.__module__, found.__name__) == ("parts_of_mine", "Spectrum")
    assert resolve(f"{file}:Spectrum") is found and resolve(f"{file}:Spectrum.Band") is found.Band
    assert resolve("parts_of_mine:Spectrum") is found
    assert resolve("collections:OrderedDict").__name__ == "OrderedDict"


def test_a_file_with_the_name_of_another_module_replaces_nothing(file):
    import json

    other = file.with_name("json.py")
    file.rename(other)
    assert resolve(f"{other}:Spectrum").Band.size == 3
    assert resolve(f"{other}:Spectrum") is resolve(f"{other}:Spectrum") and sys.modules["json"] is json


def test_a_file_with_the_name_of_a_standard_module_leaves_that_one_to_others(file, monkeypatch):
    """Also before it is imported."""
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
    other = file.rename(file.with_name("tabnanny.py"))
    assert resolve(f"{other}:Spectrum").Band.size == 3
    import tabnanny

    assert hasattr(tabnanny, "NannyNag")


def test_paths_are_no_names():
    assert is_name("a.py:B.C") and is_name("a.b:C")
    assert not any(map(is_name, ("a.py", "a.py:", r"C:\x\t.safetensors", "rtsp://camera/1")))


def size_in(kind):
    """What another process finds in a class that it was sent."""
    return kind.Band.size


def test_another_process_has_the_same_classes(file):
    """Also those of a file with the name of another module."""
    other = file.with_name("json.py")
    other.write_text(file.read_text())
    kinds = [resolve(f"{one}:Spectrum") for one in (file, other)]
    options = {"initializer": custom.import_again, "initargs": (custom.imported(),)}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, **options) as pool:
        assert list(pool.map(size_in, kinds)) == [3, 3]


def test_a_part_has_the_name_with_which_another_process_finds_it(file, monkeypatch):
    kind = resolve(f"{file}:Spectrum")
    assert (
        custom.name_of(kind.Band) == "parts_of_mine:Spectrum.Band" and resolve(custom.name_of(kind.Band)) is kind.Band
    )
    assert custom.name_of(size_in) == f"{__name__}:size_in"
    monkeypatch.setattr(kind, "__module__", "__main__")
    for part in (kind, lambda: 3, 3):
        with pytest.raises(EgoDistillError, match=r"other processes cannot import it from .* put it into a file"):
            custom.name_of(part)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Spectrum", "Spectrum: give FILE.py:NAME or PACKAGE.MODULE:NAME"),
        ("{file}:", "give FILE.py:NAME"),
        ("{file}:Spectrm", r"parts_of_mine\.py: has no Spectrm\. Did you mean Spectrum\?"),
        ("no.such.module:A", r"no\.such\.module: cannot be imported \(ModuleNotFoundError: No module named 'no'\)"),
        ("{broken}:A", r"broken\.py: cannot be imported \(line 2, ZeroDivisionError: division by zero\)"),
        ("{wrong}:A", r"wrong\.py: cannot be imported \(SyntaxError: "),
    ],
)
def test_names_that_stand_for_nothing(file, name, words):
    broken, wrong = file.with_name("broken.py"), file.with_name("wrong.py")
    broken.write_text("A = 1\nA / 0\n")
    wrong.write_text("def\n")
    with pytest.raises(EgoDistillError, match=words):
        resolve(name.format(file=file, broken=broken, wrong=wrong))
    assert "broken" not in sys.modules


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(EgoDistillOSError, match=r"gone\.py: no such file"):
        resolve(f"{tmp_path / 'gone.py'}:A")
