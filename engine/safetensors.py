"""Files of named tensors: the length of a header in 8 bytes, the header as JSON, the tensors without gaps."""
# The format safetensors (https://github.com/huggingface/safetensors). Such files hold no code.

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["pack", "unpack"]

# In a file, the tensors of the last of these types come first.
TYPES = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "F16": torch.float16}
TYPES |= {"BF16": torch.bfloat16, "I32": torch.int32, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
NAMES = {dtype: name for name, dtype in TYPES.items()}
MAX_HEADER = 100_000_000  # bytes


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a file. Raise ValueError for a dtype that is not in `TYPES`."""
    header, parts, end = {"__metadata__": dict(metadata)}, [], 0
    for name in sorted(tensors, key=lambda name: (-[*NAMES].index(tensors[name].dtype), name)):
        tensor = tensors[name].detach().cpu().contiguous()
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        start, end = end, end + len(parts[-1])
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpack(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, which share the memory of a copy, and the metadata. Raise an Exception if it is damaged."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(MAX_HEADER, len(content) - 8):
        raise ValueError("its header is cut off")
    header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=without_repeats)
    json.dumps(header, ensure_ascii=False, allow_nan=False).encode()  # raises for NaN and for half a surrogate pair
    metadata = header.pop("__metadata__", None)
    if not all(isinstance(text, str) for text in ({} if metadata is None else metadata).values()):
        raise ValueError("its metadata are not texts")
    data, end, tensors = bytearray(content[8 + length :]), 0, dict[str, Tensor]()
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, stop) = TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        count, whole = math.prod(shape), all(type(number) is int and number >= 0 for number in (*shape, start, stop))
        if not whole or start != end or stop - start != count * dtype.itemsize:
            raise ValueError(f"{name} does not fit")
        found = torch.frombuffer(data, dtype=dtype, count=count, offset=start) if count else torch.empty(0, dtype=dtype)
        tensors[name], end = found.reshape(shape), stop
    if end != len(data):
        raise ValueError("it has more bytes than its tensors")
    return tensors, metadata or {}


def without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the members of a JSON object. Raise ValueError if two have one name."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("its header has a name twice")
    return found
