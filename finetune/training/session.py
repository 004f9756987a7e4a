"""Lightning's Trainer, set up for one run."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.profilers import Profiler

from finetune.console import interactive, is_main_process
from finetune.errors import ConfigError
from finetune.loading.allocator import freed_memory_kept
from finetune.loading.datamodule import ImageDataModule
from finetune.networks import models
from finetune.networks.feature_data import FeatureDataModule
from finetune.runs.runfolder import RunFolder
from finetune.settings import durations
from finetune.settings.config import RunConfig
from finetune.task import Learning
from finetune.training import checkpoint_io, hardware, launch, loggers, memory
from finetune.training.callbacks.accumulation import Accumulation
from finetune.training.callbacks.batch_norm import HoldBatchNorm
from finetune.training.callbacks.checkpoints import Checkpoints
from finetune.training.callbacks.drop_block import DropBlockSchedule
from finetune.training.callbacks.ema import EMA
from finetune.training.callbacks.epoch_log import EpochLog
from finetune.training.callbacks.freezing import FreezeBackbone
from finetune.training.callbacks.limits import Limits
from finetune.training.callbacks.lost_peer import NotePeers
from finetune.training.callbacks.non_finite import StopOnNonFinite
from finetune.training.callbacks.signals import StopOnSignal
from finetune.training.callbacks.step_log import StepLog
from finetune.training.data_wait import DataWait
from finetune.training.module import TaskModule
from finetune.training.sharding import FSDP

Images = ImageDataModule | FeatureDataModule


def make_trainer(
    accelerator: str,
    devices: str,
    callbacks: list[L.Callback],
    precision: str = "32-true",
    num_nodes: int = 1,
    strategy: str = "auto",
    max_epochs: int | None = None,
    sync_bn: bool = False,
    clip_grad: float | None = None,
    profiler: Profiler | None = None,
    steps_per_epoch: int | None = None,
) -> L.Trainer:
    """A Trainer without loggers and files of its own.

    Args:
        accelerator: Lightning's.
        devices: As `--devices` takes them.
        callbacks: Hook into it.
        precision: Lightning's.
        num_nodes: Number of machines.
        strategy: Lightning's, or `fsdp`, see `finetune.training.sharding`.
        max_epochs: Epochs to train.
        sync_bn: BatchNorm statistics over all GPUs.
        clip_grad: Largest norm of a step's gradient, over all parameters; not limited when not given.
        profiler: Lightning's.
        steps_per_epoch: Of a stream, for the schedule: it has no length.

    Raises:
        ConfigError: Lightning does not take the combination, for instance a GPU that is not there.
    """
    launch.check(num_nodes, strategy)
    here = launch.placement()
    bar: list[L.Callback] = [EpochBar()] if interactive() else []
    try:
        with quiet():
            return L.Trainer(
                accelerator=accelerator,
                devices=here.processes if here and devices == "auto" else hardware.devices(devices),
                num_nodes=here.nodes if here and num_nodes == 1 else num_nodes,
                strategy=FSDP() if strategy == "fsdp" else strategy,
                precision=precision,  # type: ignore[arg-type]  # text that Lightning checks
                max_epochs=max_epochs,
                # A limit on the batches instead would hide from Lightning that a stream has ended before it.
                max_steps=(max_epochs or 1) * steps_per_epoch if steps_per_epoch else -1,
                gradient_clip_val=clip_grad,
                sync_batchnorm=sync_bn and hardware.has_cuda(accelerator),  # torch's is for GPUs alone
                callbacks=[*callbacks, *bar],
                logger=False,
                profiler=profiler,
                log_every_n_steps=1,  # StepLog says how often; Lightning warns where an epoch has fewer steps
                num_sanity_val_steps=0,
                enable_model_summary=False,
                enable_progress_bar=bool(bar),
                enable_checkpointing=any(isinstance(c, Checkpoints) for c in callbacks),
                plugins=[*launch.plugins(), *(c.io for c in callbacks if isinstance(c, Checkpoints))],
            )
    except (ValueError, RuntimeError, TypeError, MisconfigurationException) as error:
        raise ConfigError(
            f"--accelerator {accelerator}, --devices {devices}, --strategy {strategy}: {' '.join(str(error).split())}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out Lightning's remarks that a user of ours can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning 2.6.6 uses a class that torch 2.15 deprecates.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        # The number of workers is chosen from the cores at hand.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The training loss that is logged is that of all processes already.
        warnings.filterwarnings("ignore", message=".*recommended to use .self.log.*sync_dist=True.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def precision_of(config: RunConfig, heavy_head: bool) -> str:
    """Lightning's name of the precision that a training has.

    Args:
        config: Its settings.
        heavy_head: Whether what stands on the backbone does much of the work, as a decoder does; then the whole
            network decides what `--precision auto` means, else the backbone.
    """
    depthwise = functools.partial(models.is_depthwise, config.model)
    return hardware.precision(config.precision, config.accelerator, (lambda: False) if heavy_head else depthwise)


class EpochBar(TQDMProgressBar):
    """Counts epochs from 1, as all else that is printed; what an epoch came to is a line of the log."""

    def init_train_tqdm(self) -> Any:
        """A bar that is named by us, whatever Lightning names it."""
        bar: Any = super().init_train_tqdm()
        named = bar.set_description

        def set_description(_: str | None = None, refresh: bool = True) -> None:
            named(f"epoch {self.trainer.current_epoch + 1}/{self.trainer.max_epochs}", refresh)

        bar.set_description = set_description
        return bar

    def get_metrics(self, *arguments: Any) -> dict[str, Any]:
        """Without Lightning's version number."""
        return {name: value for name, value in super().get_metrics(*arguments).items() if name != "v_num"}


