"""One LightningModule for each task, by the Hub's name of the task."""

from finetune.tasks.classification.image_classification import ImageClassificationTask
from finetune.tasks.regression.image_regression import ImageRegressionTask

TASKS = {"image-classification": ImageClassificationTask, "image-regression": ImageRegressionTask}
