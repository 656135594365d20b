"""Pickles of others: arrays are read, and nothing in a file runs."""

import pickle

import numpy as np
import pytest

from egodistill import EgoDistillError
from egodistill.support import pickles


class Call:
    """Pickled as a call of `function` with `arguments`, and perhaps a state."""

    def __init__(self, function, *arguments, state=None):
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.made


def marked_kind():
    """The dtype of objects with a state that says it is of plain bytes."""
    return Call(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0))


RECONSTRUCT = np.zeros(0).__reduce__()[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Call(open, "ran", "w"), "it refers to (io|_io).open, which is not"),
        (Call(eval, "open('ran', 'w')"), "it refers to builtins.eval"),
        (Call(getattr, str, "join"), "it refers to builtins.(getattr|str)"),
        (np.load, r"it refers to numpy.*\.load|it refers to numpy.load"),
        # Addresses of objects: eight bytes of a file that would be followed
        (Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), marked_kind(), False, bytes(8))), "its dtype"),
        (Call(np.zeros(1).__reduce_ex__(5)[0], bytes(8), np.dtype("O"), (1,), "C"), "OBJECT|which is not"),
        (Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("i8,O"), False, bytes(16))), "array of"),
    ],
)
def test_nothing_in_a_pickle_runs(tmp_path, monkeypatch, value, words):
    monkeypatch.chdir(tmp_path)
    for protocol in (3, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": value}, protocol))
        with pytest.raises(EgoDistillError, match=rf"a\.pkl cannot be read as a table \(.*({words})"):
            pickles.read_pickle("a.pkl", pickles.ArrayUnpickler, "a table")
    assert not (tmp_path / "ran").exists()


def test_arrays_of_python_2_are_read(tmp_path):
    """Of protocol 0, with their bytes as the text of a string."""
    kind = b"cnumpy\ndtype\np3\n(S'f8'\nI0\nI1\ntRp4\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    head = b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntS'b'\ntR(I1\n(I1\nt"
    (tmp_path / "a.pkl").write_bytes(head + kind + b"I00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf8\\xbf'\ntb.")
    found = pickles.read_pickle(tmp_path / "a.pkl", pickles.ArrayUnpickler, "an array")
    assert found.tolist() == [-1.5]


def test_an_array_has_as_many_values_as_its_shape_says(tmp_path):
    many = Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1 << 30,), np.dtype("O"), False, [None]))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(many, 4))
    with pytest.raises(EgoDistillError, match="not as many as its shape says"):
        pickles.read_pickle(tmp_path / "a.pkl", pickles.ArrayUnpickler, "a table")


def test_an_array_of_bytes_as_objects_is_not_made(tmp_path):
    """`numpy.ndarray(shape, object, buffer)` takes addresses; in a pickle, it makes nothing."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Call(np.ndarray, (1,), np.dtype("O"), bytes(8)), 4))
    assert not isinstance(pickles.read_pickle(tmp_path / "a.pkl", pickles.ArrayUnpickler, "x"), np.ndarray)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["<f4", ">i2", "U3", "S2", "?", "O", "<c8"])
def test_arrays_come_out_as_they_went_in(tmp_path, protocol, kind):
    values = np.array([[0, 1, 2], [3, 4, 5]], kind)
    for array in (values, np.asfortranarray(values), values[:, ::2], values[0, 1] if kind[0] == "<" else values[1:]):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(array, protocol))
        found = pickles.read_pickle(tmp_path / "a.pkl", pickles.ArrayUnpickler, "an array")
        wanted = pickle.loads((tmp_path / "a.pkl").read_bytes())
        assert found.dtype == wanted.dtype and found.shape == array.shape and (found == array).all()


def test_what_is_no_array_is_one_sentence(tmp_path):
    path = tmp_path / "a.pkl"
    content = pickle.dumps({"w": np.zeros(3)}, 3)
    for length in (0, 1, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(EgoDistillError, match=rf"^{path} cannot be read as a Caffe2 file \("):
            pickles.read_pickle(path, pickles.ArrayUnpickler, "a Caffe2 file")
    path.write_bytes(content)
    assert pickles.first_bytes(path, 2) == b"\x80\x03" and pickles.first_bytes(tmp_path / "gone") == b""
