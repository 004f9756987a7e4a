"""What a training would take is measured on its own first steps, for every kind of task, and said in one line."""

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict

from finetune.commands.trust import advice
from finetune.data.dataset import prepare
from finetune.settings.data_verbs import DoctorOptions
from finetune.settings.presets import epochs_for
from finetune.task import Score
from finetune.tasks import registry
from finetune.training import hardware
from finetune.training.session import precision_of
from tests.finetune.tasks.regression.conftest import squares
from tests.finetune.tasks.test_curve import of_masks, of_objects

OPTIONS = DoctorOptions(dataset="x", model="resnest14d", image_size=64, accelerator="cpu", workers=0)
KINDS = {"image-regression": squares, "semantic-segmentation": of_masks, "object-detection": of_objects}


def prepared(name, settings=None):
    counts = {"train": 40, "validation": 6, "test": 6}
    data = DatasetDict({role: KINDS[name](count, seed) for seed, (role, count) in enumerate(counts.items())})
    return prepare(data, registry.reader(name, settings))


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("name", KINDS)
def test_the_training_of_the_task_itself_is_measured(name):
    data = prepared(name, {"box_format": "xywh"})
    (found,) = advice.of("resnest14d", data, OPTIONS)
    said = re.fullmatch(
        r"resnest14d, ([\d.]+) million parameters, at 64 pixels: about ([\d.e+]+) images/s in training on cpu, "
        r"(.*) for the preset's (\d+) epochs",
        found.title,
    )
    assert said, found.title
    assert float(said[1]) > 8.5  # the backbone alone has so many
    assert float(said[2]) > 0
    assert int(said[4]) >= 1
    assert len(data.splits.parts["train"].rows) == 40  # what was measured on is another


def test_steps_that_cannot_be_timed_are_said_and_not_divided_by():
    data = prepare(DatasetDict({role: squares(6, 0) for role in ("train", "validation", "test")}),
                   registry.reader("image-regression"))  # fmt: skip
    (found,) = advice.of("resnest14d", data, OPTIONS)
    assert found.title == "no advice on resnest14d: 6 images are too few to time a step"


@pytest.mark.parametrize(("name", "precision"), [("image-regression", "32-true"), ("object-detection", "bf16-mixed")])
def test_the_steps_have_the_precision_of_the_training(monkeypatch, name, precision):
    monkeypatch.setattr(hardware, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(hardware, "has_amx", lambda: False)
    asked = []
    monkeypatch.setattr(advice, "make_trainer", lambda *given, **more: asked.append(given[3]) or 1 / 0)
    task, data = registry.get(name), prepared(name, {"box_format": "xywh"})
    config = advice._config("tf_efficientnet_lite0", data, OPTIONS, task)
    with pytest.raises(ZeroDivisionError):
        advice._trained(config, data, task)
    assert asked == [precision] == [precision_of(config, task.heavy_head)]


def test_a_step_takes_what_steps_take_in_the_mean_the_first_left_out(monkeypatch):
    clock = iter([10.0, 11.0, 14.0, 15.5])
    monkeypatch.setattr(advice.time, "perf_counter", lambda: next(clock))
    steps, module = advice._Steps(), SimpleNamespace(device=torch.device("cpu"))
    for number in range(1, 5):
        trainer = SimpleNamespace(global_step=number, should_stop=False)
        steps.on_train_batch_end(trainer, module)
    assert (steps.timed, steps.seconds, trainer.should_stop) == (3, 5.5 / 3, True)


def test_a_model_that_the_task_cannot_have_gets_a_reason_and_no_number():
    (found,) = advice.of("no_such_model", prepared("image-regression"), OPTIONS)
    assert found.severity == "note"
    assert found.title.startswith("no advice on no_such_model: ")


@pytest.mark.parametrize(
    ("minutes", "said"),
    [(0.4, "less than a minute"), (59.6, "60 minutes"), (119, "119 minutes"), (600, "10 hours")],
)
def test_times_are_said_in_what_people_count_them_in(minutes, said):
    assert advice._duration(minutes) == said


def test_the_quicker_way_is_named_only_where_the_task_has_it():
    @dataclasses.dataclass
    class Kind:
        refused: dict
        scores: tuple[Score, ...] = ()

    steps = advice._Steps()
    assert any("--freeze backbone" in line for line in advice._lines(steps, 61, Kind({})))
    assert not list(advice._lines(steps, 61, Kind({"freeze": "why"})))
    assert not list(advice._lines(steps, 59, Kind({})))


def test_epochs_are_those_of_the_preset_for_so_many_images():
    data = prepared("image-regression")
    config = advice._config("resnest14d", data, OPTIONS, registry.get("image-regression"))
    assert config.epochs == epochs_for(40, config.batch_size)
