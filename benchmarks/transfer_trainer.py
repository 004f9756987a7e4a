"""A row of transfer.py: transformers' Trainer on its TimmWrapper, with the transforms of its examples for images.

Knows nothing of ours. Started by transfer.py. What a job does not name is the Trainer's own: a rate of 5e-5 that falls
to zero in a line, AdamW, batches of 8, no validation while it trains, the last weights.

Source of the transforms: transformers' examples/pytorch/image-classification/run_image_classification.py, Apache-2.0.
"""

from __future__ import annotations

import tempfile
from typing import Any

import datasets
import timm
import torch
from torchvision import transforms as T
from transfer_job import Job, answer, read
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, set_seed


def repository(name: str) -> str:
    """Where transformers finds the weights that timm has under a name."""
    for prefix in ("local-dir:", "hf-hub:", "hf_hub:"):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise ValueError(f"{name}: expected a model with weights on the Hub, hf-hub:OWNER/NAME or local-dir:PATH")
    return config.hf_hub_id if not config.hf_hub_id.endswith("/") else f"timm/{config.architecture}.{config.tag}"


def transformed(split: datasets.Dataset, transform: T.Compose) -> datasets.Dataset:
    """Gives `pixel_values`, float32 `[3, H, W]`, and `labels`."""

    def apply(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"pixel_values": [transform(i.convert("RGB")) for i in rows["image"]], "labels": rows["label"]}

    return split.with_transform(apply)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    labels = torch.tensor([row["labels"] for row in rows])
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}


def arguments(job: Job, folder: str) -> TrainingArguments:
    given = {} if job.lr is None else {"learning_rate": job.lr}
    given |= {} if job.batch_size is None else {"per_device_train_batch_size": job.batch_size}
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=job.epochs,
        seed=job.seed,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,  # the transform needs them
        report_to="none",
        disable_tqdm=True,
        **given,
    )


def main() -> None:
    job = Job.from_command_line()
    set_seed(job.seed)
    train, score = read(job.train), read(job.score)
    model = AutoModelForImageClassification.from_pretrained(
        repository(job.model), num_labels=train.features["label"].num_classes, ignore_mismatched_sizes=True
    )
    config = timm.data.resolve_data_config(pretrained_cfg=model.config.pretrained_cfg)
    final = [T.ToTensor(), T.Normalize(config["mean"], config["std"])]
    random = T.Compose([T.RandomResizedCrop(job.image_size), T.RandomHorizontalFlip(), *final])
    fixed = T.Compose([T.Resize(job.image_size), T.CenterCrop(job.image_size), *final])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=arguments(job, folder),
            train_dataset=transformed(train, random),
            data_collator=collate,
        )
        trainer.train()
        found = trainer.predict(transformed(score, fixed))
    answer(job, found.predictions, score["label"][:])


if __name__ == "__main__":
    main()
