"""The rules of the code base: which module may import which, what can be copied alone, what starts without torch."""

import ast
import functools
import importlib
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest import mock

import pytest

import egodistill
from egodistill.commands import cli

ROOT = Path(egodistill.__file__).parent
pytestmark = pytest.mark.skipif(not (ROOT / "egodistill.py").exists(), reason="not a checkout: modules lie elsewhere")

# Each line is a floor, from the ground up. A module imports lower floors and its own room; `egodistill`, the door, is
# above all of them. What stands on the first line can be copied alone: it imports others only inside functions.
FLOORS = """
    cameras gpmf imu student video video_convnets video_i3d video_transformers
    support
    drawing world
    recordings
    datasets
    engine
    data deploy inference teachers training
    distillation
    commands
"""
COPYABLE, *_ = (line.split() for line in FLOORS.strip().splitlines())
FLOOR = {place: number for number, line in enumerate(FLOORS.strip().splitlines()) for place in line.split()}
ROOMS = sorted(sign.parent.name for sign in ROOT.glob("*/__init__.py"))
# {module, such as "imu" or "recordings.clips": its file}
FILES = {path.stem: path for path in ROOT.glob("*.py") if path.name not in ("setup.py", "__main__.py")}
FILES |= {f"{room}.{path.stem}": path for room in ROOMS for path in (ROOT / room).glob("*.py")}
MODULES = sorted(module for module in FILES if not module.endswith("__init__"))
LIGHT = ("support", "drawing", "recordings", "datasets")  # rooms without torch


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def place(module: str) -> str:
    """The room of a module, or the module itself if it stands at the root."""
    return module.partition(".")[0]


def target(module: str, node: ast.ImportFrom) -> str:
    """The place that a relative import names, dotted from the package on."""
    room = module.split(".")[:-1]
    return ".".join([*room[: len(room) - node.level + 1], *([node.module] if node.module else [])])


def siblings(module: str, node: ast.AST) -> set[str]:
    """The modules of the library that an import statement names."""
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return set()
    start, found = target(module, node), set()
    for name in node.names:
        longer = f"{start}.{name.name}".lstrip(".")
        found.add(longer if longer in FILES else start or "egodistill")
    return found


@functools.cache
def imports(module: str) -> set[str]:
    """The modules that a module imports, also inside functions and for types."""
    return set().union(*(siblings(module, node) for node in ast.walk(tree(module)))) - {module}


# --- Rooms and floors


def test_every_place_is_on_a_floor():
    """So a new module goes into a room, not to the root."""
    assert {place(module) for module in FILES} - {"egodistill"} == set(FLOOR)


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_lead_down(module):
    if module == "egodistill":  # the door hands names on; below its `if TYPE_CHECKING` it imports them
        assert not any(siblings(module, node) for node in tree(module).body)
        return
    here = place(module)
    if here in COPYABLE:
        later = [node for one in ast.walk(tree(module)) if isinstance(one, ast.FunctionDef) for node in ast.walk(one)]
        sooner = {*ast.walk(tree(module))} - {*later}
        assert not any(siblings(module, node) for node in sooner)
        return
    for other in imports(module):
        assert other in FILES, f"{module} imports {other}, a room: name its module"
        assert place(other) == here or FLOOR.get(place(other), 99) < FLOOR[here], f"{module} imports {other}"


# Tests of the whole: documents, packaging, platforms, and what several modules do together.
WHOLE = "api docstrings fuzz keywords package portability readme site structure suite".split()
WHOLE += ["tutorials", "types", "web"]


def test_tests_mirror_the_rooms():
    """A file of tests has the name of a module, and perhaps of a part of it, in the folder of its room."""
    strangers = []
    for file in sorted(ROOT.glob("tests/**/test_*.py")):
        room, name = file.parent.name, file.stem.removeprefix("test_")
        own = ROOT if room == "tests" else ROOT / room
        whole = ("scripts", "docstrings", "readme") if room == "lab" else ("scripts",)
        if name not in whole and not any(
            name == module.stem or name.startswith(f"{module.stem}_") for module in own.glob("*.py")
        ):
            strangers.append(f"{room}/{file.name}")
    assert strangers == [f"tests/test_{name}.py" for name in WHOLE if (ROOT / "tests" / f"test_{name}.py").exists()]


