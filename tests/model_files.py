"""Model files that somebody changed: their records and weights, with the checksum of the change or of the original."""

import json
from pathlib import Path

from egodistill.engine import checkpoints, safetensors


def read(path):
    """Return the record of a model file and its weights."""
    weights, metadata = safetensors.unpack(Path(path).read_bytes())
    return json.loads(metadata["egodistill"]), weights


def write(path, record, weights, seal=True):
    """Write a model file of them; sealed, its checksum is theirs, as if the library had written it."""
    if seal:
        record = {name: value for name, value in record.items() if name != "sha256"}
        record["sha256"] = checkpoints.weights_hash(weights, record)
    Path(path).write_bytes(safetensors.pack(weights, {"egodistill": json.dumps(record)}))
    return path


def change(path, edit, target=None, seal=True):
    """Let `edit(record, weights)` change a model file, or write what it makes of it to `target`."""
    record, weights = read(path)
    edit(record, weights)
    return write(target or path, record, weights, seal)
