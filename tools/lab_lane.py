"""Say whether anything that the tests of a lane depend on has changed since they passed.

    python tools/lab_lane.py            # exit code 0: nothing has; 1: run the lane, as .ci/run does
    python tools/lab_lane.py --write    # after they passed: writes lab/passed.txt, which is committed

They are those of lab/, those with damaged files, and those on a simulated device. They depend on lab/, benchmarks/, on
all modules that these import, also indirectly, and on the documents and results that they read.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSED = ROOT / "lab" / "passed.txt"
PLACES = ("", "tests", "tests/lab")  # where modules are


def imported(path: Path) -> Iterator[Path]:
    """Yield the files of this repository that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        dotted = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parent.parts if node.level else ()
            start = ".".join([*above[: len(above) - node.level + 1], *([node.module] if node.module else [])])
            dotted = [start, *(f"{start}.{name.name}".lstrip(".") for name in node.names)]
        for place in (name.removeprefix("egodistill.").replace(".", "/") for name in dotted):
            found = (ROOT / folder / f"{place}{end}" for folder in PLACES for end in (".py", "/__init__.py"))
            yield from (file for file in found if place and file.is_file())


def digest() -> str:
    """Return a digest over all files that the tests depend on."""
    own = ("conftest.py", "test_fuzz.py", "simulated.cpp", "engine/test_runtime_devices.py")
    known, new = set(), {ROOT / "tests" / name for name in own}
    new |= {path for place in ("lab", "tests/lab/**", "benchmarks") for path in ROOT.glob(f"{place}/*.py")}
    while new:
        known |= new
        new = {file for path in new if path.suffix == ".py" for file in imported(path)} - known
    known |= {
        path for place in ("*.md", "lab/*.md", "docs/*.md", "results/*", "students/*") for path in ROOT.glob(place)
    }
    sums = (f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in sorted(known))
    return hashlib.sha256("".join(sums).encode()).hexdigest()


if __name__ == "__main__":
    now, before = digest(), PASSED.read_text(encoding="utf-8").strip() if PASSED.exists() else "never"
    if sys.argv[1:] == ["--write"]:
        PASSED.write_text(f"{now}\n", encoding="utf-8")
    print(f"{now}, and {before} when the tests of the lab passed last")
    sys.exit(now != before and sys.argv[1:] != ["--write"])
