"""Fixtures that several test files share."""

import contextlib
import csv
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from once import Once

# Two torch threads wait for each other, spinning, as soon as another process takes one of two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each garbage collection goes through all objects of torch and sympy: fewer of them make the tests faster.
gc.set_threshold(200_000, 50, 50)
LAB = Path(__file__).resolve().parent / "lab"
SHARED, CHANGED, COUNTS = pytest.StashKey[Path](), pytest.StashKey[list[str]](), pytest.StashKey[tuple[int, int]]()


def pytest_configure(config):
    """All processes of a run share a folder, which ends with it (once.py). A shell's background ignores signals."""
    for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)
    given = getattr(config, "workerinput", {}).get("shared")
    config.stash[SHARED] = Path(given or tempfile.mkdtemp(prefix="egodistill-tests-"))


def pytest_ignore_collect(collection_path, config):
    """The tests of lab/ run where a path inside tests/lab is given, and not with those of the library."""
    given = [config.invocation_params.dir / word.partition("::")[0] for word in config.args]
    if collection_path == LAB and not any(path.resolve().is_relative_to(LAB) for path in given):
        return True
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tell a process of pytest-xdist the folder."""
    node.workerinput["shared"] = str(node.config.stash[SHARED])


def pytest_collection_modifyitems(config, items):
    """What is slow says why, and comes first, so that no process is left alone with it at the end."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        if not item.get_closest_marker("slow").args:
            raise pytest.UsageError(f"{item.nodeid}: say why it is left out, @pytest.mark.slow('...')")
    config.stash[COUNTS] = len(slow), len(items)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """The run fails if a test has changed what others look at."""
    config = session.config
    if not hasattr(config, "workerinput"):
        config.stash[CHANGED] = Once(config.stash[SHARED]).changed()
        if config.stash[CHANGED]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        shutil.rmtree(config.stash[SHARED], ignore_errors=True)


def pytest_terminal_summary(terminalreporter, config):
    if changed := config.stash.get(CHANGED, []):
        terminalreporter.section("a test has changed what others look at", red=True)
        for line in changed:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def collected(pytestconfig) -> tuple[int, int]:
    """The number of slow tests, and of all, in the files that were given."""
    return pytestconfig.stash[COUNTS]


@pytest.fixture(scope="session")
def once(pytestconfig) -> Once:
    """Files that are made once for all processes; see once.py."""
    return Once(pytestconfig.stash[SHARED])


@pytest.fixture(scope="session", autouse=True)
def training_in_fp32():
    """In this process, trainings with precision "auto" do not depend on the processor."""
    from egodistill.engine import runtime

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "pick_training_precision", lambda device, model: ("fp32", "this is a test"))
        yield


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of small real recordings; skips where there is none."""
    folder = os.environ.get("EGODISTILL_SAMPLE_DATA")
    if not folder:
        pytest.skip(
            "needs real recordings: set EGODISTILL_SAMPLE_DATA to the folder that holds "
            "gopro/, epic-kitchens-100/, decoder-clips/ and so on"
        )
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"EGODISTILL_SAMPLE_DATA is {folder!r}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def sample(sample_data):
    """Return the path of a real file below the folder of small real recordings."""
    return lambda name: str(sample_data / name)


@pytest.fixture(scope="session")
def epic_imu(sample, tmp_path_factory):
    """EPIC-KITCHENS' folders of IMU data, with an empty file for each that the real ones hold."""
    root = tmp_path_factory.mktemp("epic")
    with open(sample("epic-kitchens-100/imu_videos.csv"), newline="") as file:
        for row in csv.DictReader(file):
            folder = root / row["participant_id"] / "meta_data"
            folder.mkdir(parents=True, exist_ok=True)
            for kind in ("accl", "gyro"):
                (folder / f"{row['video_id']}-{kind}.csv").touch()
    return root


@pytest.fixture(scope="session")
def steady(once):
    """Six seconds at 25 fps with B-frames and a key frame every 24."""
    from painted import STEADY, X264, write_video

    return once("steady", lambda folder: write_video(folder / "steady.mp4", STEADY, **X264))


