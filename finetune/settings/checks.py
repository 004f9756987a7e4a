"""What can be wrong with the settings of a run, before anything is read."""

from __future__ import annotations

import math

from finetune.settings import durations, of_tasks
from finetune.settings.options import Options, flag

# field: (smallest, largest, whether the smallest itself is allowed)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "val_fraction": (0, 0.5, False),
    "test_fraction": (0, 0.5, False),
    "max_samples": (1, math.inf, True),
    "max_image_pixels": (1, math.inf, True),
    "image_size": (1, 8192, True),
    "drop_path": (0, 0.99, True),
    "dropout": (0, 0.99, True),
    "drop_block": (0, 0.5, True),
    "epochs": (1, math.inf, True),
    "batch_size": (2, math.inf, True),
    "lr": (0, 1e4, False),
    "weight_decay": (0, 1e4, True),
    "layer_decay": (0, 1, False),
    "clip_grad": (0, math.inf, False),
    "ema": (0, 1, False),
    "warmup_epochs": (0, math.inf, True),
    "label_smoothing": (0, 0.99, True),
    "crop_scale": (0, 1, False),
    "hflip": (0, 1, True),
    "color_jitter": (0, 1, True),
    "random_erasing": (0, 1, True),
    "mixup": (0, 100, False),
    "cutmix": (0, 100, False),
    "device_batch_size": (1, math.inf, True),
    "unfreeze_every": (1, math.inf, True),
    "num_nodes": (1, math.inf, True),
    "workers": (0, 1024, True),
    "seed": (0, 2**32 - 1, True),
    "seeds": (1, 1000, True),
    "save_every": (1, math.inf, True),
    "patience": (1, math.inf, True),
    "probe_images": (0, math.inf, True),
    "steps_per_epoch": (1, math.inf, True),
}


def problems(config: Options) -> list[str]:
    """Everything that is wrong with resolved settings, one sentence each, with what to do."""
    found = []
    missing = [flag(name) for name in ("model", "dataset") if getattr(config, name) in (None, "")]
    if missing:
        found.append(f"{' and '.join(missing)} must be given, for instance --model resnest50 --dataset food101")
    for name, (low, high, inclusive) in _RANGES.items():
        value = getattr(config, name)
        if value is None:
            continue
        inside = (low <= value if inclusive else low < value) and value <= high and math.isfinite(value)
        if not inside:
            bounds = f"{'at least' if inclusive else 'above'} {low:.10g}"
            bounds += f" and at most {high:.10g}" if math.isfinite(high) else ""
            found.append(f"{flag(name)} must be {bounds}, got {value}")
    if config.val_fraction == config.test_fraction == 0.5:
        found.append("--val-fraction and --test-fraction must be below 1 together, got 1: none is left to train on")
    splits = [s for s in (config.train_split, config.val_split, config.test_split) if s]
    if len(set(splits)) < len(splits):
        found.append(
            f"--train-split, --val-split and --test-split must differ, got {', '.join(splits)}: "
            "what a model was trained or chosen on says nothing about new images"
        )
    found += _freezing_problems(config)
    found += _head_problems(config)
    found += _seed_problems(config)
    found += _curve_problems(config)
    found += _split_problems(config)
    if config.private and config.publish is None:
        found.append("--private needs --publish OWNER/NAME: it is about the repository that is made")
    found += _stream_problems(config)
    found += of_tasks.problems(config)
    if config.max_time is not None:
        try:
            durations.seconds(config.max_time)
        except ValueError as error:
            found.append(f"--max-time: {error}")
    if not valid_devices(config.devices):
        found.append(f"--devices must be auto, a number such as 2, or indices such as 0,3, got {config.devices!r}")
    return found


def _freezing_problems(config: Options) -> list[str]:
    every, epochs = config.unfreeze_every, config.epochs or 0
    inert = [flag(name) for name in ("drop_path", "drop_block") if getattr(config, name)]
    if every is not None and config.freeze == "none":
        return ["--unfreeze-every needs --freeze backbone: without it everything trains from the start"]
    if every is not None and config.epochs is not None and every >= epochs:
        return [f"--unfreeze-every must be below --epochs {epochs}, got {every}: nothing would ever be unfrozen"]
    if config.head_only and inert:
        return [
            f"{' and '.join(inert)} would do nothing in a backbone that --freeze backbone keeps as it is: leave out"
        ]
    return []


