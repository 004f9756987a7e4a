"""Every setting of a run: one sentence a field, from which the command line's flags and help are made.

Imports no torch, so that `--help` and a wrong flag answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from finetune.settings.limits import MAX_IMAGE_PIXELS
from finetune.settings.of_tasks import DetectionOptions, MultiLabelOptions, SegmentationOptions
from finetune.settings.presets import (
    FEWEST_EPOCHS,
    FROZEN_PRESET,
    MOST_EPOCHS,
    PRETRAINED_PRESET,
    SCRATCH_PRESET,
    STEPS,
)

Interpolation = Literal["bilinear", "bicubic"]
Freeze = Literal["none", "backbone"]
Schedule = Literal["cosine", "polynomial", "steps"]
BatchNorm = Literal["held", "trained"]
HeadInit = Literal["zero", "probe", "timm"]
Imbalance = Literal["none", "class-weights", "balanced-sampler", "logit-adjustment"]
LoggerName = Literal["none", "tensorboard", "trackio", "wandb", "mlflow"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16"]

RESUME_AUTO = Path("auto")
"""`--resume auto`, in place of a folder; a folder of that name is given by its absolute path."""

INFERRED = tyro.conf.arg(help_behavior_hint="(default: inferred)")
OWN = tyro.conf.arg(help_behavior_hint="(default: the model's own)")
NONE = tyro.conf.arg(help_behavior_hint="(default: none)")
AUTO = tyro.conf.arg(help_behavior_hint="(default: chosen)")
_FILE = tyro.conf.arg(help_behavior_hint="(default: none)", metavar="FILE")
_RESUME = tyro.conf.arg(help_behavior_hint="(default: none)", metavar="RUN|auto")
_REPOSITORY = tyro.conf.arg(help_behavior_hint="(default: none)", metavar="OWNER/NAME")
_INTERVAL = tyro.conf.arg(help_behavior_hint="(default: every 15 minutes)")
_DECAY = tyro.conf.arg(help_behavior_hint="(default: none)", metavar="DECAY")
_WHOLE = tyro.conf.arg(help_behavior_hint="(default: the device's whole share)")
_SCHEDULE = tyro.conf.arg(help_behavior_hint="(default: cosine)")
_DURATION = tyro.conf.arg(help_behavior_hint="(default: none)", metavar="DURATION")
_HEAD = tyro.conf.arg(help_behavior_hint=f"(default: {PRETRAINED_PRESET['head_init']}; from scratch timm)")
_BATCH_NORM = tyro.conf.arg(help_behavior_hint=f"(default: {PRETRAINED_PRESET['batch_norm']}; from scratch trained)")
_REQUIRED = tyro.conf.arg(help_behavior_hint="(required)", metavar="NAME|PATH", constructor=str)


def _preset(name: str) -> Any:
    """Show the presets' values where the help shows the default."""
    values = [PRETRAINED_PRESET[name], SCRATCH_PRESET[name], FROZEN_PRESET[name]]
    shown = ["none" if value is None else value for value in values]
    if name == "epochs":
        shown[0] = f"for {STEPS} steps, {FEWEST_EPOCHS} to {MOST_EPOCHS}"
    hint = f"(default: {shown[0]}; from scratch {shown[1]}; frozen {shown[2]})"
    return tyro.conf.arg(help_behavior_hint=hint)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The dataset, and how to read it. What is not given is inferred, and the inference is printed."""

    dataset: Annotated[Any, _REQUIRED] = None
    """Hub id (OWNER/NAME[:CONFIG][@REVISION]), short name, folder, parquet, tar, zip or csv file, digits (offline)."""
    dataset_config: Annotated[str | None, NONE] = None
    """Configuration of a Hub dataset that has several."""
    revision: Annotated[str | None, NONE] = None
    """Branch, tag or commit of a Hub dataset."""
    image_column: Annotated[str | None, INFERRED] = None
    """Column that holds the images."""
    target_column: Annotated[str | None, INFERRED] = None
    """Column that holds what is to be learnt: classes, numbers."""
    task: Annotated[str | None, INFERRED] = None
    """What to read the dataset as, where it can be read in several ways: image-classification, ..."""
    train_split: Annotated[str | None, INFERRED] = None
    """Split to train on."""
    val_split: Annotated[str | None, INFERRED] = None
    """Split that the best epoch is chosen on."""
    test_split: Annotated[str | None, INFERRED] = None
    """Split that the reported numbers come from."""
    val_fraction: float = 0.1
    """Share of the training split to hold out where there is no validation split."""
    test_fraction: float = 0.1
    """Share of the training split to hold out where there is no test split."""
    group_column: Annotated[str | None, NONE] = None
    """Column of patients, scenes or videos: images of one group are held out together."""
    exclude: Annotated[str | None, _FILE] = None
    """File of rows to leave out, as the verbs doctor and labels write it."""
    max_samples: Annotated[int | None, NONE] = None
    """Use at most so many images of each split, drawn by class, for a quick try."""
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Leave out images of more pixels, which a few bytes can claim to have, before they are decoded."""
    streaming: bool = False
    """Read parquet or WebDataset shards while training, without a local copy; all three splits must be named."""
    classes: Annotated[str | None, INFERRED] = None
    """Classes of a stream that does not declare them: a number, names with commas between, or a file of one a line."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model."""

    model: Annotated[str, _REQUIRED] = ""
    """timm name (ResNeSt under timm's and the authors' names), hf-hub:OWNER/NAME or local-dir:PATH."""
    pretrained: bool = True
    """Start from the model's pretrained weights."""
    image_size: Annotated[int | None, OWN] = None
    """Side of the square input in pixels."""
    interpolation: Annotated[Interpolation | None, OWN] = None
    """How images are resized, in training and in evaluation: bilinear or bicubic."""
    zero_init_last: bool = False
    """Where no weights are loaded: each residual block starts as the identity, as in long trainings at high rates
    (timm's own way). Otherwise all of a block learns from the first step on."""
    drop_path: Annotated[float | None, NONE] = None
    """Rate of stochastic depth."""
    dropout: Annotated[float | None, NONE] = None
    """Rate of dropout before the classifier."""
    drop_block: Annotated[float | None, NONE] = None
    """Rate of DropBlock in the last two stages at the end of training, rising from zero by epoch (ResNets only)."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Optimisation. What is not given comes from a preset: pretrained weights, from scratch, or a frozen backbone."""

    epochs: Annotated[int | None, _preset("epochs")] = None
    """Passes over the training split."""
    steps_per_epoch: Annotated[int | None, NONE] = None
    """With --streaming: optimizer steps that make an epoch, at most what the stream gives."""
    batch_size: Annotated[int | None, _preset("batch_size")] = None
    """Images per optimizer step, over all devices."""
    optimizer: Annotated[str | None, _preset("optimizer")] = None
    """Any optimizer that timm knows."""
    lr: Annotated[float | None, _preset("lr")] = None
    """Peak learning rate."""
    weight_decay: Annotated[float | None, _preset("weight_decay")] = None
    """Weight decay; norms and biases have none."""
    layer_decay: Annotated[float | None, NONE] = None
    """Factor of the learning rate from each layer to the one before it: the head has --lr, the stem the least."""
    clip_grad: Annotated[float | None, NONE] = None
    """Largest norm of a step's gradient; a longer one is scaled down to it."""
    ema: Annotated[float | None, _DECAY] = None
    """Decay per step of an exponential average of the weights, which is what is evaluated and exported; it rises from
    2/11 as (1 + step) / (10 + step)."""
    warmup_epochs: Annotated[float | None, _preset("warmup_epochs")] = None
    """Epochs over which the learning rate rises from zero before it falls; at most half of all, or a tenth where it is
    not given."""
    schedule: Annotated[Schedule | None, _SCHEDULE] = None
    """How the learning rate falls: along a cosine to zero, polynomial (power 0.9) to zero, or in steps to a tenth after
    2/3 and to a hundredth after 8/9 of the training."""
    label_smoothing: Annotated[float | None, _preset("label_smoothing")] = None
    """Share of each target that is spread over all classes."""
    crop_scale: Annotated[float | None, _preset("crop_scale")] = None
    """Smallest share of an image's area that a random training crop may keep."""
    hflip: Annotated[float | None, _preset("hflip")] = None
    """Probability of a horizontal flip in training; 0 where left and right mean something."""
    auto_augment: Annotated[str | None, NONE] = None
    """timm's policy of random colours and shapes, for instance rand-m6-n2, original (AutoAugment) or augmix-m3."""
    color_jitter: Annotated[float | None, NONE] = None
    """How far brightness, contrast and saturation may change in training."""
    random_erasing: float = 0.0
    """Probability that a rectangle of a training image is erased."""
    mixup: Annotated[float | None, NONE] = None
    """Mix pairs of training images, with weights from Beta(MIXUP, MIXUP)."""
    cutmix: Annotated[float | None, NONE] = None
    """Paste rectangles between pairs, areas from Beta(CUTMIX, CUTMIX); with --mixup, a batch has one of the two."""
    freeze: Freeze = "none"
    """backbone: train the classifier alone. The backbone's features are computed once and cached, and the classifier is
    solved for: a logistic regression. With --epochs, --lr or the like it is trained, with augmentation on images."""
    unfreeze_every: Annotated[int | None, NONE] = None
    """With --freeze backbone: after every so many epochs one more stage trains, from the classifier down."""
    imbalance: Imbalance = "none"
    """For classes of unequal size: class-weights and logit-adjustment act in the loss, balanced-sampler trains on each
    class equally often. All gain on rare classes what they lose on frequent ones."""

    head_init: Annotated[HeadInit | None, _HEAD] = None
    """How a new classifier on pretrained weights starts: at zero, at a linear probe of the training images, or as timm
    has it."""
    batch_norm: Annotated[BatchNorm | None, _BATCH_NORM] = None
    """held: BatchNorm keeps the means and variances of the pretrained weights in training too; trained: it normalises
    by each batch, and its running averages follow."""
    probe_images: int = 50_000
    """Fit the linear probe, which the training is compared with, to so many training images at most, drawn by class;
    0: no probe."""
    patience: Annotated[int | None, NONE] = None
    """Stop after so many epochs without a better one, by what chooses the best: validation accuracy, then loss."""


