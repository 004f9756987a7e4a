"""Settings: what they default to, and what is said of those that make no sense."""

import dataclasses
import math
import subprocess
import sys

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from finetune import RunConfig
from finetune.errors import ConfigError
from finetune.settings.options import GROUPS, flag
from finetune.settings.presets import PRETRAINED_PRESET, SCRATCH_PRESET

GIVEN = {"model": "resnest50", "dataset": "food101"}


def test_every_setting_has_a_group_and_a_sentence():
    grouped = [f.name for group in GROUPS.values() for f in dataclasses.fields(group)]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {f.name for f in dataclasses.fields(RunConfig)}
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(RunConfig))


@pytest.mark.parametrize(("pretrained", "preset"), [(True, PRETRAINED_PRESET), (False, SCRATCH_PRESET)])
def test_what_is_not_given_comes_from_the_preset(pretrained, preset):
    config = RunConfig(**GIVEN, pretrained=pretrained).resolved()
    waits = {"warmup_epochs": None} if pretrained else {}  # for the epochs, and these for the number of images
    assert {name: getattr(config, name) for name in preset} == preset | waits


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [(20, 32, 40), (50, 32, 40), (180, 32, 25), (450, 32, 10), (50_000, 32, 10), (180, 8, 10)],
)
def test_few_images_take_more_epochs(images, batch_size, epochs):
    config = RunConfig(**GIVEN, batch_size=batch_size).resolved().for_images(images)
    assert config.epochs == epochs
    assert config.warmup_epochs == pytest.approx(epochs / 10)
    assert config.for_images(images) == config.resolved() == config
    assert RunConfig(**GIVEN, epochs=3).resolved().for_images(images).epochs == 3
    assert RunConfig(**GIVEN, pretrained=False).resolved().for_images(images).epochs == SCRATCH_PRESET["epochs"]


def test_what_does_not_go_with_the_epochs_is_said_once_they_are_known():
    thawing = RunConfig(**GIVEN, freeze="backbone", unfreeze_every=12).resolved()
    with pytest.raises(ConfigError, match=r"^--unfreeze-every must be below --epochs 10, got 12"):
        thawing.for_images(1000)
    assert thawing.for_images(180).epochs == 25


def test_the_presets_set_the_same_and_differ():
    assert PRETRAINED_PRESET.keys() == SCRATCH_PRESET.keys()
    assert PRETRAINED_PRESET["crop_scale"] < SCRATCH_PRESET["crop_scale"]


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("batch_size", 2),
        ("optimizer", "sgd"),
        ("lr", 0.7),
        ("weight_decay", 0.0),
        ("warmup_epochs", 0.0),
        ("label_smoothing", 0.0),
        ("crop_scale", 1.0),
    ],
)
def test_what_is_given_wins_over_the_preset_zero_included(name, value, pretrained):
    preset = PRETRAINED_PRESET if pretrained else SCRATCH_PRESET
    config = RunConfig(**GIVEN, pretrained=pretrained, **{name: value}).resolved()
    warmup = 0.3 if name == "epochs" else None if pretrained else 1.0
    expected = preset | {"warmup_epochs": pytest.approx(warmup)} | {name: value}
    assert {key: getattr(config, key) for key in preset} == expected


def test_a_short_training_warms_up_for_a_tenth_of_it():
    scratch = [RunConfig(**GIVEN, pretrained=False, epochs=n).resolved().warmup_epochs for n in (2, 10, 50)]
    assert scratch == [0.2, 1.0, 1.0]
    assert [RunConfig(**GIVEN, epochs=n).resolved().warmup_epochs for n in (2, 10, 50)] == [0.2, 1.0, 4.0]
    assert RunConfig(**GIVEN, epochs=2, warmup_epochs=1.0).resolved().warmup_epochs == 1.0
    with pytest.raises(ConfigError, match=r"^--epochs must be [^;]*$"):
        RunConfig(**GIVEN, epochs=-3).resolved()


def test_resolving_twice_changes_nothing_and_the_original_stays():
    config = RunConfig(**GIVEN)
    resolved = config.resolved()
    assert config.epochs is None
    assert resolved.resolved() == resolved
    with pytest.raises(dataclasses.FrozenInstanceError, match="epochs"):
        resolved.epochs = 3


def test_defaults_are_those_of_the_design():
    config = RunConfig(**GIVEN).resolved()
    expected = {"val_fraction": 0.1, "test_fraction": 0.1, "pretrained": True, "seed": 0, "num_nodes": 1}
    expected |= dict.fromkeys(("accelerator", "devices", "strategy", "precision"), "auto")
    expected |= dict.fromkeys(("image_size", "max_samples", "output", "resume", "workers", "drop_path"))
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.compile is False


def in_memory():
    features = Features(image=Image(), label=ClassLabel(names=["a", "b"]), id=Value("int64"))
    return Dataset.from_dict({"image": [], "label": [], "id": []}, features=features)


def test_a_dataset_in_memory_is_accepted_as_it_is():
    for dataset in (in_memory(), DatasetDict(train=in_memory()), DatasetDict()):
        assert RunConfig(model="resnest50", dataset=dataset).resolved().dataset is dataset


BELOW_ONE = math.nextafter(1, 0)


