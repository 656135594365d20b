"""docs/api.md is what its script writes: an index of everything public."""

import importlib.util
import re
from pathlib import Path

import pytest

import egodistill

ROOT = Path(egodistill.__file__).parent
pytestmark = pytest.mark.skipif(not (ROOT / "tools").is_dir(), reason="no tools beside the package: not a checkout")


def page():
    spec = importlib.util.spec_from_file_location("api", ROOT / "tools" / "api.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script, script.page()


def test_index_is_up_to_date():
    assert (ROOT / "docs/api.md").read_text(encoding="utf-8") == page()[1], "run `python tools/api.py`"


def test_index_is_short_and_names_every_module():
    script, text = page()
    assert text.count("\n") <= 172
    modules = {path.stem for path in ROOT.glob("*.py")} - {"setup", "__main__"}
    rooms = [sign.parent for sign in ROOT.glob("*/__init__.py")]
    modules |= {f"{room.name}.{path.stem}" for room in rooms for path in room.glob("*.py") if path.stem != "__init__"}
    named = set(re.findall(r"`([\w.]+)`", script.HEAD))
    whole = {module for module in modules if module.partition(".")[0] in named}
    assert modules == whole | (named & modules) | {*script.MODULES, *script.LOWER}
