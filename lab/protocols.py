"""The settings of a comparison: how each method, and a teacher, is built and trained.

    from dataclasses import replace
    from lab import protocols

    protocol = protocols.PROTOCOLS["epic"]                     # the paper's sizes and schedules
    protocol = replace(protocol, stts=protocols.STTSSettings(weights=None))

`benches.Bench` trains and evaluates all methods under one protocol; a `Method` is one of your own.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from egodistill import distillation
from egodistill.distillation import Recipe
from egodistill.engine.recipes import STAGES
from egodistill.support.errors import EgoDistillError
from egodistill.training import Training

__all__ = [
    "PROTOCOLS",
    "AdaFuseSettings",
    "ListenToLookSettings",
    "Method",
    "Protocol",
    "STTSSettings",
    "TeacherRecipe",
]


# ---------------------------------------------------------------------------------------------------------------
# Settings as the committed protocols in results/ have them: what was added later is there only where it is used


def committed_training(settings: Training) -> dict[str, Any]:
    """Return the record of the settings of a stage."""
    found = settings.record()
    for where, name in ((found, "clip_norm"), (found["augment"], "shift")):
        if not where[name]:
            del where[name]
    return found


def committed_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the record of a recipe, in which `use_imu` says whether the student has an IMU encoder."""
    student = asdict(recipe.student)
    student["use_imu"] = student["imu_encoder"] is not None
    later = {"aggregator": "gru", "fusion": None, "student_class": None, "optional_inputs": False}
    later["imu_encoder"] = "cnn" if student["use_imu"] else None
    student = {name: value for name, value in student.items() if name not in later or value != later[name]}
    return {"student": student} | {stage: committed_training(getattr(recipe, stage)) for stage in STAGES}


# ---------------------------------------------------------------------------------------------------------------
# Settings of the methods


@dataclass(frozen=True)
class AdaFuseSettings:
    """Arguments of `adafuse.AdaFuse`, which explains them, with the defaults of its paper.

    Attributes:
        weights: "imagenet", the path of a file, or None for random.
        width: Channels of the stem.
        depths: Number of blocks per stage.
        policy_hidden: Hidden units of each policy; None: the paper's.
        dropout: Rate of dropout before the classifier.
    """

    weights: str | None = "imagenet"
    width: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    policy_hidden: int | None = None
    dropout: float = 0.5


@dataclass(frozen=True)
class STTSSettings:
    """Arguments of `stts.STTS`, which explains them, with the defaults of its paper.

    Attributes:
        weights: "kinetics", the path of a file, or None for random.
        width: Channels of the first block.
        depths: Number of blocks per stage.
        dropout: Rate of dropout before the classifier.
        drop_path: Rate of stochastic depth in the last block.
        samples: Number of noise samples per selection.
    """

    weights: str | None = "kinetics"
    width: int = 96
    depths: tuple[int, ...] = (1, 2, 11, 2)
    dropout: float = 0.5
    drop_path: float = 0.2
    samples: int = 500


@dataclass(frozen=True)
class ListenToLookSettings:
    """Arguments of `listen_to_look.ListenToLook`, which explains them, with the defaults of its paper.

    Attributes:
        weights: "imagenet", the path of a file, or None for random.
        width: Channels of both stems.
        depths: Number of blocks per stage, of both networks.
        hidden: Width of the fusion network's hidden layer.
    """

    weights: str | None = "imagenet"
    width: int = 64
    depths: tuple[int, ...] = (2, 2, 2, 2)
    hidden: int = 1024

    @property
    def image_encoder(self) -> str | None:
        """Return the name of the image encoder of a student that is the same network, or None."""
        if self.depths == (1, 1, 1, 1):
            return f"resnet10x{self.width}"
        return "resnet18" if (self.width, self.depths) == (64, (2, 2, 2, 2)) else None