@pytest.fixture(scope="session")
def kitchen(once):
    """Three recordings of 6 s with IMU, painted frame numbers, and nine segments in them."""
    from painted import kitchen_segments

    return once("kitchen", kitchen_segments)


@pytest.fixture(scope="session")
def store(once, kitchen):
    """The clips of the kitchen, prepared with OPTIONS; tests leave it as it is."""
    from painted import OPTIONS

    from egodistill import data

    return data.ClipStore(once("store", lambda folder: data.prepare(kitchen, folder / "s", **OPTIONS).path))


@pytest.fixture(scope="session")
def panned(once):
    """A video of twelve seconds in which a camera pans over a wall."""
    import numpy as np
    from panned import RATE, pan

    return once("panned", lambda folder: pan(folder / "pan.mp4", np.arange(12 * RATE) / RATE))


@pytest.fixture(scope="session")
def long_pan(once):
    """The same for 40 seconds, as `panned.pan()` renders them: 1000 pictures take a while."""
    import numpy as np
    from panned import RATE, pan

    return once("long-pan", lambda folder: pan(folder / "long.mp4", np.arange(40 * RATE) / RATE))


@pytest.fixture(scope="session")
def wearer(once):
    """A rendered world of one training wearer."""
    from egodistill.world import synthetic

    few = {"train_acts": 8, "test_acts": 3, "train_wearers": 1, "progress": False}
    return once("wearer", lambda folder: synthetic.render(folder / "world", **few))


@pytest.fixture(scope="session")
def demo(once):
    """A finished `egodistill demo` in miniature."""
    from miniature import Demo

    return once("demo", lambda folder: Demo(folder / "out"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with what failing commands are given."""
    from egodistill import EgoDistill, teachers

    folder = tmp_path_factory.mktemp("files")
    (folder / "notes.txt").write_text("hello\n")
    (folder / "text.onnx").write_text("hello\n")
    (folder / "rows.csv").write_text("start,stop,class_1\n0,1,walk\n")  # to a pickle reader a stack that is empty
    (folder / "no-stop.csv").write_text("video,start,label\nwalk.mp4,0,walk\n")
    (folder / "full").mkdir()
    (folder / "full" / ".thesis.part").write_text("not ours")
    (folder / "other").mkdir()
    (folder / "other" / "demo.json").write_text('{"mine": 1}')
    encoder = {"image_encoder": "shufflenet_v2_x0_5", "image_weights": None}
    EgoDistill(2, imu_encoder=None, frame_size=64, **encoder).save(folder / "student.safetensors")
    narrow = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1), "frames": 8, "size": 64, "progress": False}
    teachers.load("slowfast_8x8_r50", None, 2, **narrow).save(folder / "teacher.safetensors")
    return folder


@pytest.fixture
def taught(store, tmp_path, monkeypatch) -> Path:
    """A folder with the kitchen's store, with outputs of a teacher called "small", and a student of another size."""
    import numpy as np

    from egodistill import EgoDistill, data, teachers

    shutil.copytree(store.path, tmp_path / "s")
    copy = data.ClipStore(tmp_path / "s")
    for name, width in (("small.feature", 12), ("small.logits", len(copy.class_names))):
        copy.add(name, (width,), "float32")
        copy.write(name, range(len(copy)), np.zeros((len(copy), width), np.float32))
    encoder = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40}
    EgoDistill(len(copy.class_names), feature_dim=9, **encoder).save(tmp_path / "student.safetensors")
    narrow = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1), "frames": 8, "size": 64, "progress": False}
    teachers.load("slowfast_8x8_r50", None, 2, **narrow).save(tmp_path / "teacher.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """The figures of matplotlib that a test writes; skips where there is none."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    figures, save = [], figure.savefig
    monkeypatch.setattr(figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; skips where there is none."""
    from chromium import Chromium

    with Chromium() as found:
        yield found


@pytest.fixture
def full_disk():
    """`with full_disk(n):` no file can grow beyond n bytes, so that writing ends in its middle as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.fixture(autouse=True)
def _threads():
    """Tests use as many threads as OMP_NUM_THREADS says; a change made by one is undone."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)
