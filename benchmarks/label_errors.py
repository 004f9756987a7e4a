"""How many planted label errors `python -m finetune labels` finds: precision among the first 50, recall.

Labels are flipped after the dataset was read, so that the features are computed once, and are remembered.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from finetune import console
from finetune.commands.trust import embed
from finetune.data.dataset import LabelledImages
from finetune.settings.data_verbs import LabelsOptions
from finetune.study import Studying
from finetune.tasks import registry

FIRST = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are flipped")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--accelerator", default="auto")
    args = parser.parse_args()
    console.set_up(sys.stderr)
    options = LabelsOptions(
        dataset=args.dataset, model=args.model, image_size=args.image_size, accelerator=args.accelerator
    )
    data = embed.opened(options)
    study = registry.study_of(registry.get(data.schema.task), "labels")
    values = embed.features(data, args.model, options)
    features = np.concatenate([values[role] for role in data.splits.parts])
    labels = np.concatenate([part.targets for part in data.splits.parts.values()])
    for seed in range(args.seeds):
        print(
            json.dumps(
                {"dataset": args.dataset, "seed": seed, **measure(study, features, labels, data, args.share, seed)}
            ),
            flush=True,
        )


def measure(
    study: Studying, features: np.ndarray, labels: np.ndarray, data: LabelledImages, share: float, seed: int
) -> dict[str, float]:
    """Flip, rank, count."""
    rng = np.random.default_rng(seed)
    count = round(share * len(labels))
    flipped = np.zeros(len(labels), dtype=bool)
    flipped[rng.permutation(len(labels))[:count]] = True
    classes = len(data.schema.classes)
    noisy = np.where(flipped, (labels + rng.integers(1, classes, len(labels))) % classes, labels)
    found = study.suspects(features, noisy, data.schema, seed)
    order = np.array([one.place for one in found])
    hits = flipped[order]
    restored = sum(
        one.suggested == data.schema.classes[labels[one.place]] for one in found[: 2 * count] if flipped[one.place]
    )
    likely = sum(one.likely for one in found)
    return {
        "images": len(labels),
        "flipped": count,
        f"precision_at_{FIRST}": round(float(hits[:FIRST].mean()), 3),
        "recall_in_2x": round(float(hits[: 2 * count].sum() / count), 3),
        "likely": likely,
        "precision_of_likely": round(float(np.mean([flipped[one.place] for one in found if one.likely])), 3),
        "recall_of_likely": round(float(sum(flipped[one.place] for one in found if one.likely) / count), 3),
        "right_label_suggested": round(float(restored / max(1, hits[: 2 * count].sum())), 3),
    }


if __name__ == "__main__":
    main()
