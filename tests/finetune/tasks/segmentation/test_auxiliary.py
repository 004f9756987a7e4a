"""The head on an earlier map: its part of the loss, what it trains, and that nobody else ever sees it; the recipe."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from finetune import cli
from finetune.errors import ConfigError
from finetune.settings import of_tasks
from finetune.settings.config import RunConfig
from finetune.tasks.segmentation import network as networks
from finetune.tasks.segmentation import saving
from finetune.tasks.segmentation.module import SegmentationTask


def pair(decoder="fpn", stride=32, weight=0.4):
    torch.manual_seed(0)
    network = networks.build("resnest14d", 3, False, decoder, stride, auxiliary=weight > 0)
    return network, SegmentationTask(network, 3, auxiliary_loss=weight)


def test_its_loss_counts_by_its_weight_and_reaches_the_backbone():
    network, task = pair()
    network.eval()  # no dropout
    pixels, targets = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    seen = {}
    network.network.encoder.register_forward_hook(lambda module, given, maps: seen.update(maps=maps))
    loss = task.training_loss(pixels, targets)
    maps = seen["maps"]
    first = network.network.segmentation_head(network.network.decoder(maps))
    second = F.interpolate(network.auxiliary.layers(maps[-2]), (64, 64), mode="bilinear")
    expected = F.cross_entropy(first, targets) + 0.4 * F.cross_entropy(second, targets)
    torch.testing.assert_close(loss, expected)
    assert maps[-2].shape == (2, 1024, 4, 4)
    head = torch.autograd.grad(F.cross_entropy(second, targets), maps[-2])[0]
    assert head.abs().sum() > 0


def test_with_a_dilated_backbone_it_stands_on_a_map_as_fine_as_the_last():
    network, _ = pair("deeplabv3", 8)
    network.eval()
    logits, second = network(torch.zeros(1, 3, 64, 96), auxiliary=True)
    assert logits.shape == second.shape == (1, 3, 64, 96)
    assert "auxiliary" in dict(network.get_classifier().named_children())


def test_evaluation_and_export_know_nothing_of_it(tmp_path):
    network, task = pair()
    without, _ = pair(weight=0)
    assert any(name.startswith("auxiliary.") for name in task.model.state_dict())
    network.classes = ("a", "b", "c")
    data_config = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    saving.save(network, tmp_path / "model", data_config, None, "semantic-segmentation")
    assert set(load_file(tmp_path / "model/model.safetensors")) == set(without.network.state_dict())


def test_a_weight_below_zero_and_another_task_are_refused():
    given = {"model": "resnest14d", "dataset": "x"}
    with pytest.raises(ConfigError, match=r"--auxiliary-loss must be at least 0, got -1"):
        RunConfig(**given, auxiliary_loss=-1.0).resolved()
    config = RunConfig(**given, auxiliary_loss=0.2).resolved()
    with pytest.raises(ConfigError, match=r"--auxiliary-loss is for semantic-segmentation"):
        of_tasks.settle(config, "image-classification", {}, {})


@pytest.mark.parametrize("name", ["resnest50", "resnest269e"])
def test_the_recipe_is_what_the_authors_had(name):
    config = cli.parse_train(["--recipe", "ade20k", "--model", name, "--dataset", "x"])
    rate = {"optimizer": "momentum", "lr": 0.04, "schedule": "polynomial", "warmup_epochs": 0.0, "weight_decay": 1e-4}
    net = {"decoder": "deeplabv3", "output_stride": 8, "auxiliary_loss": 0.2, "batch_norm": "trained", "sync_bn": True}
    rest = {"epochs": 180, "batch_size": 16, "image_size": 480, "hflip": 0.5, "label_smoothing": 0.0}
    assert {key: getattr(config, key) for key in rate | net | rest} == pytest.approx(rate | net | rest)
    assert cli.parse_train(["--recipe", "ade20k", "--model", name, "--dataset", "x", "--batch-size", "8"]).lr == 0.02
