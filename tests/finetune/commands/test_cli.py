"""The command line: flags, config files, and what is said of mistakes."""

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys

import pytest

from finetune import RunConfig, console
from finetune import cli as cli_module
from finetune.cli import main, parse_train
from finetune.errors import ConfigError
from finetune.settings import of_tasks
from finetune.settings.options import flag
from finetune.settings.presets import FROZEN_PRESET, PRETRAINED_PRESET, SCRATCH_PRESET

GIVEN = ["--model", "resnest50", "--dataset", "food101"]
CONTRACT = """
    --model --dataset --dataset-config --revision --image-column --target-column --train-split --val-split --test-split
    --val-fraction --test-fraction --max-samples --pretrained --no-pretrained --image-size --epochs --batch-size --lr
    --weight-decay --optimizer --warmup-epochs --label-smoothing --accelerator --devices --num-nodes --strategy
    --precision --compile --workers --seed --output --config --resume --save-every
""".split()


def changed(config):
    """What differs from a config without any flag but the two that must be given."""
    plain = RunConfig(
        model="resnest50", dataset="food101", epochs=config.epochs
    ).resolved()  # warm-up follows from these
    others = {f.name: v for f in dataclasses.fields(config) if (v := getattr(config, f.name)) != getattr(plain, f.name)}
    return others if config.epochs is None else {"epochs": config.epochs} | others