@pytest.mark.parametrize(
    ("name", "wrong", "right", "bounds"),
    [
        ("val_fraction", [0, -0.1, 0.51, 1], [0.01, 0.5], "above 0 and at most 0.5"),
        ("test_fraction", [0, -0.1, 0.51, 1], [0.01, 0.5], "above 0 and at most 0.5"),
        ("max_samples", [0, -3], [1, 10**9], "at least 1"),
        ("max_image_pixels", [0, -1], [1, 10**12], "at least 1"),
        ("image_size", [0, -32, 8193], [1, 32, 8192], "at least 1 and at most 8192"),
        ("drop_path", [-0.1, 1, BELOW_ONE], [0, 0.1, 0.99], "at least 0 and at most 0.99"),
        ("epochs", [0, -1], [1, 1000], "at least 1"),
        ("batch_size", [1, 0, -8], [2, 4096], "at least 2"),
        ("lr", [0, -1e-3, 1e5], [1e-12, 1e4], "above 0 and at most 10000"),
        ("weight_decay", [-1e-9, 1e5], [0, 1], "at least 0 and at most 10000"),
        ("layer_decay", [0, -0.5, 1.01], [1e-3, 0.75, 1], "above 0 and at most 1"),
        ("clip_grad", [0, -1], [1e-3, 1, 1e6], "above 0"),
        ("ema", [0, -0.9, 1.01], [0.5, 0.9999, 1], "above 0 and at most 1"),
        ("device_batch_size", [0, -8], [1, 4096], "at least 1"),
        ("warmup_epochs", [-1], [0, 0.5, 5], "at least 0"),
        ("label_smoothing", [-0.1, 1], [0, 0.99], "at least 0 and at most 0.99"),
        ("crop_scale", [0, -0.1, 1.1], [0.01, 1], "above 0 and at most 1"),
        ("hflip", [-0.1, 1.1], [0, 0.5, 1], "at least 0 and at most 1"),
        ("num_nodes", [0, -1], [1, 64], "at least 1"),
        ("workers", [-1, 1025], [0, 1, 1024], "at least 0 and at most 1024"),
        ("seed", [-1, 2**32], [0, 2**32 - 1], "at least 0 and at most 4294967295"),
    ],
)
def test_ranges(name, wrong, right, bounds):
    for value in right:
        assert getattr(RunConfig(**GIVEN, **{name: value}).resolved(), name) == value
    for value in [*wrong, math.nan, math.inf, -math.inf]:
        with pytest.raises(ConfigError, match=f"^{flag(name)} must be {bounds}, got {value}$"):
            RunConfig(**GIVEN, **{name: value}).resolved()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ema": 0.9}, "--strategy fsdp cannot take --ema: the average would be of the whole model; leave out one of"),
        ({"compile": True}, "--strategy fsdp cannot take --compile: it would compile the gathering of the weights; l"),
        ({"sync_bn": True}, "--strategy fsdp cannot take --sync-bn: Lightning has it for ddp alone; leave out one of"),
        ({"freeze": "backbone"}, "--strategy fsdp with --freeze backbone: what does not train needs no such memory: "),
    ],
)
def test_what_a_model_that_is_split_cannot_take_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(**GIVEN, strategy="fsdp", **given).resolved()
    assert RunConfig(**GIVEN, strategy="ddp", **given).resolved()
    assert RunConfig(**GIVEN, strategy="fsdp").resolved()


@pytest.mark.parametrize("devices", ["auto", "-1", "1", "2", "16", "0,3", "0, 3", "0,1,2"])
def test_devices_are_a_number_or_indices(devices):
    assert RunConfig(**GIVEN, devices=devices).resolved().devices == devices


@pytest.mark.parametrize("devices", ["0", "", "many", "1.5", "-2", "0;1", "0,", ",1", "a,b", "0,-1"])
def test_other_devices_are_refused(devices):
    with pytest.raises(ConfigError, match=r"--devices must be auto, a number such as 2, or indices such as 0,3, got '"):
        RunConfig(**GIVEN, devices=devices).resolved()


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        ({"train_split": "a", "test_split": "a"}, "a, a"),
        ({"val_split": "b", "test_split": "b", "train_split": "a"}, "a, b, b"),
        ({"train_split": "x", "val_split": "x"}, "x, x"),
    ],
)
def test_one_split_cannot_play_two_roles(splits, named):
    with pytest.raises(
        ConfigError, match=f"--train-split, --val-split and --test-split must differ, got {named}: what"
    ):
        RunConfig(**GIVEN, **splits).resolved()


def test_holding_out_everything_is_refused():
    with pytest.raises(ConfigError, match="--val-fraction and --test-fraction must be below 1 together, got 1"):
        RunConfig(**GIVEN, val_fraction=0.5, test_fraction=0.5).resolved()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "--model and --dataset"),
        ({"model": "", "dataset": ""}, "--model and --dataset"),
        ({"model": "m"}, "--dataset"),
        ({"dataset": "d"}, "--model"),
    ],
)
def test_model_and_dataset_must_be_given(given, missing):
    with pytest.raises(
        ConfigError, match=f"^{missing} must be given, for instance --model resnest50 --dataset food101"
    ):
        RunConfig(**given).resolved()


def test_all_problems_are_reported_at_once():
    config = RunConfig(
        epochs=0, lr=-1.0, hflip=2.0, val_fraction=0.9, train_split="a", test_split="a", devices="x", seed=-1
    )
    with pytest.raises(ConfigError, match="--model and --dataset must be given") as error:
        config.resolved()
    problems = str(error.value).split("; ")
    for name in ("--epochs", "--lr", "--hflip", "--val-fraction", "--train-split", "--devices", "--seed"):
        assert sum(problem.startswith(name) for problem in problems) == 1
    assert len(problems) == 8


def test_the_settings_need_neither_torch_nor_datasets():
    heavy = {"torch", "timm", "datasets", "numpy", "lightning"}
    code = f"import finetune.settings.config, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
