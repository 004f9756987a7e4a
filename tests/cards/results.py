"""A result.json as `finetune` writes it, whose numbers are all different, for the tests of cards."""

import copy
import re

from huggingface_hub import ModelCard

CLASSES = ["apple_pie", "baby back ribs", "crème brûlée", "C++"]
COLUMNS = ("class", "precision", "recall", "f1", "support", "predicted")
RESULT = {
    "schema_version": 1,
    "task": "image-classification",
    "model": {
        "name": "resnest50",
        "architecture": "resnest50d",
        "pretrained": True,
        "pretrained_tag": "in1k",
        "base_model": "timm/resnest50d.in1k",
        "base_license": "apache-2.0",
        "parameters": 25_434_592,
        "image_size": 224,
        "weights": "raw",
    },
    "dataset": {
        "id": "ethz/food101",
        "hub": True,
        "config": "default",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "license": "cc-by-4.0",
        "classes": CLASSES,
        "splits": {"train": 66281, "validation": 9469, "test": 25250},
        "sources": {"train": "train", "validation": "train", "test": "holdout"},
        "class_counts": {"train": [21, 22, 23, 24], "validation": [25, 26, 27, 28], "test": [29, 30, 31, 33]},
        "imbalance_ratio": 3.857,
        "held_out": {"validation": {"from": "train", "fraction": 0.125}},
        "excluded": {
            "undecodable": {"train": [{"row": 3, "reason": "OSError: truncated"}, {"row": 34, "reason": "a web page"}]},
            "unlabelled": {"train": 17, "holdout": 40},
        },
        "max_samples": 66666,
    },
    "metrics": {
        "validation": {
            "accuracy": 0.9106453,
            "top5_accuracy": 0.98,
            "macro_f1": 1 / 3,
            "balanced_accuracy": 0.97654,
            "loss": 0.4,
        },
        "test": {
            "accuracy": 0.9017821782178218,
            "top5_accuracy": 0.99,
            "macro_f1": 2 / 3,
            "balanced_accuracy": 0.8299500000000001,
            "loss": 12.34567890123,
        },
    },
    "training": {
        "epochs": 10,
        "planned_epochs": 11,
        "partial_epoch": 0.4375,
        "stopped_by": "max-time",
        "best_epoch": 9,
        "batch_size": 64,
        "seconds": 8123.456,
        "images_per_second": 81.594,
        "data_wait": 0.0625,
        "devices": 2,
        "precision": "bf16-mixed",
        "optimizer": "adamw",
        "lr": 5e-05,
        "weight_decay": 0.051,
        "layer_decay": 0.75,
        "clip_grad": 1.5,
        "ema": 0.999,
        "device_batch_size": 16,
        "grad_checkpointing": True,
        "warmup_epochs": 0.7,
        "label_smoothing": 0.11,
        "crop_scale": 0.35,
        "hflip": 0.52,
        "auto_augment": "rand-m6-n2",
        "color_jitter": 0.43,
        "random_erasing": 0.23,
        "mixup": 0.21,
        "cutmix": 1.1,
        "drop_path": 0.13,
        "dropout": 0.14,
        "drop_block": 0.15,
        "freeze": "backbone",
        "unfreeze_every": 3,
        "imbalance": "class-weights",
        "patience": 12,
    },
    "seed": 42,
    "evaluation": {
        "majority_class": {"class": "C++", "validation": 0.26, "test": 0.895},
        "intervals": {
            "level": 0.95,
            "resamples": 2000,
            "seed": 42,
            "method": "percentile bootstrap over images",
            "test": {
                "accuracy": [0.8912, 0.9471],
                "balanced_accuracy": [0.8123, 0.8456],
                "macro_f1": [0.6543, 0.6789],
            },
        },
        "per_class": {
            "test": [
                dict(zip(COLUMNS, ["apple_pie", 0.911, 0.922, 0.9165, 35, 36], strict=True)),
                dict(zip(COLUMNS, ["baby back ribs", None, 0.0, 0.0, 8, 0], strict=True)),
                dict(zip(COLUMNS, ["crème brûlée", 0.5, 0.6, 0.5454, 37, 38], strict=True)),
                dict(zip(COLUMNS, ["C++", 0.7, None, 0.3, 0, 39], strict=True)),
            ]
        },
        "confusion": {"test": [[51, 52], [53, 54]]},
        "calibration": {
            "temperature": 1.2345678901234567,
            "fitted_on": "validation",
            "bins": 15,
            "test": {"error": 0.1234, "error_calibrated": 0.0678, "loss": 12.3456, "loss_calibrated": 11.9876},
        },
        "mistakes": {"count": 2468, "shown": 24},
        "figures": {name: f"figures/{name}.png" for name in ("confusion", "curves", "reliability", "mistakes")},
    },
    "command": ["--model", "resnest50", "--dataset", "ethz/food101", "--epochs", "11", "--lr", "5e-05"],
    "environment": {"torch": "2.15.0", "timm": "1.0.31"},
}


def changed(**values):
    """RESULT with some keys changed; `dataset__id=...` reaches into a section."""
    result = copy.deepcopy(RESULT)
    for key, value in values.items():
        *sections, name = key.split("__")
        place = result
        for section in sections:
            place = place[section]
        place[name] = value
    return result


def named(classes):
    """RESULT with other classes, as many as there are names."""
    row = RESULT["evaluation"]["per_class"]["test"][0]
    rows = [row | {"class": name} for name in classes]
    return changed(dataset__classes=list(classes), evaluation__per_class={"test": rows})


def text_of(card):
    """The card's text without its YAML head."""
    return ModelCard(card).text


def tables(text):
    """Each table of the card, as rows of cells without escapes; a cell's escaped bars do not end it."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            found.append(rows)
            rows = []
    return found


def code_of(card, language="python"):
    """The card's code blocks."""
    return re.findall(rf"^(`{{3,}}){language}\n(.*?)\n\1$", card, flags=re.DOTALL | re.MULTILINE)


def without_code(card):
    """The card without its code blocks."""
    return re.sub(r"^(`{3,}).*?^\1$", "", card, flags=re.DOTALL | re.MULTILINE)
