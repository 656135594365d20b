"""Write docs/api.md: name, signature and first sentence of everything public.

    python tools/api.py             # after a change of a public name, signature or docstring

The test suite compares docs/api.md with what this script would write.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, is_typeddict

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's egodistill, installed or not

# Entry points first: what they re-export is shown there. The rest of the LOWER modules is named, one line each.
MODULES = """egodistill data teachers student distillation training inference recordings.checks recordings.copies
deploy.export world.synthetic""".split()
LOWER = """video imu gpmf cameras video_convnets video_i3d video_transformers recordings.spec recordings.clips
recordings.recording recordings.aria recordings.offset recordings.pictures recordings.sensors
datasets.annotations datasets.segments datasets.table_checks datasets.store datasets.one_pass engine.batches
engine.checkpoints engine.models engine.spectrum engine.filterbank engine.image_encoders engine.parts deploy.stream
deploy.arrivals deploy.events deploy.segmentation deploy.gates deploy.feeds world.behaviour""".split()
WIDTH = 100  # characters of the arguments; the rest is `...`

HEAD = """# API

By `tools/api.py`. Internal: `commands`, `drawing`, `support` (but `support.errors`), `datasets.background`,
`datasets.edits`, `datasets.index`, `datasets.label_tools`, `datasets.store_files`, `engine.calibration`,
`engine.runtime`, `engine.augmentation`, `engine.distributed`, `engine.published`, `engine.recipes`,
`engine.refusal`, `engine.teacher`, `engine.safetensors`, `engine.steps`, `engine.torchvision_teachers`,
`deploy.exported`, `deploy.descriptions`, `deploy.health`, `world.props`, `world.scene`.
"""


def main() -> None:
    (ROOT / "docs" / "api.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the text of docs/api.md."""
    seen: set[int] = set()
    sections = [HEAD]
    for name in MODULES:
        module = import_module(name)
        sections.append("\n".join(lines(module, seen)) + "\n")
    sections.append("**What is left of the modules below these:**")
    lower = (import_module(name) for name in LOWER)
    return "\n".join([*sections, *(f"- {listed(module, new_names(module, seen))}" for module in lower)]) + "\n"


def import_module(name: str) -> ModuleType:
    return importlib.import_module("egodistill" if name == "egodistill" else f"egodistill.{name}")


def new_names(module: ModuleType, seen: set[int]) -> dict[str, Any]:
    """Return the public names of a module that were not shown yet; from now on they were."""
    new = {name: getattr(module, name) for name in module.__all__ if id(getattr(module, name)) not in seen}
    seen.update(map(id, new.values()))
    return new


def lines(module: ModuleType, seen: set[int]) -> Iterator[str]:
    """Yield a line about a module, and one for each of its functions and classes that was not shown yet.

    The first line has the other names.
    """
    new = new_names(module, seen)
    others = {
        name: value
        for name, value in new.items()
        if not inspect.isfunction(value) and (not inspect.isclass(value) or is_plain(module, value))
    }
    own = module.__name__.partition(".")[2] or module.__name__
    also = f" Also: {', '.join(f'`{name}`' for name in others)}." if others else ""
    yield f"**`{own}`**: {summary(module)}{also}"
    for name, value in new.items():
        if name not in others:
            yield f"- `{shown(name, value)}`: {summary(value)}"


def is_plain(module: ModuleType, value: type) -> bool:
    """Return whether a name is enough: errors, types of arguments, and classes of lower modules that are only data."""
    if issubclass(value, Exception) or is_typeddict(value):
        return True
    methods = [one for name, one in vars(value).items() if inspect.isfunction(one) and not name.startswith("_")]
    only_data = issubclass(value, tuple) or (is_dataclass(value) and not methods)
    return only_data and module.__name__ not in ("egodistill", "egodistill.data")


def listed(module: ModuleType, names: dict[str, Any]) -> str:
    """Return one line with the names of a module."""
    own = module.__name__.partition(".")[2] or module.__name__
    return f"`{own}`: {summary(module)} {', '.join(f'`{name}`' for name in names)}".rstrip()


class Short:
    """A default value that is shown as the name of its class."""

    def __init__(self, value: Any) -> None:
        self.name = type(value).__name__

    def __repr__(self) -> str:
        return f"{self.name}()"


def shown(name: str, value: Any) -> str:
    """Return a name with its arguments and defaults, without annotations."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:
        return name
    plain = [
        p.replace(
            annotation=inspect.Parameter.empty, default=Short(p.default) if is_dataclass(p.default) else p.default
        )
        for p in parameters
        if not p.name.startswith("_")
    ]
    text = re.sub(r"<factory>|<class '[\w.]+'>", "...", str(inspect.Signature(plain)))
    if len(text) > WIDTH:
        text = text[: text.rindex(", ", 0, WIDTH)] + ", ...)"
    return name + text


def summary(value: Any) -> str:
    """Return the first sentence of a docstring."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)`\]])\. (?=[A-Z`])", text)[0].rstrip(".") + "."


if __name__ == "__main__":
    main()
