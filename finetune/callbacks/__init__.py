"""What hooks into Lightning's Trainer, one file each."""

from finetune.callbacks.accumulation import Accumulation
from finetune.callbacks.batch_norm import HoldBatchNorm
from finetune.callbacks.checkpoints import Checkpoints
from finetune.callbacks.drop_block import DropBlockSchedule
from finetune.callbacks.ema import EMA
from finetune.callbacks.epoch_log import EpochLog
from finetune.callbacks.freezing import FreezeBackbone
from finetune.callbacks.head_start import HeadStart
from finetune.callbacks.limits import Limits
from finetune.callbacks.non_finite import StopOnNonFinite
from finetune.callbacks.predictions import CollectPredictions
from finetune.callbacks.signals import StopOnSignal
from finetune.callbacks.step_log import StepLog

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
