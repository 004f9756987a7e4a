"""One LightningModule per task, by the Hub's name of the task."""

from finetune.tasks.classification.feature_classification import FeatureClassificationTask
from finetune.tasks.classification.image_classification import ImageClassificationTask

TASKS = {"image-classification": ImageClassificationTask}

__all__ = ["TASKS", "FeatureClassificationTask", "ImageClassificationTask"]
