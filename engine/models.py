"""The classes of model files, and the model in a file of any of them.

from egodistill.engine import models

model = models.load_any("model.safetensors")            # a student or a teacher
models.register(Mine)                                   # from now on also a file of the class `Mine`
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from ..student import EgoDistill
from ..support.errors import EgoDistillError
from . import checkpoints
from .checkpoints import Parts
from .teacher import Teacher

__all__ = ["load_any", "register"]

CLASSES: dict[str, Any] = {kind.file_class: kind for kind in (EgoDistill, Teacher)}


def register(kind: Any) -> None:
    """Let `load_any()` read the files of a class, which has `arguments` and `from_arguments()`.

    Raise EgoDistillError for a class without a `file_class` of its own, which would read the files of another.
    """
    if not checkpoints.is_library_class(kind):
        raise EgoDistillError(f"{kind.__name__} has no file_class of its own; set it to the name that its files have")
    CLASSES[kind.file_class] = kind


def load_any(path: str | os.PathLike, parts: Parts = ()) -> nn.Module:
    """Return the model in a file, of whichever class it is; see `checkpoints.load_model()`.

    >>> from egodistill.engine import models
    >>> for file in ("student.safetensors", "teacher.safetensors"):
    ...     print(type(models.load_any(file)).__name__)
    EgoDistill
    Teacher
    """
    record, weights = checkpoints.read_model(path)
    name = str(record.get("class"))
    if name not in CLASSES:
        raise EgoDistillError(
            f"{path} contains a model of the class {name}, which is not of this library; import the module that has it"
        )
    return checkpoints.build_model(path, CLASSES[name], parts, record, weights)
