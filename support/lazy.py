"""Packages that hand on the names of their modules and import each module only when one of its names is used.

    from ..support.lazy import lazy_exports

    __getattr__, __dir__ = lazy_exports(__name__)
    __getattr__, __dir__ = lazy_exports(__name__, {"checks": ("Check", "check"), "clips": ()})

So `egodistill --help` and the processes that decode videos start without torch. For type checkers and editors, a
package imports the names that it lists below `if TYPE_CHECKING`, too.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(
    package: str, modules: Mapping[str, Sequence[str]] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that hands on its modules and these names of theirs.

    Args:
        package: Its `__name__`.
        modules: {module below the package: names that are handed on beside it}; None: all its modules, and no more.

    >>> import egodistill
    >>> egodistill.recordings.check is egodistill.recordings.checks.check
    True
    """
    if modules is None:
        modules = {module.name: () for module in pkgutil.iter_modules(sys.modules[package].__path__)}
    homes = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name in modules:
            value = importlib.import_module(f"{package}.{name}")
        elif name in homes:  # as in `from home import name`, so the name may also be a module
            value = getattr(__import__(f"{package}.{homes[name]}", fromlist=[name]), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # Python does not call __getattr__ for it again
        return value

    def names() -> list[str]:
        modules_beside = (module for module in modules if "." not in module)
        return sorted({*vars(sys.modules[package]), *homes, *modules_beside})

    return find, names
