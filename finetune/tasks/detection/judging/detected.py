"""What was found in the images of a split, and what is there: plain tensors, from which all numbers follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Entry = Mapping[str, Any]
"""What was found in an image, or what is there: `boxes`, `labels`, `scores` or `iscrowd` and `area`, perhaps `rles`."""


@dataclass(frozen=True)
class Objects:
    """Objects of N images, one after the other; M of them.

    Attributes:
        counts: int64 `[N]`, objects of each image.
        boxes: float32 `[M, 4]`, xyxy in pixels of the original images.
        labels: int64 `[M]`.
        scores: float32 `[M]`: how sure; 1 where it is the truth.
        crowd: Bool `[M]`: a region of many, which is neither found nor missed.
        areas: float32 `[M]`, pixels; of the truth as the dataset has them, else of the boxes.
        mask_bytes: uint8, COCO's compressed run lengths of all masks; empty where there are none.
        mask_lengths: int64 `[M]`, how many bytes each mask has; empty where there are none.
    """

    counts: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    crowd: Tensor
    areas: Tensor
    mask_bytes: Tensor
    mask_lengths: Tensor

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Objects:
        """Of entries, one an image."""
        boxes = _joined([_numpy(one["boxes"]).reshape(-1, 4) for one in entries], (0, 4), np.float32)
        labels = _joined([_numpy(one["labels"]) for one in entries], (0,), np.int64)
        sides = boxes[:, 2:] - boxes[:, :2]
        plain = {"scores": np.ones(len(boxes)), "iscrowd": np.zeros(len(boxes)), "area": sides.prod(1)}
        given = {
            name: _joined([_numpy(one[name]) for one in entries], (0,), np.float64)
            if entries and name in entries[0]
            else fallback
            for name, fallback in plain.items()
        }
        masks = [rle["counts"] for one in entries for rle in one.get("rles", ())]
        coded = [of.encode() if isinstance(of, str) else of for of in masks]
        return cls(
            counts=torch.tensor([len(one["labels"]) for one in entries], dtype=torch.int64),
            boxes=torch.from_numpy(boxes),
            labels=torch.from_numpy(labels),
            scores=torch.from_numpy(given["scores"].astype(np.float32)),
            crowd=torch.from_numpy(given["iscrowd"].astype(bool)),
            areas=torch.from_numpy(given["area"].astype(np.float32)),
            mask_bytes=torch.from_numpy(np.frombuffer(b"".join(coded), dtype=np.uint8).copy()),
            mask_lengths=torch.tensor([len(of) for of in coded], dtype=torch.int64),
        )

    def images(self, sizes: Tensor) -> Iterator[dict[str, Any]]:
        """An entry an image, arrays of numpy; `rles` where there are masks.

        Args:
            sizes: int64 `[N, 2]`, height and width.
        """
        ends = self.counts.cumsum(0).tolist()
        mask_ends = [0, *self.mask_lengths.cumsum(0).tolist()]
        data = self.mask_bytes.numpy().tobytes()
        names = ("boxes", "labels", "scores", "crowd", "areas")
        arrays = {name: getattr(self, name).numpy() for name in names}
        for image, (count, end) in enumerate(zip(self.counts.tolist(), ends, strict=True)):
            entry: dict[str, Any] = {name: of[end - count : end] for name, of in arrays.items()}
            if len(self.mask_lengths):
                entry["rles"] = [
                    {"size": sizes[image].tolist(), "counts": data[mask_ends[i] : mask_ends[i + 1]]}
                    for i in range(end - count, end)
                ]
            yield entry


@dataclass(frozen=True)
class Detected:
    """All of a split; fields are tensors alone, so that it can be saved.

    Attributes:
        sizes: int64 `[N, 2]`, height and width of the original images.
        found: Fields of `Objects`, each with `found_` before its name; and with `true_` what is there.
    """

    sizes: Tensor
    found_counts: Tensor
    found_boxes: Tensor
    found_labels: Tensor
    found_scores: Tensor
    found_crowd: Tensor
    found_areas: Tensor
    found_mask_bytes: Tensor
    found_mask_lengths: Tensor
    true_counts: Tensor
    true_boxes: Tensor
    true_labels: Tensor
    true_scores: Tensor
    true_crowd: Tensor
    true_areas: Tensor
    true_mask_bytes: Tensor
    true_mask_lengths: Tensor

    @classmethod
    def of(cls, records: Sequence[tuple[tuple[int, int], Entry, Entry]]) -> Detected:
        """Of (size, what was found, what is there), one an image, in the order of the split's rows."""
        sizes = torch.tensor([size for size, _, _ in records], dtype=torch.int64).reshape(-1, 2)
        fields: dict[str, Tensor] = {}
        sides = {"found": [found for _, found, _ in records], "true": [truth for _, _, truth in records]}
        for prefix, entries in sides.items():
            objects = Objects.of(entries)
            fields |= {f"{prefix}_{name}": value for name, value in vars(objects).items()}
        return cls(sizes=sizes, **fields)

    @property
    def found(self) -> Objects:
        """By the model."""
        return self._objects("found")

    @property
    def truth(self) -> Objects:
        """As the dataset has it."""
        return self._objects("true")

    @property
    def masks(self) -> bool:
        """Whether there are masks beside the boxes."""
        return len(self.true_mask_lengths) > 0 or len(self.found_mask_lengths) > 0

    def pairs(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """For each image what was found, and what is there."""
        return list(zip(self.found.images(self.sizes), self.truth.images(self.sizes), strict=True))

    def _objects(self, prefix: str) -> Objects:
        return Objects(**{field.name: getattr(self, f"{prefix}_{field.name}") for field in dataclasses.fields(Objects)})


def _numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _joined(parts: Sequence[np.ndarray], shape: tuple[int, ...], kind: Any) -> np.ndarray:
    joined: np.ndarray = np.concatenate([np.zeros(shape), *parts]).astype(kind)
    return joined