class Session:
    """One training and the evaluations after it, on the same devices.

    Args:
        config: Resolved settings.
        folder: Where checkpoints and metrics go.
        baseline: Of another seed's session, where it is the same; the task's own when not given.

    Attributes:
        baseline: What the training has to beat; None before `plan`, and to be told of what before `fit`.
        collector: Keeps what was predicted; None before `plan`.
        predictions: By role, what `evaluate` saw; in the first process only.
        feature_seconds: That it took to find or compute a frozen backbone's features, where the training was on these.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, baseline: Any = None) -> None:
        self.config, self.folder, self.baseline = config, folder, baseline
        signals, self.peers = StopOnSignal(), NotePeers()
        self.advice = advice = f"go on with: python -m finetune --resume {folder.root}"
        self.limits = Limits(config.patience, durations.seconds(config.max_time) if config.max_time else None)
        self.checkpoints = Checkpoints(folder.checkpoints, signals, config.save_every, advice, self.limits)
        self.epochs = EpochLog(folder.metrics, config.epochs or 0, DataWait())
        self.accumulation, self.non_finite = Accumulation(), StopOnNonFinite()
        self.loggers: list[Logger] = []
        self.collector: Any = None
        self.predictions: dict[str, Any] = {}
        chosen: list[L.Callback] = [DropBlockSchedule(config.drop_block)] if config.drop_block else []
        chosen += [EMA(config.ema)] if config.ema else []
        chosen += [StepLog(self.epochs)] if config.logger != "none" else []
        precision = precision_of(config, heavy_head=False)
        if config.caches_features and config.precision == "auto":
            precision = "32-true"  # a classifier alone has nothing to gain from less
        self.feature_seconds: float | None = None
        self.trainer = make_trainer(
            config.accelerator,
            config.devices,
            [
                self.checkpoints,
                self.epochs,
                self.limits,
                signals,
                self.accumulation,
                self.non_finite,
                self.peers,
                *chosen,
            ],
            precision,
            config.num_nodes,
            config.strategy,
            config.epochs or 0,  # none where the classifier is solved for
            config.sync_bn,
            config.clip_grad,
            self.epochs.wait,
            config.steps_per_epoch,
        )
        self.precision = str(self.trainer.precision)  # on a CPU Lightning turns 16-mixed into bf16-mixed

    def settle_precision(self, config: RunConfig, task: Learning) -> None:
        """Mean by `--precision auto` what suits the task: of most the backbone decides, as `__init__` has it.

        On an AMD EPYC without AMX a step of Faster R-CNN on tf_efficientnet_lite0 (320 x 427 pixels, batch 8) took
        10.2 s in float32 and 7.8 s in bfloat16; of a U-Net on it (256 x 256) 1.02 and 0.85 s.
        """
        strategy = self.trainer.strategy
        if config.precision != "auto" or not task.heavy_head or type(strategy.precision_plugin) is not Precision:
            return
        if precision_of(config, heavy_head=True) == "bf16-mixed":
            strategy.precision_plugin = MixedPrecision("bf16-mixed", "cpu")
            self.precision = str(self.trainer.precision)

    def plan(self, config: RunConfig, task: Learning) -> None:
        """Take over what waits for the data: the number of epochs, and what is learnt."""
        self.config = config
        self.settle_precision(config, task)
        self.baseline, self.collector = self.baseline or task.baseline(config), task.collector()
        self.checkpoints.measure(self.baseline, task.ranking)
        self.epochs.measure(self.baseline, task.scores, task.ranking[0])
        kept: list[L.Callback] = []
        if config.freeze == "backbone" and not config.caches_features:
            kept.append(FreezeBackbone(config.unfreeze_every))
        kept += [HoldBatchNorm()] if config.batch_norm == "held" else []  # after FreezeBackbone
        # The baseline before EMA, which copies the model.
        self.trainer.callbacks[:0] = [self.baseline, self.collector, *kept]  # type: ignore[attr-defined]
        self.trainer.gradient_clip_val = config.clip_grad  # a task has its own where none is given
        self.epochs.epochs = self.trainer.fit_loop.max_epochs = config.epochs or 0

    def fit(
        self,
        task: TaskModule,
        loader: Images,
        identity: dict[str, Any],
        start: Path | None,
    ) -> None:
        """Train, and save what `finetune.training.resume.identity` gave along.

        Args:
            task: With the model.
            loader: With the data.
            identity: What the checkpoints belong to.
            start: Checkpoint to go on from; the beginning when not given.
        """
        self.checkpoints.identity, self.checkpoints.start = identity, start
        self.epochs.images = loader.epoch_images
        self.accumulation.images = self.non_finite.images = loader
        # Processes that Lightning starts from here find in the cache what this one has fetched.
        online = os.environ.get("HF_HUB_OFFLINE")
        os.environ |= {} if self.config.streaming else {"HF_HUB_OFFLINE": "1"}
        try:
            with quiet(), self.peers.watched(self.advice), self._memory(loader), freed_memory_kept():
                self._connect_logger(task, start)
                self.trainer.fit(task, loader, ckpt_path=start, weights_only=True)
        finally:
            os.environ.pop("HF_HUB_OFFLINE", None) if online is None else os.environ.update(HF_HUB_OFFLINE=online)
        if isinstance(loader, FeatureDataModule):
            self.feature_seconds = loader.seconds

    def _memory(self, loader: Images) -> AbstractContextManager[None]:
        config = self.config
        advice = f"python -m finetune --resume {self.folder.root}"
        world = self.trainer.world_size
        return memory.advised(loader.epoch_images, config.batch_size or 0, world, config.device_batch_size, advice)

    def _connect_logger(self, task: TaskModule, start: Path | None) -> None:
        if self.config.logger == "none" or not is_main_process():
            return
        step = None if start is None else checkpoint_io.load(start, mmap=True)["global_step"]
        self.trainer.loggers = [loggers.make(self.config.logger, self.folder, self.folder.settings(), step)]
        task._log_hyperparams = False  # all settings were logged, not those of the task alone

    def log_results(self, metrics: dict[str, dict[str, float]]) -> None:
        """Tell the logger how the exported model did, and close it."""
        results = {f"result/{role}_{name}": value for role, values in metrics.items() for name, value in values.items()}
        for logger in self.loggers:
            loggers.finish(logger, self.folder.settings(), results, self.trainer.global_step)

    def evaluate(self, task: TaskModule, loader: Images, role: str) -> dict[str, float]:
        """Scores of the task's weights on `validation` or `test`, in float32."""
        # The best weights' scores are no further point of the training's curves.
        self.loggers, self.trainer.loggers = self.loggers or self.trainer.loggers, []
        loop = {"validation": self.trainer.validate, "test": self.trainer.test}[role]
        with quiet(), self.peers.watched(self.advice), self._memory(loader), freed_memory_kept():
            loop(task, loader, verbose=False)
        if self.collector.last is not None:
            self.predictions[role] = self.collector.last
        return task.exact
