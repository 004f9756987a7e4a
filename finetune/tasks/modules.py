"""One LightningModule for each task, by the Hub's name of the task."""

from finetune.tasks.classification.image_classification import ImageClassificationTask

TASKS = {"image-classification": ImageClassificationTask}
