"""Files of named tensors in the format safetensors (https://github.com/huggingface/safetensors), which hold no code.

A file is the length of its header (8 bytes), the header as JSON, and the bytes of the tensors without gaps.
"""

from __future__ import annotations

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
    """Return the tensors, which share the memory of a copy, and the metadata. A damaged file raises any Exception."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(MAX_HEADER, len(content) - 8):
        raise ValueError("its header is cut off")
    pairs = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=list)
    header, data, end, tensors = dict(pairs), bytearray(content[8 + length :]), 0, dict[str, Tensor]()
    metadata = dict(header.pop("__metadata__", None) or [])
    if len({name for name, _ in pairs}) < len(pairs) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its header has a name twice, or metadata that are not texts")
    entries = {name: dict(entry) for name, entry in header.items()}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, stop) = TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        count = math.prod(shape)
        if start != end or stop - start != count * dtype.itemsize or min([*shape, 0]) < 0:
            raise ValueError(f"{name} does not fit")
        found = torch.frombuffer(data, dtype=dtype, count=count, offset=start) if count else torch.empty(0, dtype=dtype)
        tensors[name], end = found.reshape(shape), stop
    if end != len(data):
        raise ValueError("it has more bytes than its tensors")
    return tensors, metadata