@dataclass(frozen=True, kw_only=True)
class HardwareOptions:
    """Where it runs, in Lightning's terms."""

    accelerator: str = "auto"
    """auto, cpu, gpu, mps, ..."""
    devices: str = "auto"
    """How many devices, or which: auto, 2, 0,3."""
    num_nodes: int = 1
    """How many machines."""
    strategy: str = "auto"
    """auto, ddp, fsdp (splits weights, gradients and optimizer state over the devices), ..."""
    precision: Precision = "auto"
    """Arithmetic of the training; auto takes bf16 where that is faster. Reported numbers are always fp32."""
    device_batch_size: Annotated[int | None, _WHOLE] = None
    """Images at a time on each device at most. A step still takes --batch-size: its gradient is gathered over smaller
    parts (only BatchNorm statistics are then of parts). At least 2; a detector whose BatchNorm is held takes 1,
    where --batch-size divides the number of training images."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    compile: bool = False
    """Compile the model with torch.compile."""
    sync_bn: bool = False
    """BatchNorm statistics over all GPUs; has no effect on one device or on the CPU."""
    workers: Annotated[int | None, AUTO] = None
    """Processes per device that decode images; chosen from the cores at hand."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run."""

    seed: int = 0
    """Of the splits, the order, the augmentation and the initial weights."""
    seeds: int = 1
    """Train so many times on one split, with seeds from --seed on; the numbers' mean and spread are reported, and the
    best on validation is exported, or the average of the weights where that is better there."""
    curve: bool = False
    """Train on 10, 25 and 50% of the training images too: would more labels help? Takes two to four times as long."""
    output: Annotated[Path | None, AUTO] = None
    """Run folder to make; runs/DATASET-MODEL-TIME otherwise."""
    resume: Annotated[Path | None, _RESUME] = None
    """Run folder to go on with, from its last checkpoint. auto: go on with --output, or with the newest unfinished run
    of the same settings under runs/, if there is one; else start. For batch systems that repeat a command."""
    publish: Annotated[str | None, _REPOSITORY] = None
    """Put the model on the Hugging Face Hub at the end. Token and permission are checked at the start; a run that could
    not be published is complete all the same."""
    private: bool = False
    """With --publish: make the repository private, where it is made."""
    save_every: Annotated[int | None, _INTERVAL] = None
    """Optimizer steps between checkpoints within an epoch; SIGTERM, SIGUSR1, Ctrl-C and an epoch's end save too."""
    robustness: bool = True
    """Look where the finished model fails: kinds of test images, and corrupted ones; some two minutes at most."""
    logger: LoggerName = "none"
    """Record the run there too: tensorboard, trackio (in RUN/NAME), wandb or mlflow; each is an extra of that name."""
    max_time: Annotated[str | None, _DURATION] = None
    """Train for so long at most (90s, 45m, 1h30m, 2d12h), then validate, keep the best epoch and export as ever. Counts
    from the first step on, validation and what went before a resume included; looked at after each step. What comes
    before (reading, probe, a detector's anchors) and after (the last validation, evaluation, export, pictures,
    certificate) is not counted: the whole run takes longer, and its end says how long each part took. The schedule is
    not fitted to it, but cut."""


