"""Print the slow tests that .ci/run runs with those of lab/, if anything they depend on has changed since they passed.

    python tools/lane.py            # their files, or nothing
    python tools/lane.py --write    # after they passed: writes .ci/lane_passed.txt, which is committed

Both depend on lab/, benchmarks/, on all modules that these and the tests import, also indirectly, and on the documents
and results that they read.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSED = ROOT / ".ci" / "lane_passed.txt"
SLOW = ("tests/test_fuzz.py", "tests/engine/test_runtime_devices.py")  # with damaged files; on a simulated device
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
    known, new = set(), {ROOT / name for name in ("tests/conftest.py", "tests/simulated.cpp", *SLOW)}
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
    elif now != before:
        print(*SLOW)
