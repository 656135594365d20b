"""Our files of tensors are those of the package safetensors, and what is damaged for one is damaged for the other."""

import json
import random

import pytest
import safetensors.torch as package
import torch
from safetensors import safe_open

from egodistill.engine import safetensors

METADATA = {"egodistill": '{"name": "ä"}'}
SHAPES = [(), (0,), (1,), (3,), (2, 3), (4, 0, 2), (1, 1, 1, 5)]


def some_tensors(seed, count=8):
    """Return tensors of random types, shapes and values."""
    chance, torch_chance = random.Random(seed), torch.Generator().manual_seed(seed)
    found = {}
    for number in range(count):
        dtype, shape = chance.choice([*safetensors.TYPES.values()]), chance.choice(SHAPES)
        values = 50 * torch.randn(shape, generator=torch_chance)
        found[chance.choice(["layer.", "é", "Z"]) + str(number)] = (values > 0 if dtype == torch.bool else values).to(
            dtype
        )
    return found


def same(found, wanted):
    """Whether two dicts hold the same tensors, bit by bit."""
    return found.keys() == wanted.keys() and all(map(same_tensor, found.values(), (wanted[name] for name in found)))


def same_tensor(one, other):
    bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)


@pytest.mark.parametrize("metadata", [METADATA, {}])
def test_we_write_and_read_what_the_package_does(metadata, tmp_path):
    for seed in range(50):
        tensors = some_tensors(seed, count=1 + seed % 20)
        content = safetensors.pack(tensors, metadata)
        assert content == package.save(tensors, metadata)
        assert same(package.load(content), tensors)
        found, read = safetensors.unpack(content)
        assert same(found, tensors) and read == metadata
    (tmp_path / "a.safetensors").write_bytes(content)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert (file.metadata() or {}) == metadata


def test_every_type_is_in_the_order_of_the_package():
    tensors = {f"{number}": torch.ones(3).to(dtype) for number, dtype in enumerate(safetensors.TYPES.values())}
    assert safetensors.pack(tensors, METADATA) == package.save(tensors, METADATA)
    assert package.save(tensors) == package.save(safetensors.unpack(package.save(tensors))[0])


def joined(text, data):
    text = text.encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def damaged(content, chance):
    """Return a file with one or two faults: in its bytes, in its length, or in what its header says."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = chance.choice(names)
    entry = header[name]
    place, kind = chance.randrange(len(content)), chance.randrange(16)
    if kind < 4:  # a byte: anywhere, in the header, another digit or letter there
        place = place if kind == 0 else 8 + chance.randrange(length)
        byte = chance.randrange(256) if kind < 2 else chance.choice(b'0123456789",:[]{}FIU-. ')
        return content[:place] + bytes([byte]) + content[place + 1 :]
    if kind == 4:
        return content[:place]
    if kind == 5:
        return content + chance.randbytes(1 + chance.randrange(9))
    if kind == 6:
        new = chance.choice([0, 1, length - 8, length + 1, length + 8, 99_999_999, 100_000_001, 2**63, 2**64 - 1])
        return new.to_bytes(8, "little") + content[8:]
    if kind == 7:
        entry["data_offsets"][chance.randrange(2)] += chance.choice([-4, -1, 1, 4, 2**64, 0.0])
    elif kind == 8:  # overlap, or a tensor in place of another
        entry["data_offsets"] = list(header[chance.choice(names)]["data_offsets"])
    elif kind == 9:  # a hole
        del header[name]
    elif kind == 10:
        entry["dtype"] = chance.choice([*safetensors.TYPES, "F33", "f32", None, 4])
    elif kind == 11:
        entry["shape"] = chance.choice(
            [[], [0], [-1], [1, 1], [2**64], [1.0], [True], {}, None, "3", [3, 2], entry["shape"][::-1]]
        )
    elif kind == 12:
        del entry[chance.choice([*entry])]
    elif kind == 13:
        header["__metadata__"] = chance.choice(
            [None, [], {}, "", 0, {"a": 1}, {"a": None}, {"a": "b"}, [["a", "b"]], {"a": "\ud800"}]
        )
    elif kind == 14:
        entry["more"] = chance.choice([1, "x", [{}], float("nan"), None])
    else:
        text = json.dumps(header)
        field = chance.choice(['"dtype": "F32", ', '"shape": [], ', '"data_offsets": [0, 4], '])
        return joined(
            chance.choice([text.replace('"dtype"', field + '"dtype"', 1), f"[{text}]", f" {text}", f"{text}x"]), data
        )
    return joined(json.dumps(header, ensure_ascii=chance.random() < 0.5), data)


def judged(read, content):
    """Return the tensors of a file, or None if it is refused."""
    try:
        return read(content)
    except Exception:
        return None


def test_damaged_files_are_judged_as_by_the_package():
    """Both refuse a file, or both read the same tensors."""
    chance, counts = random.Random(0), {True: 0, False: 0}
    contents = [safetensors.pack(some_tensors(seed), METADATA if seed % 2 else {}) for seed in range(20)]
    for number in range(3000):
        content = damaged(chance.choice(contents), chance)
        wanted = judged(package.load, content)
        if wanted and any(tensor.dtype not in safetensors.NAMES for tensor in wanted.values()):
            wanted = None  # a type that we do not read, such as U16
        found = judged(lambda file: safetensors.unpack(file)[0], content)
        assert (found is None) == (wanted is None), (number, content)
        assert found is None or same(found, wanted), (number, content)
        counts[found is None] += 1
    assert min(counts.values()) > 300, counts


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "I32", "shape": [1], '
        '"data_offsets": [0, 4]}}',
        '{"__metadata__": {"a": "b", "a": "c"}}',
    ],
)
def test_a_name_that_occurs_twice_is_refused(header):
    """The format forbids it; the package takes the last one."""
    content = joined(header, bytes(4 if "F32" in header else 0))
    assert judged(package.load, content) is not None
    with pytest.raises(ValueError, match="its header has a name twice"):
        safetensors.unpack(content)