def _head_problems(config: Options) -> list[str]:
    if config.batch_norm == "held" and not config.pretrained and config.freeze == "none":
        return [
            "--batch-norm held keeps what pretrained weights know, and --no-pretrained has none: leave one of them out"
        ]
    if config.head_init in (None, "timm"):
        return []
    if not config.pretrained and config.freeze == "none":
        return [
            f"--head-init {config.head_init} is for pretrained weights, and --no-pretrained starts from none: leave "
            "one of them out"
        ]
    if config.head_init == "probe" and not config.probe_images:
        return ["--head-init probe needs a linear probe, and --probe-images 0 has none: leave out one of them"]
    return []


def _seed_problems(config: Options) -> list[str]:
    """What makes no sense, or has no form, for several seeds."""
    if config.seeds <= 1:
        return []
    given = f"--seeds {config.seeds}"
    if config.solved:
        return [
            f"{given}: the classifier of --freeze backbone is solved for, and comes out the same whatever the seed: "
            "leave out --seeds, or give --epochs to train it"
        ]
    if config.caches_features and not config.pretrained:
        return [
            f"{given} with --freeze backbone and --no-pretrained: each seed would have another random backbone, and "
            "nothing to compare: leave out one of the three"
        ]
    if config.seed + config.seeds - 1 > _RANGES["seed"][1]:
        return [f"--seed {config.seed} and {given}: the last would be above {_RANGES['seed'][1]}: lower --seed"]
    return []


def _curve_problems(config: Options) -> list[str]:
    """What `--curve` cannot be with."""
    if not config.curve:
        return []
    if config.streaming:
        return ["--curve cannot take --streaming: no share of a stream can be drawn; leave out one of them"]
    if config.seeds > 1:
        return [
            f"--curve cannot take --seeds {config.seeds}: the best of several trainings on all images would be "
            "compared with a single one on parts of them; leave out one of the two"
        ]
    return []


def _split_problems(config: Options) -> list[str]:
    """What has no form for a model that is split over devices."""
    if config.strategy != "fsdp":
        return []
    reasons = {
        "ema": "the average would be of the whole model",
        "compile": "it would compile the gathering of the weights",
        "sync_bn": "Lightning has it for ddp alone",
    }
    found = [
        f"--strategy fsdp cannot take {flag(name)}: {reason}; leave out one of them"
        for name, reason in reasons.items()
        if getattr(config, name)
    ]
    if config.freeze != "none":
        found.append("--strategy fsdp with --freeze backbone: what does not train needs no such memory: take ddp")
    return found


def _stream_problems(config: Options) -> list[str]:
    """A stream is read once an epoch, and not before: all that would need that is refused here."""
    if not config.streaming:
        given = [flag(name) for name in ("classes", "steps_per_epoch") if getattr(config, name) is not None]
        return [f"{' and '.join(given)}: only with --streaming"] if given else []
    needed = ("train_split", "val_split", "test_split", "steps_per_epoch")
    missing = [flag(name) for name in needed if getattr(config, name) is None]
    problems = [f"--streaming needs {', '.join(missing)}: a stream is not read to find out"] if missing else []
    if config.seeds > 1:
        problems.append(
            f"--seeds {config.seeds} cannot take --streaming: leave out one of them, or start a run for each --seed"
        )
    if config.head_init == "probe":
        problems.append(
            "--head-init probe reads the training images first, and a stream is not: give zero, or no --streaming"
        )
    lists = [flag(name) for name in ("group_column", "exclude") if getattr(config, name) is not None]
    if lists:
        problems.append(f"{' and '.join(lists)}: rows of a stream have no numbers, and its splits are as they are")
    if config.max_samples is not None:
        problems.append("--max-samples cannot be drawn from a stream: leave it out, and lower --steps-per-epoch")
    if config.imbalance != "none":
        problems.append(
            f"--imbalance {config.imbalance} needs the number of images of each class, which a stream does not tell: "
            "leave out one of --imbalance and --streaming"
        )
    if config.caches_features:
        problems.append(
            "--freeze backbone computes features of images once, and a stream is not kept: ask for some augmentation, "
            "such as --hflip 0.5, or leave out --streaming"
        )
    return problems


def valid_devices(devices: str) -> bool:
    """Whether it is a number of devices, indices or auto."""
    parts = devices.split(",")
    return devices in ("auto", "-1") or (all(p.strip().isdigit() for p in parts) and devices != "0")
