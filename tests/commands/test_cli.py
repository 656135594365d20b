"""The command line: help, errors, signals, what is printed and where, threads and processes."""

import argparse
import csv
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import torchvision
from commandline import ROOT, run
from waiting import LIMIT, until

import egodistill.commands.demo
import egodistill.commands.recordings
from egodistill import data
from egodistill.commands import cli, recordings, training
from egodistill.engine import models
from egodistill.recordings import copies
from egodistill.world import synthetic

PRINT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from egodistill.commands import cli
code = cli.main(sys.argv[1:])
print("84.1 \\u00b1 0.5")
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PYTHONIOENCODING": "cp1252"}, "84.1 ± 0.5"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "84.1 \\xb1 0.5"),
    ],
    ids=["cp1252", "ascii"],
)
def test_a_letter_that_the_encoding_lacks_ends_no_command(tmp_path, variables, said):
    """Neither on stdout nor on stderr."""
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "segments.csv"
    table.write_text("video,start,stop,label\na.mp4,0,2,привет\na.mp4,2,4,walk\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    command = [sys.executable, "-c", PRINT, str(ROOT), "segments", str(table)]
    done = subprocess.run(command, env=environment | variables, capture_output=True)
    printed = done.stdout.decode("cp1252")
    assert done.returncode == 0, done.stderr
    escaped = "привет".encode("ascii", "backslashreplace").decode()
    assert re.search(rf"^{re.escape(escaped)} +1$", printed, re.MULTILINE) and said in printed


@pytest.mark.skipif(os.name == "nt", reason="Windows has no terminals of this kind")
def test_a_terminal_that_is_gone_does_not_change_the_exit_code():
    """What could not be printed is discarded, or Python would end with 120."""
    import pty

    code = (
        "import os, sys; from egodistill.commands import cli\n"
        "os.write(1, b'x'); sys.stdin.readline(); sys.stdout.buffer.write(b'left')\n"
        "cli.drop_closed_output(); sys.exit(7)"
    )
    main, other = pty.openpty()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    options = {"stdin": subprocess.PIPE, "stdout": other, "start_new_session": True, "cwd": ROOT, "env": buffered}
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:
        os.close(other)
        assert os.read(main, 1) == b"x"
        os.close(main)
        process.stdin.close()
        assert process.wait(LIMIT) == 7


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe of POSIX")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["segments", "--help"])
def test_a_reader_that_goes_ends_a_command_in_silence(tmp_path, command, unbuffered):
    """As in `egodistill segments table.csv | head -1`."""
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "segments.csv"
    rows = [f"a.mp4,{k},{k + 1},class {k}" for k in range(10_000)]  # more than a pipe holds
    table.write_text("\n".join(["video,start,stop,label", *rows]) + "\n")
    options = ["segments", str(table), "--classes", "10000"] if command == "segments" else ["--help"]
    arguments = [sys.executable, "-m", "egodistill.commands.cli", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if command == "segments":
        process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(LIMIT) in ([141] if command == "segments" else [0, 141])  # Python 3.10's --help raises, too


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such names")
def test_a_file_name_that_is_not_utf8_costs_itself(wearer, tmp_path, capsys):
    files = list(map(Path, next((s.video, *s.imu) for s in data.read_epic_kitchens(wearer.annotations, wearer.root))))
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    for copy in (Path(folder), tmp_path / "plain"):
        copy.mkdir()
        for file, ending in zip(files, (".MP4", "-accl.csv", "-gyro.csv"), strict=True):
            shutil.copy(file, copy / f"P01_101{ending}")
    videos = [f"{folder}/P01_101.MP4", str(tmp_path / "plain" / "P01_101.MP4")]
    out = run(capsys, "check", *videos, "--out", tmp_path / "offsets.csv")
    assert out.count("P01_101.MP4 ") == 2 and "  - not written to" in out and "1 of 2 recordings" in out
    with open(tmp_path / "offsets.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["video", videos[1]]


@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_no_temporary_file(sample_data, tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this process ignores the signal, as under nohup, and so do those that it starts")
    video = sample_data / "gopro" / "max-heromode.mp4"
    command = [
        sys.executable,
        "-m",
        "egodistill.commands.cli",
        "transcode",
        video,
        "--out",
        tmp_path,
        "--short-side",
        "480",
    ]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE)
    parts = until(lambda: list(tmp_path.glob(".*.part")))
    process.send_signal(number)
    assert process.stderr.read() == b""
    assert process.wait(LIMIT) == (128 + number if number != signal.SIGKILL else -number)
    assert list(tmp_path.iterdir()) == (parts if number == signal.SIGKILL else [])
    copies.transcode(video, tmp_path / "max-heromode.mp4", short_side=32)
    assert [file.name for file in tmp_path.iterdir()] == ["max-heromode.mp4"]


@pytest.mark.parametrize(
    "command, told",
    [
        ("finetune nowhere --out t.safetensors", "nowhere: no such folder; give a clip store"),
        ("evaluate nowhere --student student.safetensors", "nowhere: no such folder; give a clip store"),
        ("extract full --teacher-file teacher.safetensors", "full/store.json"),
        ("prepare none.csv --out store", "none.csv"),
        ("prepare no-stop.csv --out store", "no-stop.csv: no column stop; its header is video,start"),
        ("predict notes.txt --student none.safetensors", "none.safetensors: no such file"),
        ("measure --student none.safetensors", "none.safetensors"),
        (
            "predict notes.txt --student teacher.safetensors",
            "teacher.safetensors holds a teacher; give the file of a student",
        ),
        ("predict notes.txt --student notes.txt", "notes.txt: the name of a model file must end in .safetensors"),
        (
            "predict notes.txt --student text.onnx",
            "text.onnx is an exported program; give the file of its model",
        ),
        ("measure --student rows.csv", "rows.csv: the name of a model file must end in .safetensors"),
        ("predict none.mp4 --student student.safetensors", "none.mp4: no such file"),
        ("predict notes.txt --student student.safetensors", "notes.txt: cannot be opened"),
        # Before any work: neither of the other two files can be read.
        ("predict notes.txt --student notes.txt --out x.txt", "--out must end in .csv or .json"),
        ("predict notes.txt --student notes.txt --device nonsense", "leave out device (--device)"),
        ("synthesize world --train-acts 1", "train_acts (--train-acts): 1"),
        ("demo --out full", "full: is not empty and holds no demo"),
        ("demo --out other", "other: is not empty and holds no demo"),
        ("demo --out notes.txt", "notes.txt"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(command, told, files, monkeypatch, capsys):
    def start(*_):
        pytest.fail("started to render")  # A demo that should have been refused: ten minutes.

    monkeypatch.setattr(synthetic.RenderedRecording, "write", start)
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    assert cli.main(command.split()) == 1
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and told in lines[0], printed.err
    assert lines[0].startswith(f"egodistill {command.split()[0]}: ") and not printed.out
    assert sorted(files.rglob("*")) == before  # Nothing half made, nothing of others removed.


@pytest.mark.parametrize(
    "command, told",
    [
        ("distil store", "there is no command 'distil'. Did you mean distill?"),
        ("", "positional arguments"),
        ("distill store --teacher t", "--out"),
        ("measure nothere", "measure: nothere: left over; it takes nothing without an option, such as --student"),
        ("predict a.mp4 b.mp4 --student s.safetensors", "egodistill predict: b.mp4: left over; it takes one video"),
        ("check a.mp4 --imu-offset 50ms", "argument --imu-offset: '50ms' is not a number of seconds"),
        ("predict a.mp4 --student student.safetensors --top 0", "--top: '0' is not a positive integer"),
        ("measure --batch-size 0", "--batch-size: '0' is not a positive integer"),
        (
            "check a.mp4 b.mp4 --imu-axes xYZ",
            "--imu-axes: the rotation of axes 'xYZ' mirrors them; change the case of one",
        ),
        (
            "live a.mp4 --student student.safetensors --imu-axes XXZ",
            "--imu-axes: axes must be 'gopro', a name of your own",
        ),
        ("distill store --teacher t --out x.safetensors --precision fp8", "fp8"),
        ("distill store --teacher t --out x.safetensors --preset small", "invalid choice: 'small'"),
        ("distill store --teacher t --out x.safetensors --preset spectrm", ". Did you mean spectrum?"),
        ("finetune store --out x.safetensors --architecture slowfst", ". Did you mean slowfast"),
        ("finetune store --out x.safetensors --architecture nonsense", "student"),
        ("finetune store --out x.safetensors --architecture nonsense", "x3d_m"),
        ("predict a.mp4 --json x", "there is no option --json. Did you mean --out?"),
        ("segments a.csv --out x", "there is no option --out\n"),
        ("prepare a.csv --imu-offset 0.5", "there is no option --imu-offset; give the clock of a recording in"),
        ("distill store --lr=1e-3", "there is no option --lr. Did you mean --learning-rate?"),
        ("distill store --output x.safetensors --teacher t", "there is no option --output. Did you mean --out?"),
        ("evaluate store", "one of the arguments --student --teacher-file is required"),
        (
            "evaluate store --student a.safetensors --teacher-file b.safetensors",
            "--teacher-file: not allowed with argument --student",
        ),
        ("evaluate store --xyzzy", "there is no option --xyzzy\n`egodistill evaluate --help` lists"),
        ("pretrain store --teacher t --out x.safetensors --crop 0.3", "there is no option --crop"),
        ("pretrain store --teacher t --out x.safetensors --tau 10", "there is no option --tau"),
        ("pretrain store --teacher t --out x.safetensors --no-imu", "there is no option --no-imu"),
    ],
)
def test_a_usage_error_is_exit_code_2(command, told, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_an_error_of_the_system_has_no_number(monkeypatch, capsys):
    def run(arguments):
        raise FileNotFoundError(2, "No such file or directory", "gone.json")

    monkeypatch.setattr(recordings, "run_status", run)
    assert cli.main(["status", "."]) == 1
    assert capsys.readouterr().err == "\negodistill status: gone.json: No such file or directory\n"


def test_an_error_of_a_stage_names_it_once(monkeypatch, capsys):
    for command, stage in (("distill", "distill"), ("pretrain", "pretrain_imu")):

        def run(arguments, stage=stage):
            raise ValueError(f"{stage}: the loss is nan")

        monkeypatch.setattr(training, f"run_{command}", run)
        assert cli.main([command, ".", "--out", "s.safetensors"]) == 1
        assert capsys.readouterr().err == f"\negodistill {command}: the loss is nan\n"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (
            "distill s --out o.safetensors",
            "give a path to it instead of the name, or image_weights=None (--image-weights none)",
        ),
        ("prepare table.csv --out o --no-imu --end-features imagenet", "--end-features FILE"),
        ("extract s --architecture mc3_18 --pretrained torchvision", "checkpoint=FILE (--pretrained FILE)\n"),
    ],
)
def test_the_way_out_without_a_network_is_an_option_of_the_command(
    command, option, taught, kitchen, monkeypatch, capsys
):
    def offline(*_, **options):
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setenv("TORCH_HOME", "cache")  # empty
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", offline)
    Path("table.csv").write_text(f"video,start,stop,label\n{kitchen[0].video},0,3,walk\n")
    assert cli.main(command.split()) == 1
    said = capsys.readouterr().err
    file = r"https://download\.pytorch\.org/models/(resnet18|mc3_18)-\w+\.pth"
    told = (
        rf"\(Name or service not known\)\. Without a network connection, bring {file} to cache\W+hub\W+checkpoints, or "
    )
    assert re.search(f"{told}(give )?{re.escape(option)}", said) and "Errno" not in said and said.count("\n") == 2


def test_a_crash_names_its_line():
    """A library that takes the process down leaves the line of ours that called it."""
    code = (
        "import ctypes, sys; from egodistill.engine import models; from egodistill.commands import cli; "
        "models.load_any = lambda path, parts=(): ctypes.string_at(0); "
        "sys.exit(cli.main(['measure', '--student', sys.argv[1]]))"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    words = [sys.executable, "-c", code, ROOT / "students" / "glasses.safetensors"]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode not in (0, 1)
    assert re.search(r'commands\Wmodels.py", line \d+ in run_measure', done.stderr), done.stderr


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "load_any", interrupt)
    assert cli.main(["measure", "--student", str(ROOT / "students" / "glasses.safetensors")]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    monkeypatch.setattr(data, "ClipStore", interrupt)
    assert cli.main(["pretrain", ".", "--teacher", "t", "--out", "i.safetensors"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


@pytest.mark.parametrize(
    ("command", "kept", "how"),
    [
        ("pretrain s --out i.safetensors", "i.safetensors.training", "again to continue"),
        ("finetune s --out i.safetensors --overwrite", "i.safetensors.training", "again to continue"),
        ("extract s --teacher-file t.safetensors", "s/shards/00000/t.logits.sums.npy", "again to continue"),
        (
            "extract s --teacher-file t.safetensors --overwrite",
            "s/shards/00000/t.logits.sums.npy",
            "again without --overwrite to continue",
        ),
        ("prepare t.csv --out s", "s/store.json", "again to continue"),
        ("transcode a.mp4 --out s", "s/a.mp4", "again to continue"),
        ("transcode a.mp4 --out s --overwrite", "s/a.mp4", None),
        ("evaluate s --student s.safetensors --out e.json", "e.json", None),
    ],
)
def test_an_interrupted_command_says_how_it_continues_if_something_is_left(
    command, kept, how, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = cli.parse(command.split())
    (tmp_path / "s").mkdir()
    assert cli.to_continue(arguments) == ""
    (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / kept).touch()
    assert cli.to_continue(arguments) == (f"; run the same command {how} from here" if how else "")


def test_version_of_the_checkout_run_as_a_script():
    command = [sys.executable, "-m", "egodistill.commands.cli", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (0, f"egodistill {egodistill.__version__}\n")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_exit_code_is_that_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["egodistill", "measure", "--student", "no such.safetensors"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("egodistill.commands.cli", run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip() == "egodistill measure: no such.safetensors: no such file"


TRAINING = (
    "--preset --epochs --batch-size --learning-rate --decay-epochs --decay --weight-decay --clip-norm --schedule "
    "--warmup-epochs --seed --precision --sync-batch-norm --keep-checkpoint --device"
)


INFERENCE = "--precision --compile --device"


AUGMENTATION = "--crop --jitter --shift --motion --label-smoothing"


STUDENT = (
    "--custom --num-frames --image-encoder --image-weights --no-imu --imu-vector --aggregator --imu-encoder --fusion "
    "--student-class --optional-inputs"
)


SEGMENTS = (
    "annotations --root --tier --min-instances --split-seed --imu-offsets --imu-axes --reader --imu-reader "
    "--strict --clip-seconds --stride --split-by --test-share --subsample --calibration-share --background "
    "--sparse"
)


OPTIONS = {
    "demo": "--out --seed --world-seed --quick --precision",
    "synthesize": "out --seed --train-acts --test-acts --label-noise",
    "segments": f"{SEGMENTS} --classes",
    "check": "VIDEO --root --tier --imu --imu-offset --imu-axes --reader --imu-reader --no-offset --max-offset --out "
    "--plot --overwrite",
    "convert": "VRS --out --size --overwrite",
    "transcode": "VIDEO --out --short-side --keyframe-every --quality --measure --overwrite",
    "prepare": f"{SEGMENTS} --out --num-frames --frame-size --sampling --key-frames --tolerance --clip-frames "
    "--clip-size --no-frames --no-imu --imu-rate --zero-accel --min-coverage --max-gap --max-hold --workers --max-bad "
    "--part "
    "--retry-failed --teacher-file --architecture --pretrained --class-names --end-features --image-encoder "
    "--batch-size --precision --device",
    "train": f"{SEGMENTS} --out --overwrite --retry-failed --architecture --pretrained --teacher-file --option "
    "--clip-frames --clip-size --num-frames --image-encoder --image-weights --imu-encoder --optional-inputs "
    "--imu-rate --frame-size "
    "--preset --epochs --batch-size --learning-rate --seed --precision --quick --baselines --no-check --workers "
    "--device --zero-accel --min-coverage --max-gap --max-hold --max-bad",
    "report": "RUN",
    "status": "store --seconds --verify --sweep --rebuild",
    "export": "STUDENT --custom --out --format --pair --precision --batch-size --calibrate --calibrate-split "
    "--calibrate-clips "
    "--check --check-split --overwrite --markdown",
    "teachers": "",
    "finetune": f"store --split --out --overwrite --init --architecture --pretrained --name --option "
    f"--head-only --gradient-checkpointing {STUDENT} {TRAINING} {AUGMENTATION} --validation",
    "extract": "store --split --teacher-file --architecture --pretrained --class-names --name --views --batch-size "
    "--part --overwrite --precision --device",
    "pretrain": "store --split --teacher --out --overwrite "
    "--init --nce-tau --nce-weight --l1-weight --l1-reduction --symmetric "
    f"{STUDENT.replace('--no-imu ', '')} {TRAINING} --shift --motion",
    "distill": "store --split --teacher --out --overwrite "
    "--alpha --beta --tau --tau-squared --l1-reduction --init "
    f"{STUDENT} {TRAINING} {AUGMENTATION} --validation --objective",
    "evaluate": f"store --split --student --teacher-file --custom --without --teacher --out --overwrite {INFERENCE} "
    "--recordings "
    "--root --tier --imu-offsets --imu-axes --reader --imu-reader --stride --event-start --sparse --save-thresholds",
    "measure": f"--student --custom --teacher-file --batch-size --repeats --seconds --out --overwrite "
    f"--markdown {INFERENCE}",
    "predict": "video --student --custom --without --imu --imu-offset --imu-stretch --imu-axes --reader --imu-reader "
    "--zero-accel --min-coverage --max-gap --max-hold --stride --top --events --event-start --key-frames --tolerance "
    f"--out --html --subtitles --labels --root --tier --preview --overwrite {INFERENCE}",
    "live": "SOURCE --student --custom --without --every --frames --before-frames --slack --top --min-coverage "
    "--max-gap --precision --device --tolerance "
    "--max-age --period --imu --zero-accel --imu-axes --reader --imu-reader --imu-offset --imu-stretch "
    "--frame-offset --frame-stretch --align "
    "--fast --seconds --timeout --reconnect --events --event-start --json --out --overwrite",
}


def help_of(capsys, *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command_and_option_in_100_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    front = help_of(capsys)
    assert set(re.findall(r"(?m)^    ([a-z]+)(?: |$)", front)) == set(OPTIONS)
    for name, listed in OPTIONS.items():
        text = help_of(capsys, name)
        assert max(map(len, (front + text).splitlines())) <= 100
        entries = re.findall(r"(?m)^  ([\w-]+)(?:[ ,]|$)", text.split("\n\n", 1)[1])
        assert sorted(entries) == sorted([*listed.split(), "-h"]), name
        assert "(default: True)" not in text and "(default: False)" not in text
        # Each says what it is for: after some blanks, or on the next line.
        for option in listed.split():
            assert option in ("video", "VIDEO") or re.search(rf"(?m)^  {option}\b[^\n]*(  |\n {{5,}})\S", text)
    text = " ".join(help_of(capsys, "distill").split())
    assert "--epochs N number of passes over the clips (default: 50) " in text
    assert "--learning-rate X learning rate of AdamW (default: 0.0001) " in text
    assert (
        "--decay-epochs [N ...] with the schedule step, the learning rate is multiplied by --decay" in text
        and "after these epochs (default: 30 40) " in text
    )


def test_threads_sleep_while_they_wait_beside_other_programs(store):
    """What OpenMP reads is set before torch is imported, unless the user has decided."""
    code = (
        "import os, sys; from egodistill.commands import cli; from egodistill.support import files\n"
        "for busy, given in eval(sys.argv[2]):\n"
        "    files.other_programs_run = lambda: busy\n"
        "    [os.environ.pop(name, None) for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')]; os.environ |= given\n"
        "    cli.main(['status', sys.argv[1], '--seconds', '0.01']); assert 'torch' not in sys.modules\n"
        "    print('found', os.environ.get('GOMP_SPINCOUNT'))"
    )
    cases = [(True, {}), (False, {}), (True, {"GOMP_SPINCOUNT": "7"}), (True, {"OMP_WAIT_POLICY": "ACTIVE"})]
    command = [sys.executable, "-c", code, store.path, repr(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall("(?m)^found (.*)$", done.stdout) == ["3000", "None", "7", "None"]


FOLDERS = {  # {command: its arguments before the folder that it writes}
    "prepare": "t.csv --out",
    "train": "t.csv --out",
    "convert": "a.vrs --out",
    "transcode": "a.mp4 --out",
    "synthesize": "",
    "demo": "--quick --out",
}


@pytest.mark.parametrize("command", FOLDERS)
def test_a_file_is_no_folder_for_results(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("my thesis")
    for name in ("t.csv", "a.vrs", "a.mp4"):
        Path(name).touch()
    Path("store").mkdir()
    assert cli.main([command, *FOLDERS[command].split(), "mine"]) == 1
    assert f"mine: this is a file, but {command} writes a folder; give another name" in capsys.readouterr().err
    assert Path("mine").read_text() == "my thesis"


@pytest.mark.parametrize("command", ["evaluate", "measure"])
def test_json_is_written_under_its_own_suffix(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("store").mkdir()
    Path("s.safetensors").touch()
    assert (
        cli.main([command, *["store"] * (command == "evaluate"), "--student", "s.safetensors", "--out", "x.csv"]) == 1
    )
    assert f"x.csv: {command} writes JSON; give a name that ends in .json" in capsys.readouterr().err
    assert not Path("x.csv").exists()


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"RANK": "1"}, {"RANK": "", "WORLD_SIZE": "two"}])
def test_half_a_share_of_a_job_is_an_error_before_any_work(environment, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command in ("prepare segments.csv --out store", "evaluate store --student student.safetensors"):
        assert cli.main(command.split()) == 1
        assert "set both, RANK from 0 to WORLD_SIZE - 1, or neither" in capsys.readouterr().err


def test_which_commands_all_processes_of_torchrun_run(monkeypatch):
    """The others run once, in process 0, which is then alone."""
    shared = {"prepare", "finetune", "extract", "pretrain", "distill"}
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for command in cli.COMMANDS:
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            monkeypatch.setenv("WORLD_SIZE", "2")
            ran = []
            arguments = argparse.Namespace(command=command, words=["egodistill", command])
            monkeypatch.setattr(cli, "parse", lambda argv, program, found=arguments: found)
            monkeypatch.setattr(cli, "run_parsed", lambda a, to=ran: to.append(os.environ["WORLD_SIZE"]) or 0)
            assert cli.main([command]) == 0
            expected = ["2"] if command in shared else ["1"] if rank == "0" else []
            assert ran == expected and os.environ["WORLD_SIZE"] == "2", command


@pytest.mark.parametrize(
    ("command", "address", "words"),
    [
        (
            "prepare",
            "",
            "RANK=1 and WORLD_SIZE=3: this process decodes 1/3 of the clips; for the whole, run the others",
        ),
        ("extract", "", "this process computes one batch of 3"),
        ("distill", "", "this process computes 1/3 of each batch and waits for the others"),
        ("predict", "127.0.0.1", "this process does nothing, because process 0 does the whole"),
        ("predict", "", ""),  # it does the whole
    ],
)
def test_a_forgotten_share_is_said_in_one_line(command, address, words, monkeypatch, capsys):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": address}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    run = {"out": None, "words": ["egodistill", command], "run": lambda arguments: None}
    arguments = argparse.Namespace(command=command, **run)
    monkeypatch.setattr(cli, "parse", lambda argv, program: arguments)
    monkeypatch.setattr(cli, "check_paths", lambda arguments: None)
    assert cli.main([command]) == 0
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == bool(words)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun starts the others
    assert cli.main([command]) == 0 and capsys.readouterr().err == ""
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    assert cli.main([command]) == 0 and capsys.readouterr().err == ""


def test_commands_leave_the_signal_handlers_of_their_caller(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]

    def own(number, frame):
        """Do nothing."""

    try:
        for handlers in ((own, signal.SIG_IGN), (signal.SIG_IGN, own)):
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)
            cli.end_cleanly()
            assert tuple(map(signal.getsignal, numbers)) == handlers
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
            cli.end_cleanly()
            with pytest.raises(SystemExit) as ended:
                signal.raise_signal(number)
            assert ended.value.code == 128 + number
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_signals_end_processes_of_torchrun_at_once(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        cli.end_cleanly()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