def write(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def said(capsys):
    """Run the command line on a mistake, and return what it says on standard error."""

    def call(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert captured.err.startswith("error: ")
        assert len(captured.err.splitlines()) == 1
        return captured.err.removeprefix("error: ").rstrip()

    return call


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*arguments, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", [[], ["train"]])
def test_help_has_every_flag_of_the_contract_and_not_too_many(capsys, verb):
    text = help_of(capsys, *verb)
    flags = re.findall(r"^\W*(--[a-z][a-z-]*)(?:, (--[a-z-]+))?", text, re.MULTILINE)
    listed = {name for pair in flags for name in pair if name}
    assert set(CONTRACT) <= listed
    own = {flag(f.name) for _, group in of_tasks.BY_TASK for f in dataclasses.fields(group)}  # in groups of their own
    assert len([pair for pair in flags if not own & set(pair)]) <= 75
    for group in ("data", "model", "training", "hardware", "run"):
        assert f"{group} options" in text
    assert "None" not in text  # inferred, chosen, none: said in words


def test_help_shows_the_presets(capsys):
    text = " ".join(help_of(capsys).replace("│", " ").split())
    for name, value in PRETRAINED_PRESET.items():
        frozen = "none" if FROZEN_PRESET[name] is None else FROZEN_PRESET[name]
        value = "for 150 steps, 10 to 40" if name == "epochs" else value
        shown = f"(default: {value}; from scratch {SCRATCH_PRESET[name]}"
        assert f"{shown})" in text if name in ("head_init", "batch_norm") else f"{shown}; frozen {frozen})" in text


def test_help_of_evaluate(capsys):
    text = help_of(capsys, "evaluate")
    for name in ("--split", "--accelerator", "--devices", "--batch-size", "--workers", "--json"):
        assert name in text


VALUES = {
    "dataset_config": "plain text",
    "revision": "main",
    "image_column": "img",
    "target_column": "fine_label",
    "task": "image-classification",
    "group_column": "patient",
    "exclude": "rows.json",
    "train_split": "a",
    "val_split": "b",
    "test_split": "c",
    "val_fraction": 0.2,
    "test_fraction": 0.3,
    "max_samples": 100,
    "max_image_pixels": 10**9,
    "image_size": 64,
    "drop_path": 0.1,
    "interpolation": "bicubic",
    "dropout": 0.2,
    "drop_block": 0.05,
    "auto_augment": "rand-m6-n2",
    "color_jitter": 0.4,
    "random_erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
    "epochs": 12,
    "batch_size": 12,
    "optimizer": "sgd",
    "lr": 0.25,
    "weight_decay": 0.5,
    "warmup_epochs": 0.75,
    "schedule": "steps",
    "label_smoothing": 0.0,
    "crop_scale": 0.9,
    "hflip": 0.0,
    "accelerator": "gpu",
    "devices": "0,3",
    "num_nodes": 2,
    "strategy": "ddp",
    "precision": "bf16",
    "workers": 0,
    "seed": 42,
    "save_every": 100,
    "logger": "tensorboard",
    "patience": 4,
    "max_time": "1h30m",
    "imbalance": "class-weights",
    "device_batch_size": 8,
    "layer_decay": 0.75,
    "clip_grad": 1.0,
    "ema": 0.99,
    "head_init": "probe",
    "batch_norm": "trained",
    "probe_images": 1000,
    "seeds": 3,
}


@pytest.mark.parametrize("name", VALUES)
def test_both_spellings_of_a_flag_and_the_equals_sign(name):
    value, dashed = VALUES[name], "--" + name.replace("_", "-")
    for arguments in ([dashed, str(value)], [f"--{name}", str(value)], [f"{dashed}={value}"]):
        config = parse_train([*GIVEN, *arguments])
        assert changed(config) == {name: value}
        assert type(getattr(config, name)) is type(value)


def test_every_setting_is_covered_above():
    others = {"model", "dataset", "pretrained", "output", "resume"}
    others |= {"zero_init_last", "compile", "sync_bn", "grad_checkpointing"}  # see test_switches
    others |= {f.name for _, group in of_tasks.BY_TASK for f in dataclasses.fields(group)}  # see test_seam.py
    others |= {"robustness"}  # see test_weaknesses.py
    others |= {"curve"}  # which --seeds excludes: see test_shares.py
    others |= {"publish", "private"}  # likewise; see test_publishing.py
    others |= {"streaming", "classes", "steps_per_epoch"}  # which need each other
    others |= {"freeze", "unfreeze_every"}  # the one needs the other, and has a preset: see test_freezing.py
    assert set(VALUES) | others == {f.name for f in dataclasses.fields(RunConfig)}


def test_freezing():
    config = parse_train([*GIVEN, "--freeze", "backbone", "--unfreeze_every=2"])
    assert changed(config) == {"freeze": "backbone", "unfreeze_every": 2, "head_init": "probe"}
    frozen = parse_train([*GIVEN, "--freeze=backbone", "--unfreeze-every", "2", "--lr", "0.3"])
    assert (frozen.unfreeze_every, frozen.lr) == (2, 0.3)
    with pytest.raises(ConfigError, match=r"^--freeze must be one of none, backbone, got 'stem'$"):
        parse_train([*GIVEN, "--freeze", "stem"])


def test_the_values_of_a_flag_that_may_be_left_out_are_named_in_order():
    expected = "cascade-mask-rcnn, cascade-rcnn, faster-rcnn, fcos, mask-rcnn, retinanet"
    with pytest.raises(ConfigError, match=rf"^--detector must be one of {expected}, got 'yolo'$"):
        parse_train([*GIVEN, "--detector", "yolo"])


def test_switches():
    assert parse_train([*GIVEN, "--compile"]).compile
    assert parse_train([*GIVEN, "--sync-bn"]).sync_bn
    assert parse_train([*GIVEN, "--no-pretrained", "--zero-init-last"]).zero_init_last
    assert not parse_train([*GIVEN, "--compile", "--no-compile"]).compile
    for off in ("--no-pretrained", "--no_pretrained"):
        config = parse_train([*GIVEN, off])
        assert not config.pretrained
        assert {name: getattr(config, name) for name in SCRATCH_PRESET} == SCRATCH_PRESET
        assert parse_train([*GIVEN, off, "--lr", "0.7"]).lr == 0.7
        assert parse_train([*GIVEN, off, "--pretrained"]).pretrained


def test_the_verb_train_is_the_default():
    assert parse_train(GIVEN) == RunConfig(model="resnest50", dataset="food101").resolved()


def test_every_setting_can_come_from_a_file(tmp_path):
    text = "model: resnest50\ndataset: food101\n" + "".join(f"{name}: {value}\n" for name, value in VALUES.items())
    assert changed(parse_train(["--config", str(write(tmp_path, text))])) == VALUES
    dashed = re.sub(r"^\w+", lambda name: name[0].replace("_", "-"), text, flags=re.MULTILINE)
    assert changed(parse_train(["--config", str(write(tmp_path, dashed))])) == VALUES


def test_the_command_line_wins_over_the_file_wherever_it_stands(tmp_path):
    path = str(write(tmp_path, "model: resnest50\ndataset: food101\nepochs: 7\nlr: 0.5\npretrained: false\nseed: 1\n"))
    for arguments in (
        ["--config", path, "--epochs", "13", "--pretrained"],
        ["--epochs=13", "--pretrained", f"--config={path}"],
    ):
        assert changed(parse_train(arguments)) == {"epochs": 13, "lr": 0.5, "seed": 1}


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("pretrained: false", "pretrained", False),
        ("pretrained: off", "pretrained", False),
        ("compile: true", "compile", True),
        ("compile: no", "compile", False),
        ("lr: 1e-3", "lr", 0.001),  # YAML reads this as text
        ("lr: 0.00001", "lr", 0.00001),
        ("precision: 32", "precision", "32"),
        ("devices: 2", "devices", "2"),
        ("devices: -1", "devices", "-1"),
        ("devices: 0,3", "devices", "0,3"),
        ("epochs: null", "epochs", None),
        ("image_column: None", "image_column", "None"),
        ("image_column: 'null'", "image_column", "null"),
        ("image_column: --lr", "image_column", "--lr"),
        ("image_column: a = b", "image_column", "a = b"),
        ("image_column: größe 日本", "image_column", "größe 日本"),
    ],
)
def test_values_of_a_file_mean_what_yaml_says(tmp_path, line, name, value):
    config = parse_train([*GIVEN, "--config", str(write(tmp_path, line))])
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown setting 'epoch'; did you mean epochs"),
        ("batch-sise: 3", "unknown setting 'batch-sise'; did you mean batch_size"),
        ("zzz: 3", "unknown setting 'zzz'"),
        ("config: other.yaml", "unknown setting 'config'"),
        ("epochs: [3, 4]", r"epochs must be a single value, got \[3, 4\]"),
        ("lr: {a: 1}", "lr must be a single value, got {'a': 1}"),
        ("pretrained: 'no'", "pretrained must be true or false, got 'no'"),
        ("compile: 1", "compile must be true or false, got 1"),
        ("a: [", "is not YAML: "),
        ("a: b: c", "is not YAML: "),
        (b"\xff\xfe\x00", "is not YAML: "),
        ("- epochs", "expected lines of `flag: value`, got list"),
        ("epochs", "expected lines of `flag: value`, got str"),
        ("", "expected lines of `flag: value`, got NoneType"),
    ],
)
def test_mistakes_in_a_file_name_the_file(tmp_path, said, text, message):
    path = write(tmp_path, text)
    assert re.match(rf"{re.escape(str(path))}:? {message}", said("--config", path, *GIVEN))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: true", "--epochs must be INT, got 'True'"),
        ("epochs: ten", "--epochs must be INT, got 'ten'"),
        ("precision: 8", "--precision must be one of auto, 32-true, .*, got '8'"),
        ("epochs: 0", "--epochs must be at least 1, got 0"),
    ],
)
def test_values_of_a_file_are_checked_like_flags(tmp_path, said, text, message):
    assert re.match(message, said("--config", write(tmp_path, text), *GIVEN))


