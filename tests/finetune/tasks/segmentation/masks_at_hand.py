"""A reading of `image` and `mask` columns that is enough to try networks with, in place of the task's own.

Run as a script it is `python -m finetune` with it: the processes of a training run it again.
"""

import sys
from dataclasses import dataclass, replace

import numpy as np
import torch
from datasets import Image as ImageFeature
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from finetune.data import images
from finetune.data.splits import carve, subset
from finetune.errors import SchemaError
from finetune.loading import datamodule, jpeg
from finetune.loading.randomness import seed_augmentation
from finetune.tasks import registry
from finetune.tasks.segmentation.judging import RenumberedImages, RenumberedInputs
from finetune.tasks.segmentation.prepared import resized
from finetune.tasks.segmentation.scores import VOID
from finetune.tasks.segmentation.task import Segmentation


def decoded(value):
    import io

    return np.asarray(Image.open(io.BytesIO(value["bytes"])))


@dataclass(frozen=True)
class Masks:
    image_column: str = "image"
    target_column: str = "mask"
    classes: tuple[str, ...] = ()
    task: str = "semantic-segmentation"
    sure: bool = True

    @property
    def columns(self):
        return (self.target_column,)

    @property
    def explains(self):
        return (self.image_column, self.target_column)

    def described(self):
        return f"images in column {self.image_column!r}, masks in column {self.target_column!r}"

    def read(self, split):
        encoded = split.cast_column(self.target_column, ImageFeature(decode=False))[self.target_column]
        return [np.bincount(decoded(value).ravel(), minlength=256)[:VOID] for value in encoded]

    def with_values(self, columns):
        count = max(int(np.flatnonzero(row)[-1]) + 1 for column in columns for row in column)
        names = ("background", "disc", "square", *(f"class {i}" for i in range(3, count)))
        return replace(self, classes=names[:count])

    def check_split(self, name, features):
        pass

    def encode(self, column):
        return np.array([row[: len(self.classes)] for row in column], dtype=np.int64)

    def labelled(self, targets):
        return targets.sum(axis=1) > 0

    def strata(self, targets):
        return (targets[:, -1] > 0).astype(np.int64)

    def draw(self, targets, size, rng):
        return subset(np.where(self.labelled(targets), self.strata(targets), -1), size, rng)

    def carve(self, targets, fraction, rng, keep):
        return carve(self.strata(targets), fraction, rng, keep)

    def check_sizes(self, targets, carved):
        pass

    def remarks(self, targets):
        return iter(())

    def facts(self, targets):
        return {"class_counts": {role: of.sum(axis=0).tolist() for role, of in targets.items()}}


class MaskInputs:
    columns = ("mask",)

    def __init__(self, data_config):
        self.side, self.how = data_config["input_size"][-1], data_config["interpolation"]

    def training(self, image, target):
        image, mask = images.decoded(image), torch.from_numpy(decoded(target["mask"]).copy())
        side = self.side
        pixels = pil_to_tensor(image.resize((side, side), Image.Resampling.BILINEAR))
        mask = torch.nn.functional.interpolate(mask[None, None], size=(side, side), mode="nearest")[0, 0]
        return (pixels.flip(2), mask.flip(1)) if torch.rand(()) < 0.5 else (pixels, mask)

    def evaluation(self, image, target):
        mask = decoded(target["mask"]).copy()
        return pil_to_tensor(resized(image, self.side, self.how)), torch.from_numpy(mask)

    def collate(self, targets):
        same = len({target.shape for target in targets}) == 1
        return torch.stack(list(targets)) if same else list(targets)


class Rows(datamodule.ImageRows):
    def __getitem__(self, items):
        if self.transform == self.inputs.training:
            return super().__getitem__(items)
        indices = [index for _, index in items]
        table = self.encoded[self.rows[indices].tolist()]
        found = []
        with isolate_rng(include_cuda=False):
            for item, value, target in zip(
                items, table[self.column].to_pylist(), self._targets(table, indices), strict=True
            ):
                seed_augmentation(self.seed, *item)
                found.append(self.transform(self.read(value, self.max_pixels), target))
        return [pixels for pixels, _ in found], [mask for _, mask in found]


class MaskModule(datamodule.ImageDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        pixels, targets = batch
        if isinstance(pixels, list):
            return [self.normalize.to(one.device)(one) for one in pixels], targets
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def _rows(self, role, training=False):
        part, column = self.data.splits.parts[role], self.data.schema.image_column
        read = jpeg.open_jpeg if training else images.decode
        limit = self.data.max_image_pixels
        encoded = self.data.encoded(role).cast_column("mask", ImageFeature(decode=False))
        return Rows(encoded, column, part.rows, part.targets, self.inputs, training, self.seed, limit, read)


class AtHand(Segmentation):
    def recognise(self, features, image_column=None, target_column=None):
        if "mask" not in features:
            raise SchemaError("no masks")
        return Masks()

    def data_module(self, data, data_config, steps_per_epoch=None, **options):
        made = MaskModule(data, data_config=data_config, inputs=MaskInputs(data_config), **options)
        if isinstance(data, RenumberedImages):
            made.own_inputs = RenumberedInputs(made.own_inputs, data.table)
        return made


registry.register(AtHand())

if __name__ == "__main__":
    from finetune.cli import main

    sys.exit(main())