@dataclass(frozen=True, kw_only=True)
class Options(
    DataOptions,
    ModelOptions,
    TrainingOptions,
    HardwareOptions,
    RunOptions,
    MultiLabelOptions,
    DetectionOptions,
    SegmentationOptions,
):
    """All of them together, and what follows from several."""

    @property
    def head_only(self) -> bool:
        """Whether the backbone stays as it is to the end."""
        return self.freeze == "backbone" and self.unfreeze_every is None

    @property
    def augmentations(self) -> tuple[str, ...]:
        """Flags, in a resolved config, that change training images at random."""
        return tuple(flag(name) for name in _AUGMENTATIONS if getattr(self, name))

    @property
    def caches_features(self) -> bool:
        """Whether a resolved config's backbone sees each image once: it stays as it is, and so do the images."""
        return self.head_only and not self.augmentations

    @property
    def solved(self) -> bool:
        """Whether the classifier is solved for and not trained: on cached features, where nothing says how to train."""
        return self.caches_features and not self.streaming and all(getattr(self, name) is None for name in _ITERATIVE)

    @property
    def needless(self) -> tuple[str, ...]:
        """Fields that say how to train, where the classifier is solved for: with any of them it would be trained."""
        return _ITERATIVE if self.solved else ()

    @property
    def probed(self) -> bool:
        """Whether there is a linear probe to compare with, if the model allows it."""
        return self.solved or (self.pretrained and not self.streaming and self.probe_images > 0)


