"""Datasets of one class an image, for tests: opened as commands open them, with the task already chosen."""

from functools import partial

from finetune.data import dataset
from finetune.tasks.classification.task import CLASSIFICATION

prepare = partial(dataset.prepare, task=CLASSIFICATION)
whole_split = partial(dataset.whole_split, task=CLASSIFICATION)
