"""A row of transfer.py: fastai's `vision_learner` and `fine_tune`, with its own augmentation.

Knows nothing of ours. Started by transfer.py. What a job does not name is fastai's own: `base_lr` 2e-3, one frozen
epoch before the others, batches of 64, its head, its one-cycle schedule, the last weights.
"""

from __future__ import annotations

import io
from operator import itemgetter
from typing import Any

import datasets
import torch
from fastai.callback.schedule import Learner  # the module gives it `fine_tune`
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IndexSplitter
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner
from PIL import Image, ImageOps
from transfer_job import Job, answer, read

PRESIZE = 1.25
"""Side of the images that its augmentation crops, over that of what comes out."""
Item = dict[str, Any]


def items(split: datasets.Dataset) -> list[Item]:
    """Encoded images, and the names of their classes. Not tuples, whose members fastai would transform one by one."""
    names = split.features["label"].names
    encoded = split.cast_column("image", datasets.Image(decode=False))
    return [{"image": row["image"]["bytes"], "label": names[row["label"]]} for row in encoded]


def opened(item: Item) -> PILImage:
    """Upright, as the others get it; fastai itself does not look at EXIF."""
    return PILImage(ImageOps.exif_transpose(Image.open(io.BytesIO(item["image"]))).convert("RGB"))


def loaders(job: Job, train: datasets.Dataset, validation: datasets.Dataset) -> DataLoaders:
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=train.features["label"].names, sort=False)),
        get_x=opened,
        get_y=itemgetter("label"),
        splitter=IndexSplitter(range(len(train), len(train) + len(validation))),
        item_tfms=Resize(round(PRESIZE * job.image_size)),
        batch_tfms=aug_transforms(size=job.image_size),
    )
    given = {} if job.batch_size is None else {"bs": job.batch_size}
    return block.dataloaders(items(train) + items(validation), **given)


def main() -> None:
    job = Job.from_command_line()
    set_seed(job.seed, reproducible=True)
    train, validation, score = (read(path) for path in (job.train, job.validation, job.score))
    learner: Learner = vision_learner(loaders(job, train, validation), job.model)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(job.epochs, **({} if job.lr is None else {"base_lr": job.lr}))
        probabilities, _ = learner.get_preds(dl=learner.dls.test_dl(items(score), rm_type_tfms=0))
    answer(job, torch.log(probabilities).double().numpy(), score["label"][:])


if __name__ == "__main__":
    main()
