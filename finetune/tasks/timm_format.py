"""What tasks have in common whose `model/` is timm's: a network that ends in one linear layer, a vector an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class TimmFormat:
    """For a task's class, as its base: the parts of `finetune.task.Task` that are the same for all of them."""

    @property
    def heavy_head(self) -> bool:
        """No: it is one linear layer."""
        return False

    def data_module(self, data: Any, data_config: Mapping[str, Any], **options: Any) -> Any:
        """Rows, or a stream."""
        from finetune.loading import choose

        return choose.module(data, data_config=data_config, **options)

    def baseline(self, settings: Any) -> Any:
        """The linear probe, which also starts the last layer."""
        from finetune.tasks import one_layer

        return one_layer.baseline(settings)

    def identity(self, settings: Any, network: nn.Module) -> dict[str, Any]:
        """The weights of a backbone that checkpoints do not hold."""
        from finetune.tasks import one_layer

        return one_layer.identity(settings, network)

    def load(self, folder: Path) -> nn.Module:
        """By timm, after a look at its files."""
        from finetune.networks import models

        return models.build(f"local-dir:{folder}", None, pretrained=True)

    def decisions(self, network: nn.Module) -> Mapping[str, Any]:
        """None: what it says is the answer."""
        return {}

    def outputs(self, network: nn.Module) -> Sequence[str]:
        """As config.json has them."""
        from finetune.evaluation import labels

        return labels.names(network)

    def kept(self, said: Sequence[Any], targets: Sequence[Any]) -> Any:
        """Batches of tensors, one after the other, on the CPU."""
        import torch

        task: Any = self
        return task.collector().kind(torch.cat(list(said)).float().cpu(), torch.cat(list(targets)).cpu())

    def witness(self, network: nn.Module, folder: Path, data: Any, data_config: Mapping[str, Any]) -> None:
        """Test images and the model's answers, of as many kinds of targets as can be."""
        from finetune.export import certify
        from finetune.loading import transforms

        certify.write_inputs(folder, network, data, transforms.normalised(data_config))
