"""What hooks into Lightning's Trainer, one file each."""

from finetune.training.callbacks.accumulation import Accumulation
from finetune.training.callbacks.batch_norm import HoldBatchNorm
from finetune.training.callbacks.checkpoints import Checkpoints
from finetune.training.callbacks.drop_block import DropBlockSchedule
from finetune.training.callbacks.ema import EMA
from finetune.training.callbacks.epoch_log import EpochLog
from finetune.training.callbacks.freezing import FreezeBackbone
from finetune.training.callbacks.head_start import HeadStart
from finetune.training.callbacks.limits import Limits
from finetune.training.callbacks.non_finite import StopOnNonFinite
from finetune.training.callbacks.predictions import CollectPredictions
from finetune.training.callbacks.signals import StopOnSignal
from finetune.training.callbacks.step_log import StepLog

__all__ = [
    "EMA",
    "Accumulation",
    "Checkpoints",
    "CollectPredictions",
    "DropBlockSchedule",
    "EpochLog",
    "FreezeBackbone",
    "HeadStart",
    "HoldBatchNorm",
    "Limits",
    "StepLog",
    "StopOnNonFinite",
    "StopOnSignal",
]