def test_no_modules_import_each_other():
    """Not for types, either."""
    names = [module for module in FILES if module != "egodistill" and not module.endswith("__init__")]
    arrows = {module: imports(module) & {*names} for module in names}
    done: set[str] = set()
    while left := [module for module in names if module not in done]:
        free = [module for module in left if arrows[module] <= done]
        assert free, f"a circle among {left}"
        done.update(free)


@pytest.mark.parametrize("module", sorted(FILES))
def test_the_library_imports_itself_relatively(module):
    """Editors and type checkers follow these imports in a checkout, too."""
    absolute = [
        ast.unparse(node)
        for node in ast.walk(tree(module))
        if (isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] == "egodistill")
        or (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "egodistill" for name in node.names))
    ]
    # In a checkout the door is a file, and a file has no relative imports while it runs.
    door = ["from egodistill.__main__ import main", "from egodistill.support.lazy import lazy_exports"]
    assert sorted(absolute) == (door if module == "egodistill" else [])


def test_the_tour_and_the_signs_name_every_module():
    tour = egodistill.__doc__
    assert {place(module) for module in FILES} - {"egodistill"} <= set(re.findall(r"[a-z0-9_]+", tour))
    for room in ROOMS:
        sign = set(re.findall(r"[a-z0-9_]+", importlib.import_module(f"egodistill.{room}").__doc__))
        assert {module.partition(".")[2] for module in MODULES if place(module) == room} <= sign, room


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_hands_on_its_modules(room):
    home = importlib.import_module(f"egodistill.{room}")
    own = {module.partition(".")[2] for module in MODULES if module.startswith(f"{room}.")}
    assert own <= {*dir(home)}
    assert all(getattr(home, name).__name__ == f"egodistill.{room}.{name}" for name in own)


@pytest.mark.parametrize("package", ["egodistill", "recordings.__init__"])
def test_names_that_a_package_hands_on_have_their_types(package):
    """The names below TYPE_CHECKING, for editors, are those of `lazy_exports()`."""
    (block,) = (node for node in tree(package).body if isinstance(node, ast.If) and node.orelse)
    imported = [node for statement in block.body for node in ast.walk(statement) if isinstance(node, ast.ImportFrom)]
    typed = {name.name for node in imported for name in node.names}
    calls = [node for node in ast.walk(ast.Module(block.orelse, [])) if isinstance(node, ast.Call)]
    (call,) = (node for node in calls if ast.unparse(node.func) == "lazy_exports")
    table = eval(ast.unparse(call.args[1]))
    names = {name for names in table.values() for name in names} | {module for module in table if "." not in module}
    home = importlib.import_module(f"egodistill.{package.partition('.')[0]}" if "." in package else package)
    assert typed <= names and all(getattr(home, name) is not None for name in typed)
    extra = names - typed - {"__version__"}
    modules = {module.rpartition(".")[2] for module in MODULES}
    assert extra <= (modules if package == "egodistill" else set())
    assert all(getattr(home, name).__name__.startswith("egodistill.") for name in extra)


# --- The lab, which is beside the library


@pytest.mark.parametrize("module", sorted(FILES))
def test_the_library_does_not_import_the_lab(module):
    names = [name.name for node in ast.walk(tree(module)) if isinstance(node, ast.Import) for name in node.names]
    names += [node.module or "" for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom)]
    names += [name.name for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom) for name in node.names]
    assert not [name for name in names if "lab" in name.split(".")]


def test_the_lab_is_no_room_and_no_part_of_a_wheel():
    assert any(ROOT.glob("lab/*.py")) and not (ROOT / "lab" / "__init__.py").exists()
    with mock.patch("setuptools.setup"):
        modules = runpy.run_path(str(ROOT / "setup.py"))["MODULES"]
    assert {path for *_, path in modules} == {
        *(path.relative_to(ROOT).as_posix() for path in FILES.values()),
        "__main__.py",
    }


