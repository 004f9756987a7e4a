"""`--freeze backbone` without augmentation: features are computed once, and nothing else changes."""

import math

import lightning as L
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2

from finetune import ImageDataModule, RunConfig, run
from finetune.cli import parse_train
from finetune.commands.evaluate import evaluate
from finetune.errors import ConfigError, ModelError
from finetune.loading.sampler import TrainBatches
from finetune.networks import features, models
from finetune.networks.feature_data import classifier_inputs
from finetune.settings.presets import FROZEN_PRESET, PRETRAINED_PRESET, SCRATCH_PRESET
from finetune.settings.verbs import EvaluateOptions
from tests.finetune.classes import prepare

SETTINGS = {"model": "resnest14d", "dataset": "digits", "pretrained": False, "image_size": 32, "max_samples": 100}
SETTINGS |= {"accelerator": "cpu", "devices": "1", "workers": 0, "freeze": "backbone", "epochs": 3, "batch_size": 16}


def weights(folder):
    return load_file(folder / "model/model.safetensors")


def assert_close(one, other):
    """Adam divides by the gradient's own size: where that is nearly zero, rounding is a share of a step (0.05)."""
    assert one.keys() == other.keys()
    for name in one:
        difference = (one[name].double() - other[name].double()).abs()
        assert difference.max() < 5e-3, name
        assert difference.mean() < 5e-6, name


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A run on features. Do not write into it."""
    folder = tmp_path_factory.mktemp("frozen") / "run"
    return run(RunConfig(**SETTINGS, output=folder))


def built():
    """The model as the run began with it."""
    L.seed_everything(0, verbose=False)
    return models.build("resnest14d", 10, pretrained=False, image_size=32, zero_init_last=False)


def test_the_exported_model_is_whole_and_gives_the_numbers(frozen):
    exported, start = weights(frozen.folder), built().state_dict()
    assert {name for name in start if not torch.equal(exported[name], start[name])} == {"fc.weight", "fc.bias"}
    for split in ("test", "validation"):
        options = EvaluateOptions(model=str(frozen.folder), split=split, accelerator="cpu", workers=0)
        found = evaluate(options).metrics
        assert found == pytest.approx(frozen.metrics[split], rel=1e-6)
        assert found["accuracy"] == frozen.metrics[split]["accuracy"]
    assert frozen.training["freeze"] == "backbone"
    assert frozen.training["feature_seconds"] > 0


def test_checkpoints_hold_the_classifier_alone(frozen):
    content = torch.load(frozen.folder / "checkpoints/last.ckpt", weights_only=True)
    assert {name: list(value.shape) for name, value in content["state_dict"].items()} == {
        "model.weight": [10, 2048],
        "model.bias": [10],
    }


def test_the_settings_repeat_the_run(frozen):
    config = parse_train(["--config", str(frozen.folder / "config.yaml")])
    assert config.caches_features
    assert (config.crop_scale, config.hflip) == (None, 0.0)
    assert (config.epochs, config.lr) == (3, FROZEN_PRESET["lr"])


def test_features_are_computed_once_and_a_torn_file_again(frozen, tmp_path, caplog, monkeypatch):
    paths = []
    read = features.read
    monkeypatch.setattr(features, "read", lambda path: (paths.append(path), read(path))[1])

    def again(name, **changes):
        caplog.clear()
        with caplog.at_level("INFO", logger="finetune"):
            result = run(RunConfig(**{**SETTINGS, **changes}, output=tmp_path / name))
        said = [message for message in caplog.messages if message.startswith("features of")]
        return result, [message.rsplit(" ", 1)[1] for message in said]

    second, how = again("second")
    assert how == ["cached"] * 3
    assert second.metrics == frozen.metrics
    assert (tmp_path / "second/model/model.safetensors").read_bytes() == (
        frozen.folder / "model/model.safetensors"
    ).read_bytes()
    torn = paths[0]  # of the training images
    torn.write_bytes(torn.read_bytes()[:-100])
    third, how = again("third", lr=0.002)
    assert how == ["computed", "cached", "cached"]
    assert third.metrics != frozen.metrics
    assert read(torn) is not None
    assert again("seed", seed=1, epochs=1)[1] == ["computed"] * 3  # other random weights
    assert again("crop", interpolation="bicubic", epochs=1)[1] == ["computed"] * 3


def test_the_same_as_with_the_images_in_every_step(frozen, tmp_path, monkeypatch, caplog):
    """Dropout before the classifier is on: both draw the same."""
    on_features = run(RunConfig(**SETTINGS, dropout=0.4, output=tmp_path / "features"))
    monkeypatch.setattr(RunConfig, "caches_features", False)
    caplog.clear()
    with caplog.at_level("INFO", logger="finetune"):
        on_images = run(RunConfig(**SETTINGS, dropout=0.4, precision="32", output=tmp_path / "images"))
    assert "features of" not in caplog.text
    one, other = weights(on_features.folder), weights(on_images.folder)
    assert_close(one, other)
    for split in ("validation", "test"):
        assert on_features.metrics[split] == pytest.approx(on_images.metrics[split], rel=1e-4)
    assert not torch.allclose(one["fc.weight"], weights(frozen.folder)["fc.weight"], atol=1e-3)  # dropout was on


def test_the_classifier_is_that_of_a_plain_loop(frozen):
    model = built().eval()
    data = ImageDataModule("digits", data_config=models.data_config(model, 32), max_samples=100, workers=0)
    with torch.inference_mode():
        batches = [(model.forward_head(model.forward_features(x), pre_logits=True), y) for x, y in everything(data)]
    inputs, targets = (torch.cat(part).clone() for part in zip(*batches, strict=True))
    head = model.fc
    optimizer = create_optimizer_v2(
        head, opt="adamw", lr=FROZEN_PRESET["lr"], weight_decay=FROZEN_PRESET["weight_decay"]
    )
    order = TrainBatches(len(targets), 16, seed=0)
    steps, step = 3 * len(order), 0
    warmup = round(steps / 10)
    kept = []
    for epoch in range(3):
        order.set_epoch(epoch)
        for items in order:
            rows = [index for _, index in items]
            share = (step + 1) / (warmup + 1)
            if step >= warmup:
                share = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
            for group in optimizer.param_groups:
                group["lr"] = FROZEN_PRESET["lr"] * share
            loss = torch.nn.functional.cross_entropy(
                head(inputs[rows]), targets[rows], label_smoothing=FROZEN_PRESET["label_smoothing"]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        kept.append(head.weight.detach().clone())
    best = frozen.training["best_epoch"]
    assert_close({"fc.weight": weights(frozen.folder)["fc.weight"]}, {"fc.weight": kept[best - 1]})


def everything(data):
    """The training split, in order, by a loop of its own."""
    part = data.data.splits.parts["train"]
    images = data.data.source.splits[part.source]
    for row, label in zip(part.rows.tolist(), part.targets.tolist(), strict=True):
        yield data.normalize(data.eval_transform(images[row]["image"].convert("RGB"))[None]), torch.tensor([label])


@pytest.mark.slow(seconds=40)
def test_two_processes_share_the_images_and_train_one_classifier(cli, tmp_path):
    flags = "--model resnest14d --dataset digits --no-pretrained --image-size 32 --max-samples 110 --accelerator cpu"
    flags += " --workers 0 --freeze backbone --epochs 3 --batch-size 16 --devices"
    for devices in (2, 1):
        done = cli("finetune", *flags.split(), devices, "--output", tmp_path / str(devices))
        assert done.returncode == 0, done.stderr
        how = "computed" if devices == 2 else "cached"
        said = [line.rsplit(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("features of")]
        assert said == [how] * 3  # said by one process, found by one process where two have computed
    assert_close(weights(tmp_path / "1"), weights(tmp_path / "2"))
    done = cli("finetune", "evaluate", tmp_path / "2", "--accelerator", "cpu", "--workers", 0)
    assert done.returncode == 0, done.stderr
    columns = [line.split() for line in done.stdout.splitlines() if line.startswith(("accuracy", "loss"))]
    assert [float(c[1]) for c in columns] == pytest.approx([float(c[-1]) for c in columns], abs=2e-6)


# --- what a model must be, and which settings make sense -------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnest14d", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet"])
def test_the_classifiers_input_is_all_that_it_needs(name):
    model = timm.create_model(name, num_classes=3).eval()
    classifier = model.get_classifier()
    pixels = torch.randn(2, 3, 160, 160)
    with classifier_inputs(model, classifier) as inputs_of:
        found = inputs_of(pixels)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(found), model(pixels), rtol=0, atol=0)
    assert not classifier._forward_hooks


def test_a_model_that_changes_its_logits_is_refused():
    class Scaled(torch.nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    network = Scaled(torch.nn.Linear(4, 3))
    with classifier_inputs(network, network[0]) as inputs_of:
        with pytest.raises(ModelError, match=r"does something with its classifier's output.*such as --hflip 0\.5"):
            inputs_of(torch.randn(2, 4))


GIVEN = {"model": "resnest50", "dataset": "food101"}


def test_the_presets():
    frozen = RunConfig(**GIVEN, freeze="backbone", lr=FROZEN_PRESET["lr"]).resolved()
    assert {name: getattr(frozen, name) for name in FROZEN_PRESET} == FROZEN_PRESET
    assert frozen.resolved() == frozen
    assert frozen.caches_features
    assert not frozen.solved
    thawing = RunConfig(**GIVEN, freeze="backbone", unfreeze_every=2).resolved().for_images(180)
    assert {name: getattr(thawing, name) for name in PRETRAINED_PRESET} == PRETRAINED_PRESET | {
        "head_init": "probe",
        "epochs": 25,
        "warmup_epochs": 2.5,
    }
    assert not thawing.caches_features
    assert FROZEN_PRESET.keys() == PRETRAINED_PRESET.keys() == SCRATCH_PRESET.keys()


@pytest.mark.parametrize(
    "asked",
    [
        {"hflip": 0.5},
        {"crop_scale": 0.5},
        {"auto_augment": "rand-m6-n2"},
        {"color_jitter": 0.2},
        {"random_erasing": 0.2},
        {"mixup": 0.2},
        {"cutmix": 1.0},
    ],
)
def test_any_augmentation_that_is_asked_for_is_done(asked):
    config = RunConfig(**GIVEN, freeze="backbone", **asked).resolved()
    assert not config.caches_features
    assert config.augmentations == tuple("--" + name.replace("_", "-") for name in asked)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unfreeze_every": 2}, "^--unfreeze-every needs --freeze backbone: without it everything trains"),
        ({"freeze": "backbone", "unfreeze_every": 3, "epochs": 3}, "^--unfreeze-every must be below --epochs 3, got 3"),
        ({"freeze": "backbone", "unfreeze_every": 0}, "^--unfreeze-every must be at least 1, got 0"),
        ({"freeze": "backbone", "drop_path": 0.1, "drop_block": 0.1}, "^--drop-path and --drop-block would do nothing"),
    ],
)
def test_settings_that_make_no_sense(given, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(**GIVEN, **given).resolved()


def test_without_random_crops_images_are_prepared_as_in_the_evaluation():
    data = prepare("digits", max_samples=30)
    image = data.source.splits["train"][0]["image"].convert("RGB")
    made = [ImageDataModule(data, image_size=32, crop_scale=None, hflip=p).train_transform(image) for p in (0.0, 1.0)]
    expected = ImageDataModule(data, image_size=32).eval_transform(image)
    np.testing.assert_array_equal(made[0], expected)
    np.testing.assert_array_equal(made[1], expected.flip(-1))
    assert not torch.equal(made[0], made[1])