@dataclass(frozen=True)
class Protocol:
    """The settings of all methods of a comparison: the students' recipe, and those of the baselines.

    Attributes:
        recipe: The students, and the stages of training of all methods.
        adafuse: AdaFuse.
        stts: STTS, in all variants.
        listen_to_look: ListenToLook.
        narrow: STTS is too narrow for its published initialization; see `benches.init_narrow()`.
        changes: {method: settings of its training that differ from the recipe's}, such as {"VisIMU": {"epochs": 12}};
            the method "stage 1" is EgoDistill's first stage.

    >>> from dataclasses import replace
    >>> from lab import protocols
    >>> demo = protocols.PROTOCOLS["demo"]
    >>> short = replace(demo, recipe=demo.recipe.with_training(epochs=1))
    >>> short.recipe.distillation.epochs, short.stts.width
    (1, 32)
    """

    recipe: Recipe = distillation.EPIC_KITCHENS
    adafuse: AdaFuseSettings = AdaFuseSettings()
    stts: STTSSettings = STTSSettings()
    listen_to_look: ListenToLookSettings = ListenToLookSettings()
    narrow: bool = False
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the settings that must be equal for runs to share a folder."""
        found = asdict(self) | {"recipe": committed_recipe(self.recipe)}
        for changes in found["changes"].values():
            if "augment" in changes and not changes["augment"]["motion"]:
                del changes["augment"]["motion"]  # as 0.5 wrote it
        return found

    def weight_files(self) -> list[str]:
        """Return the files of initial weights that the settings name."""
        parts = (self.adafuse, self.stts, self.listen_to_look)
        names = [self.recipe.student.image_weights, *(part.weights for part in parts)]
        return sorted({str(name) for name in names if name is not None and os.path.isfile(name)})


PROTOCOLS = {
    "epic": Protocol(),
    "ego4d": Protocol(distillation.EGO4D),
    "demo": Protocol(
        distillation.SYNTHETIC,
        AdaFuseSettings(None, width=16, depths=(1, 1, 1, 1), policy_hidden=64, dropout=0.0),
        STTSSettings(None, width=32, depths=(1, 1, 2, 1), dropout=0.0, drop_path=0.0, samples=100),
        ListenToLookSettings(None, width=16, depths=(1, 1, 1, 1)),  # the same image network as the students'
        narrow=True,
    ),
}


@dataclass(frozen=True)
class TeacherRecipe:
    """The settings to build a teacher and train it on labels.

    Attributes:
        architecture: One of `teachers.MODELS`.
        training: Settings of `finetune()`.
        options: Options of the network for `teachers.load()`.
        narrow: The transformer is too narrow for its published initialization; see `benches.init_narrow()`.
    """

    architecture: str
    training: Training
    options: Mapping[str, Any] = field(default_factory=dict)
    narrow: bool = False

    def record(self) -> dict[str, Any]:
        """Return the settings that must be equal for a teacher to be the same."""
        return asdict(self) | {"training": committed_training(self.training)}


@dataclass(frozen=True)
class Method:
    """A method of your own, which a bench trains beside those of the paper.

    Attributes:
        name: Its name in tables and figures; file names are made from it.
        build: `build(num_classes, **arguments)` returns a new student: a class that inherits from `EgoDistill`, or a
            function. The arguments are those that the bench gives `EgoDistill`, the protocol's and the store's, except
            those that a `functools.partial` binds. Torch's seed is set before.
        stage: `stage(model, store, settings, teacher=NAME)` trains it, as `distill()` does, with the protocol's
            settings of distillation; or `finetune`, which gets those of finetuning and no teacher; or a partial of one.
        pretrain: Before, train the IMU encoder with `pretrain_imu()`, as EgoDistill's.
        start: In a protocol without ImageNet weights, its `image_encoder` starts as that of the students does; False:
            it is trained from random weights, for twice the epochs.

    >>> from functools import partial
    >>> from egodistill import EgoDistill
    >>> from lab import benches, protocols
    >>> small = protocols.Method("EgoDistill, 8 channels", partial(EgoDistill, imu_width=8), pretrain=True)
    >>> bench = benches.Bench("store", "out", protocols.PROTOCOLS["demo"], methods=[small])
    >>> [run.name for run in bench.with_dependencies([benches.Run(small.name, teacher="x3d")])]
    ['seed-0/start', 'seed-0/stage-1-of-egodistill-8-channels-n1-x3d', 'seed-0/egodistill-8-channels-n1-x3d']
    """

    name: str
    build: Callable[..., nn.Module]
    stage: Callable[..., Any] = distillation.distill
    pretrain: bool = False
    start: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and callable(self.build) and callable(self.stage)):
            raise EgoDistillError(f"Method({self.name!r}, ...): give a name, and functions that build and train")
        try:
            inspect.signature(self.stage).bind("model", "store", "settings", **({"teacher": ""} if self.taught else {}))
        except TypeError as error:
            wanted = "stage must take (model, store, settings, *, teacher)"
            raise EgoDistillError(f"{self.name}: {wanted}; {error}") from error
        if self.pretrain and not self.taught:
            raise EgoDistillError(f"{self.name}: finetune() has no teacher, from whom pretrain=True learns")

    @property
    def taught(self) -> bool:
        """Return whether its stage learns from a teacher."""
        return getattr(self.stage, "func", self.stage) is not distillation.finetune

    def record(self) -> dict[str, Any]:
        """Return what must be equal for a result to be reused, with a hash of the file that has each function.

        What is typed into a notebook has no file and is not compared.
        """
        plain = {"name": self.name, "pretrain": self.pretrain, "start": self.start}
        return plain | {"build": describe_function(self.build), "stage": describe_function(self.stage)}


def describe_function(function: Any) -> dict[str, Any]:
    """Return the name of a function or class, the arguments of a partial, and a hash of its file; a value as text."""
    if isinstance(function, functools.partial):
        bound = {name: describe_function(one) for name, one in function.keywords.items()}
        if bound.get("imu_encoder") == describe_function(None):  # as 0.5 wrote it
            del bound["imu_encoder"]
            bound["use_imu"] = describe_function(False)
        return {**describe_function(function.func), "arguments": [*map(describe_function, function.args), bound]}
    if not hasattr(function, "__qualname__"):
        return {"value": re.sub(r" at 0x[0-9a-f]+", "", repr(function))}
    kind, found = function, {"name": function.__qualname__}  # a script's module has other names in other processes
    if kind.__module__.partition(".")[0] != "egodistill":
        try:
            source = Path(inspect.getfile(inspect.unwrap(function)))
            found["file"] = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
        except (OSError, TypeError):  # a notebook
            found["file"] = None
    return found