GROUPS: dict[str, type] = {
    "data": DataOptions,
    "model": ModelOptions,
    "training": TrainingOptions,
    "hardware": HardwareOptions,
    "run": RunOptions,
    "multi_label": MultiLabelOptions,
    "detection": DetectionOptions,
    "segmentation": SegmentationOptions,
}


LOADER = (
    "batch_size",
    "device_batch_size",
    "crop_scale",
    "hflip",
    "auto_augment",
    "color_jitter",
    "random_erasing",
    "workers",
    "seed",
    "steps_per_epoch",
)
"""Those that a data module takes."""


def fields(config: object, names: Sequence[str]) -> dict[str, Any]:
    """Some settings by name, as arguments of what takes no config."""
    return {name: getattr(config, name) for name in names}


def flag(field: str) -> str:
    """The flag of a field: `batch_size` -> `--batch-size`."""
    return "--" + field.replace("_", "-")


_ITERATIVE = (
    "epochs",
    "optimizer",
    "lr",
    "weight_decay",
    "warmup_epochs",
    "schedule",
    "label_smoothing",
    "layer_decay",
    "clip_grad",
    "ema",
    "patience",
    "dropout",
    "head_init",
)
"""Settings that say how a classifier on cached features is to be trained; without any of them it is solved for."""
_AUGMENTATIONS = ("crop_scale", "hflip", "auto_augment", "color_jitter", "random_erasing", "mixup", "cutmix")