def test_a_file_that_cannot_be_read_is_named(tmp_path, said):
    missing = tmp_path / "missing.yaml"
    assert said("--config", missing).startswith(f"cannot read {missing}: No such file or directory")
    assert said("--config", tmp_path).startswith(f"cannot read {tmp_path}: Is a directory")


def test_resume_takes_the_flags_of_the_run(tmp_path, said):
    (tmp_path / "config.yaml").write_text("model: resnest50\ndataset: food101\nepochs: 17\n")
    config = parse_train(["--resume", str(tmp_path), "--workers", "0"])
    assert changed(config) == {"epochs": 17, "workers": 0, "resume": tmp_path}
    nothing = tmp_path / "nothing"
    assert said("--resume", nothing).startswith(f"--resume: {nothing} holds no run (no config.yaml)")
    both = said("--resume", tmp_path, "--config", tmp_path / "config.yaml")
    assert both.startswith("--config, --recipe and --resume exclude each other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model and --dataset must be given, for instance --model resnest50 --dataset food101"),
        (["--dataset", "food101"], "--model must be given"),
        ([*GIVEN, "--epoch", "3"], "unknown flag --epoch; did you mean --epochs"),
        ([*GIVEN, "--epoch=3"], "unknown flag --epoch=3; did you mean --epochs"),
        ([*GIVEN, "--btch_size", "8"], "unknown flag --btch_size; did you mean --batch-size"),
        ([*GIVEN, "--learning-rate", "8"], "unknown flag --learning-rate"),
        ([*GIVEN, "--zzz"], "unknown flag --zzz; see python -m finetune --help"),
        ([*GIVEN, "-x"], "unknown flag -x"),
        ([*GIVEN, "stray"], "expected only flags and their values, got 'stray' besides"),
        ([*GIVEN, "--pretrained", "yes"], "expected only flags and their values, got 'yes' besides"),
        (["--model", "--dataset", "food101"], "--model needs a value; see python -m finetune --help"),
        ([*GIVEN, "--epochs"], "--epochs needs a value; see python -m finetune --help"),
        ([*GIVEN, "--epochs", "--lr", "1"], "--epochs needs a value"),
        ([*GIVEN, "--config"], "--config needs a value"),
        ([*GIVEN, "--epochs", "ten"], "--epochs must be INT, got 'ten'; see"),
        ([*GIVEN, "--epochs", "2.5"], "--epochs must be INT, got '2.5'"),
        ([*GIVEN, "--lr", "fast"], "--lr must be FLOAT, got 'fast'"),
        ([*GIVEN, "--hflip", "yes"], "--hflip must be FLOAT, got 'yes'"),
        ([*GIVEN, "--workers", "none"], "--workers must be INT, got 'none'"),
        (
            [*GIVEN, "--precision", "8"],
            "--precision must be one of auto, 32-true, bf16-mixed, 16-mixed, 32, bf16, 16, ",
        ),
        (
            [*GIVEN, "--lr", "-1", "--epochs", "0"],
            "--epochs must be at least 1, got 0; --lr must be above 0 and .*-1.0$",
        ),
        (["trian", *GIVEN], r"expected one of train, evaluate, .*or a flag first, got 'trian'; did you mean train\?"),
        (["predicct"], "expected one of train, evaluate.* got 'predicct'.*; see python -m finetune --help"),
        (["digits", "--model", "resnest14d"], "expected one of train, .* got 'digits'"),
        (["evaluate"], "model must be given; see python -m finetune evaluate --help"),
        (["evaluate", "x", "--splt", "test"], "unknown flag --splt; did you mean --split"),
        (["evaluate", "x", "--batch-size", "many"], "--batch-size must be INT, got 'many'"),
        (["evaluate", "x", "--devices"], "--devices needs a value; see python -m finetune evaluate --help"),
        (["prepare_imagenet"], "expected one of train, .* got 'prepare_imagenet'; did you mean prepare-imagenet"),
        (["prepare-imagenet"], "--tars, --output must be given; see python -m finetune prepare-imagenet --help"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_mistakes_are_said_in_one_line(said, arguments, message):
    assert re.match(message, said(*arguments))


def test_the_parser_raises_our_own_error():
    with pytest.raises(ConfigError, match="unknown flag --epoch; did you mean --epochs"):
        parse_train([*GIVEN, "--epoch", "3"])


PROBE = """
import contextlib, io, sys
from finetune.cli import main
codes = []
for argv in (["--help"], ["--epoch", "3"], ["--model", "m", "--dataset", "d", "--lr", "-1"], ["trian"], ["evaluate"],
             ["prepare-imagenet"], ["prepare-imagenet", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            codes.append(main(argv))
        except SystemExit as stop:
            codes.append(stop.code)
print(codes, sorted({"torch", "timm", "lightning", "datasets", "transformers", "numpy"} & set(sys.modules)))
"""


def test_help_and_wrong_flags_do_not_wait_for_torch():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 2, 2, 2, 2, 2, 0] []"


