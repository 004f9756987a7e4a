"""What hooks into Lightning's Trainer, one file each."""

from finetune.callbacks.checkpoints import Checkpoints
from finetune.callbacks.drop_block import DropBlockSchedule
from finetune.callbacks.epoch_log import EpochLog
from finetune.callbacks.limits import Limits
from finetune.callbacks.signals import StopOnSignal
from finetune.callbacks.step_log import StepLog

__all__ = ["Checkpoints", "DropBlockSchedule", "EpochLog", "Limits", "StepLog", "StopOnSignal"]