# --- Modules


@pytest.mark.parametrize("module", MODULES)
def test_no_private_name_crosses_a_boundary(module):
    """Neither `module._name` nor `object._name` of something that is not the class's own."""
    code, found = tree(module), []
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and siblings(module, node):
            found += [name.name for name in node.names if re.match(r"_[^_]", name.name)]
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            owner = ast.unparse(node.value)
            own = owner in ("self", "cls", "super()") or node.attr in (
                "_asdict",
                "_fields",
                "_replace",
            )  # a NamedTuple's are public
            foreign = owner.split(".")[0] in ("torch", "os")
            found += [] if own or foreign else [f"{owner}.{node.attr}"]
    assert found == []


@pytest.mark.parametrize("module", MODULES)
def test_no_closure_changes_its_surroundings(module):
    assert not any(isinstance(node, ast.Nonlocal) for node in ast.walk(tree(module)))


FINDINGS = re.compile(r"(^|_)(notes|states|findings|sentence|health)$")  # what holds or returns findings


def recognised(function: ast.AST) -> list[str]:
    """The places where a function compares or searches a note, a sentence or the text of a state."""
    nodes, bound = [*ast.walk(function)], []  # (target, value)
    for node in nodes:
        if isinstance(node, (ast.For, ast.comprehension)):
            bound.append((node.target, node.iter))
        elif isinstance(node, (ast.Assign, ast.NamedExpr)):
            target = node.target if isinstance(node, ast.NamedExpr) else node.targets[0]
            both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            bound += zip(target.elts, node.value.elts, strict=False) if both else [(target, node.value)]
    named: set[str] = set()
    for target, value in 2 * bound:  # `said = motion.notes` may stand below `for note in said`
        if FINDINGS.search(source(value)) or source(value) in named:
            named.update(part.id for part in ast.walk(target) if isinstance(part, ast.Name))

    def is_finding(node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr in ("text", "sentence") or (
                node.attr == "name" and ast.unparse(node.value) in {"state", *named}
            )
        return isinstance(node, ast.Name) and node.id in named

    found = []
    for node in nodes:
        read = []
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq, ast.In, ast.NotIn)):
            fixed = isinstance(node.ops[0], (ast.In, ast.NotIn)) and getattr(node.left, "attr", "") == "name"
            read = [] if fixed else [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            searches = node.func.attr in ("endswith", "startswith", "find", "index", "count")
            read = [node.func.value] if searches else node.args if ast.unparse(node.func.value) == "re" else []
        found += [ast.unparse(node)] * any(map(is_finding, read))
    return found


def source(node: ast.AST) -> str:
    """The name that an expression reads or calls: `notes` of `self.notes`, `list(store.notes)[:3]` and `notes(x)`."""
    while not isinstance(node, (ast.Name, ast.Attribute)):
        inner = [getattr(node, field, None) for field in ("func", "value", "body")]
        node = next((one for one in inner if isinstance(one, ast.AST)), None)
        if node is None:
            return ""
    return getattr(node, "attr", getattr(node, "id", ""))


@pytest.mark.parametrize("module", MODULES)
def test_no_finding_is_recognised_by_its_words(module):
    """Who needs to know what is wrong compares the sensor and the fault of a state, or asks for it."""
    functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]
    assert sorted({place for function in functions for place in recognised(function)}) == []


@pytest.mark.parametrize(
    "code",
    [
        "return any(state.name.endswith(' times') for state in found)",
        "said = motion.notes\n return [note for note in said if 'acceleration' in note]",
        "found = self.axes_sentence() if self.axes else ''\n return found.endswith(LEANS)",
        "for one in stream.health():\n  if re.search('frozen', one.text): return one",
        "return [one for one in motion_states(motion) if one.name == 'gyroscope dead']",
    ],
)
def test_a_finding_that_is_recognised_by_its_words_is_noticed(code):
    assert len(recognised(ast.parse(f"def function():\n {code}").body[0])) == 1