@pytest.mark.parametrize(
    ("arguments", "code", "stdout", "stderr"),
    [
        (["--help"], 0, "usage: python -m finetune", r"^$"),
        (["evaluate", "--help"], 0, "usage: python -m finetune evaluate", r"^$"),
        (["--epoch", "3"], 2, "", r"^error: unknown flag --epoch; did you mean --epochs[^\n]*\n$"),
        (["train", "--model"], 2, "", r"^error: --model needs a value; see python -m finetune --help\n$"),
    ],
)
def test_the_process_exits_with_the_code_and_says_it_on_the_right_stream(cli, arguments, code, stdout, stderr):
    done = cli("finetune", *arguments)
    assert done.returncode == code
    assert done.stdout.startswith(stdout)
    assert bool(done.stdout) is bool(stdout)
    assert re.match(stderr, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnest5", "--dataset", "digits"], "unknown model 'resnest5'; did you mean resnest50"),
        (["--model", "resnest14d", "--dataset", "food10"], "unknown dataset 'food10'; did you mean food101"),
        (["--model", "resnest14d", "--dataset", "digits", "--optimizer", "adamm"], "--optimizer: unknown 'adamm'; did"),
    ],
)
def test_mistakes_found_after_the_flags_are_said_in_one_line_too(said, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "set_up", lambda stream: None)  # it would outlive this test
    assert re.match(message, said(*arguments, "--accelerator", "cpu"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_in_one_line_and_other_faults_of_files_are_bugs(monkeypatch, capsys):
    def fail(number):
        def train(argv):
            raise OSError(number, os.strerror(number), "metrics.csv")

        monkeypatch.setitem(cli_module.VERBS, "train", train)

    fail(errno.ENOSPC)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: [Errno 28] No space left on device: 'metrics.csv': free some space")
    assert said.count("\n") == 1
    fail(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        main([])


def test_output_that_nobody_reads_any_more_is_no_bug():
    """As in `python -m finetune --help | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "finetune", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
