"""What hooks into Lightning's Trainer, one file each."""

from finetune.callbacks.checkpoints import Checkpoints
from finetune.callbacks.drop_block import DropBlockSchedule
from finetune.callbacks.epoch_log import EpochLog
from finetune.callbacks.predictions import CollectPredictions
from finetune.callbacks.signals import StopOnSignal

__all__ = ["Checkpoints", "CollectPredictions", "DropBlockSchedule", "EpochLog", "StopOnSignal"]