@pytest.mark.parametrize("module", MODULES)
def test_public_names_exist(module):
    """And no module at the root has the name of one of the standard library, which would hide it in a checkout."""
    assert module not in sys.stdlib_module_names
    listed = [n for n in tree(module).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    assert len(listed) == 1, "no __all__"
    module = importlib.import_module(f"egodistill.{module}".replace("egodistill.egodistill", "egodistill"))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


# A process for each module, with the packages of others loaded once.
FIRST_IMPORTS = """
import importlib, os, sys
import av, numpy, torch, torchvision

for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(name)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"import {name} fails in a new process")
"""


@pytest.mark.slow("a process for each module")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_each_module_can_be_imported_first():
    """No module works only because another one was imported before it."""
    names = [f"egodistill.{module}" for module in MODULES if module != "egodistill"]
    words = [sys.executable, "-c", FIRST_IMPORTS, *names]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Tables that each network has under the same name.
CONVENTIONS = {"LAYOUTS", "PUBLISHED"}


def test_a_public_name_stands_for_one_thing():
    found = {}
    for module in MODULES:
        content = importlib.import_module(module if module == "egodistill" else f"egodistill.{module}")
        for name in content.__all__:
            found.setdefault(name, {})[module] = getattr(content, name)
    several = {
        name: sorted(places)
        for name, places in found.items()
        if name not in CONVENTIONS and any(one != next(iter(places.values())) for one in places.values())
    }
    assert several == {}


# --- Copied alone

# What a stranger does with a copy; `SAMPLES` is the folder of real recordings, or None.
USES = {
    "student": """
        import student, torch
        model = student.EgoDistill(3, image_weights=None, frame_size=32)
        frames, imu = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 422, 6)
        assert model.eval()(frames, imu).logits.shape == (2, 3)
        torch.save(model.image_encoder.state_dict() | {"fc.bias": torch.zeros(1000)}, "resnet.pth")
        again = student.EgoDistill(3, image_weights="resnet.pth", frame_size=32, num_frames=2)
        assert torch.equal(again.image_encoder.conv1.weight, model.image_encoder.conv1.weight)
        own = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 9), torch.nn.BatchNorm2d(5), torch.nn.AdaptiveAvgPool2d(1))
        own = student.EgoDistill(3, image_encoder=own.append(torch.nn.Flatten()), frame_size=32, imu_encoder=None)
        assert own.image_dim == 5 and own.training and not own.image_encoder[1].running_mean.any()
        assert student.EgoDistill(3, image_encoder="resnet10x8", image_weights=None, imu_encoder=None).image_dim == 64
        for options in ({"image_encoder": "mobilenet_v2"}, {"imu_encoder": "spectrum", "image_weights": None}):
            try:
                student.EgoDistill(3, **options)
            except ValueError as error:
                assert "image_encoder=torchvision.models" in str(error)
                continue
            raise AssertionError(options)
        for wrong in ({"image_weights": {}}, {"imu_vector": "mode"}, {"image_encoder": "rednet"}):
            try:
                student.EgoDistill(3, **{"image_weights": None} | wrong)
            except (KeyError, RuntimeError, ValueError):
                continue
            raise AssertionError(wrong)
        try:
            model.save("student.safetensors")
        except ValueError as error:
            assert "torch.save()" in str(error)
        else:
            raise AssertionError
        """,
    "video_transformers": """
        import torch, video_transformers
        model = video_transformers.MViT(3, frames=4, size=32, width=8, depths=(1, 1)).eval()
        feature, logits = model(torch.randn(2, 3, 4, 32, 32))
        assert feature.shape == (2, 16) and logits.shape == (2, 3)
        """,
    "video_convnets": """
        import torch, video_convnets
        model = video_convnets.X3D(3, width=4, depth_factor=0.5, feature_dim=16, pool=1).eval()
        feature, logits = model(torch.randn(2, 3, 4, 32, 32))
        assert feature.shape == (2, 16) and logits.shape == (2, 3)
        """,
    "video_i3d": """
        import torch, video_i3d
        model = video_i3d.I3D(3, width=8).eval()
        feature, logits = model(torch.randn(2, 3, 4, 32, 32))
        assert feature.shape == (2, 128) and logits.shape == (2, 3)
        """,
    "video": """
        import video
        try:
            video.probe("nothing.mp4")
        except OSError as error:
            assert "nothing.mp4" in str(error)
        else:
            raise AssertionError
        if SAMPLES:
            frames = video.read_frames(SAMPLES + "/gopro/max-heromode.mp4", [1.0, 2.0], size=16)
            assert frames.shape == (2, 3, 16, 16)
        """,
    "imu": """
        import imu
        with open("a.csv", "w") as file:
            file.write("time,ax,ay,az,gx,gy,gz\\n" + "".join(f"{k / 200},0,0,9.8,0,0,{k / 100}\\n" for k in range(600)))
        window = imu.read_samples("a.csv").window(0.2)
        assert window.shape == (422, 6) and abs(window[0, 5] - 0.4) < 1e-3
        try:
            imu.read_samples("walk.gcsv")
        except ValueError as error:
            assert "put cameras.py beside imu.py" in str(error)
        else:
            raise AssertionError
        if SAMPLES:
            try:
                imu.read_samples(SAMPLES + "/gopro/max-heromode.mp4")
            except ValueError as error:
                assert "gpmf.py" in str(error)
            else:
                raise AssertionError
        """,
    "cameras": """
        import cameras
        try:
            cameras.read_gyroflow("nothing.gcsv")
        except ValueError as error:
            assert "nothing.gcsv" in str(error)
        else:
            raise AssertionError
        """,
    "gpmf": """
        import gpmf
        try:
            list(gpmf.parse(b"no telemetry"))
        except ValueError as error:
            pass
        """,
}


# A process for each, with the packages of others loaded once; an installed egodistill must not help.
USE_COPIES = """
import os, runpy, sys
import av, numpy, torch, torchvision

sys.modules["egodistill"], sys.path[0] = None, "."
for name in sys.argv[1:]:
    if os.fork() == 0:
        os.chdir(name)
        runpy.run_path("use.py")
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"a copy of {name}.py fails")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_copy_works_beside_a_strangers_modules(tmp_path):
    """In a folder with a `data.py` and so on of someone else's, and without this package."""
    samples = os.environ.get("EGODISTILL_SAMPLE_DATA")
    for module in COPYABLE:
        (folder := tmp_path / module).mkdir()
        for other in FILES:
            # gpmf and cameras are missing, as for someone who copied imu.py alone.
            if "." not in other and other not in ("gpmf", "cameras", "egodistill"):
                (folder / f"{other}.py").write_text("raise RuntimeError('a stranger\\'s own module was imported')\n")
        shutil.copy(ROOT / f"{module}.py", folder)
        public = f"import {module} as one\nassert one.__all__ and all(hasattr(one, name) for name in one.__all__)\n"
        (folder / "use.py").write_text(f"SAMPLES = {samples!r}\n{public}{textwrap.dedent(USES[module])}")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-c", USE_COPIES, *COPYABLE]
    done = subprocess.run(words, cwd=tmp_path, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- What starts without torch


@pytest.mark.parametrize(
    "code",
    [
        "import egodistill; dir(egodistill); egodistill.DataError",
        "from egodistill import data, recordings; recordings.check, recordings.transcode",
        *(
            f"import importlib; [importlib.import_module('egodistill.' + name) for name in {names}]"
            for names in ([m for m in MODULES if place(m) == room] for room in LIGHT)
        ),
        "from egodistill.commands import recordings",
        "from egodistill import EGO4D, Augment, Recipe, Training",
    ],
)
def test_light_imports_leave_torch_out(code):
    check = "\nfinally:\n    assert not {'matplotlib', 'torch', 'torchvision'} & set(sys.modules)"
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass{check}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Commands that end before their work: in one process, each line with what it must print. Heavy is what takes long.
BEGIN = """
import contextlib, io, sys
from egodistill.commands import cli

for line in sys.argv[1:]:
    words, _, told = line.partition(" -> ")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        with contextlib.suppress(SystemExit):
            cli.main(words.split())
    found = {"av", "numpy", "torch", "torchvision"} & {*sys.modules}
    assert not found and told in out.getvalue(), (line, found, out.getvalue())
"""


def test_commands_begin_without_heavy_imports(tmp_path):
    """For help, a wrong option, a wrong value, and the list of teachers; tests/commands/test_paths.py has paths."""
    lines = ["--help -> teachers", "--version -> egodistill", "nothing -> there is no command", "teachers -> 204.16"]
    for command in cli.COMMANDS:
        lines += [f"{command} --help -> usage: egodistill {command}", f"{command} --nothing -> no option --nothing"]
    lines += ["train . --epochs x -> is not a positive integer", "prepare . --sampling best -> invalid choice: 'best'"]
    lines += ["extract . --architecture x3d -> x3d_m", "pretrain . --preset ego -> ego4d"]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    words = [sys.executable, "-c", BEGIN, *lines]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_student_of_a_resnet_needs_no_torchvision():
    code = "import sys; from egodistill import EgoDistill; EgoDistill(2, image_weights=None).inputs"
    code += "; assert not {'torch._dynamo', 'torchvision'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names_of_the_door_are_where_it_says():
    for name in egodistill.__all__:
        assert getattr(egodistill, name) is not None and name in dir(egodistill)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        egodistill.nothing  # noqa: B018


def test_copies_of_the_numbers_of_a_clip_are_the_doors():
    """Files that can be copied alone repeat them, because they import no sibling; no other file does."""
    from egodistill import data, imu, student, video
    from egodistill.support import defaults as written

    def defaults(function):
        return {name: one.default for name, one in inspect.signature(function).parameters.items()}

    seconds, rate, samples = egodistill.CLIP_SECONDS, egodistill.IMU_RATE, egodistill.IMU_SAMPLES
    assert samples == int(seconds * rate)
    window, built = defaults(data.Imu.window), defaults(student.EgoDistill.__init__)
    assert (window["samples"], window["rate"], defaults(data.clip_times)["seconds"]) == (samples, rate, seconds)
    assert (built["imu_rate"], built["clip_seconds"]) == (rate, seconds)
    assert student.EgoDistill(2, image_encoder="resnet10x1", image_weights=None).imu_samples == samples
    copies = (imu.MAX_GAP, video.MAX_HOLD, video.MAX_TOLERANCE, video.SAMPLING)
    assert copies == (written.MAX_GAP, written.MAX_HOLD, written.MAX_TOLERANCE, written.SAMPLING)


@pytest.mark.parametrize("module", sorted({*MODULES} - {*COPYABLE, "support.defaults"}))
def test_no_other_module_repeats_the_numbers_of_a_clip(module):
    code = [ast.unparse(node) for node in ast.walk(tree(module)) if isinstance(node, (ast.Constant, ast.BinOp))]
    assert not {"422", "201", "198.0", "64 / 30"} & set(code)


# One function makes probabilities of answers; the others are losses, measures, and logits of other logits.
SOFTMAX = (
    "engine.batches.probabilities engine.calibration.fit engine.refusal.with_unsure distillation.distillation_loss"
)
SOFTMAX += " inference.agreement teachers.run_views"


def test_probabilities_of_answers_are_made_in_one_place():
    """So a temperature is applied once: by nothing twice, by nothing left out."""
    found = set()
    for module in MODULES:
        if module == "video_transformers":
            continue  # attention
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef):
                names = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
                names |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
                found |= {f"{module}.{node.name}"} if names & {"softmax", "log_softmax", "Softmax"} else set()
    assert found == {*SOFTMAX.split()}
