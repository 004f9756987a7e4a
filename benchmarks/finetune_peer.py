"""The job of finetune_speed.py by transformers' Trainer, as its documentation has it for images; knows nothing of ours.

    python benchmarks/finetune_peer.py '{"dataset": ..., "folder": ..., ...}'

Writes `said.json` into the folder: when the last epoch was over (seconds since 1970), and the test accuracy.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
import torch
from torchvision import transforms as T
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Clock(TrainerCallback):
    """When the last epoch was over, its validation done and its checkpoint written."""

    trained = 0.0

    def on_save(self, *_args: Any, **_keywords: Any) -> None:
        """Called by the Trainer."""
        self.trained = time.time()


def prepared(split: datasets.Dataset, transform: T.Compose, limit: int | None) -> datasets.Dataset:
    if limit is not None and limit < len(split):
        split = split.shuffle(seed=0).select(range(limit))

    def apply(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"pixel_values": [transform(i.convert("RGB")) for i in rows["image"]], "labels": rows["label"]}

    return split.with_transform(apply)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    labels = torch.tensor([row["labels"] for row in rows])
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}


def accuracy(found: Any) -> dict[str, float]:
    logits, labels = found
    return {"accuracy": float((np.argmax(logits, axis=1) == labels).mean())}


def main() -> None:
    job = json.loads(sys.argv[1])
    folder, size = Path(job["folder"]), job["size"]
    opened = datasets.load_dataset(job["dataset"])
    names = opened["train"].features["label"].names
    pretrained = timm.get_pretrained_cfg(job["model"]).to_dict()
    config = timm.data.resolve_data_config({"input_size": (3, size, size)}, pretrained_cfg=pretrained)
    crop = T.RandomResizedCrop(size, scale=(job["crop_scale"], 1.0))
    final = [T.ToTensor(), T.Normalize(config["mean"], config["std"])]
    train = prepared(opened["train"], T.Compose([crop, T.RandomHorizontalFlip(), *final]), job["max_samples"])
    evaluation = timm.data.create_transform(**config, is_training=False)
    validation, test = (prepared(opened[name], evaluation, job["max_samples"]) for name in ("validation", "test"))
    wrapper = TimmWrapperConfig(architecture=job["model"], num_labels=len(names), do_pooling=True)
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=job["epochs"],
        per_device_train_batch_size=job["batch_size"],
        per_device_eval_batch_size=job["batch_size"],
        use_cpu=not torch.cuda.is_available(),
        bf16=job["precision"] == "bf16",
        remove_unused_columns=False,  # the transform needs them
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=TimmWrapperForImageClassification(wrapper),
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=accuracy,
        callbacks=[clock],
    )
    trainer.train()
    found = trainer.predict(test)
    if len(found.label_ids) != len(test):
        raise RuntimeError(f"expected {len(test)} test images to be evaluated, got {len(found.label_ids)}")
    said = {"trained": clock.trained, "images": len(test), **accuracy((found.predictions, found.label_ids))}
    (folder / "said.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
