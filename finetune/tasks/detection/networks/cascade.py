"""The heads of Cascade R-CNN on torchvision's parts; needs torchvision alone, and lies beside such a model's weights.

Three heads, each taught on boxes that the one before it has refined and at a stricter overlap.

Source: Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018,
https://arxiv.org/abs/1712.00726: overlaps 0.5, 0.6, 0.7; regression that does not know the class; at the end the mean
of the three heads' probabilities.
"""

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import clip_boxes_to_image

OVERLAPS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""Of the regression, by stage: later boxes are nearer to the truth."""


class CascadePredictor(FastRCNNPredictor):  # type: ignore[misc]  # torchvision has no types
    """Logits of all classes and the background, and one correction of the box for all of them.

    Args:
        channels: Of the head's features.
        num_classes: With the background.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        self.bbox_pred = nn.Linear(channels, 4)


class CascadeHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """In the place of a two-stage detector's `roi_heads`; its first head is the detector's own.

    Args:
        heads: torchvision's, with its first head, pooling, thresholds and perhaps masks.
        channels: Of the feature pyramid.
        num_classes: With the background.
    """

    def __init__(self, heads: RoIHeads, channels: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in heads.__dict__.items() if name != "_modules"})
        for name in ("box_roi_pool", "mask_roi_pool", "mask_head", "mask_predictor"):
            setattr(self, name, getattr(heads, name))
        self.keypoint_roi_pool = self.keypoint_head = self.keypoint_predictor = None
        size = heads.box_roi_pool.output_size[0]
        width = heads.box_head.fc7.out_features
        self.box_head = nn.ModuleList(TwoMLPHead(channels * size**2, width) for _ in OVERLAPS)
        self.box_predictor = nn.ModuleList(CascadePredictor(width, num_classes) for _ in OVERLAPS)
        self.matchers = [Matcher(overlap, overlap, allow_low_quality_matches=False) for overlap in OVERLAPS]
        self.coders = [BoxCoder(weights) for weights in WEIGHTS]
        self.box_coder = self.coders[-1]  # torchvision's postprocessing decodes the last stage's boxes by it

    def stage(self, number: int, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """One head's logits `[R, C + 1]` and corrections `[R, 4]` of all images' boxes, of what is pooled from them."""
        logits, corrections = self.box_predictor[number](self.box_head[number](pooled))
        return logits, corrections

    def refined(
        self, number: int, corrections: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        """A stage's boxes, corrected, within their images, and without a way back for gradients."""
        decoded = self.coders[number].decode(corrections.detach().float(), boxes)[:, 0]
        parts = decoded.split([of_image.shape[0] for of_image in boxes])  # `len` would be a constant of an export
        return [clip_boxes_to_image(part, size) for part, size in zip(parts, sizes, strict=True)]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Any = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """What is found: as torchvision's `RoIHeads` in eval mode."""
        boxes = proposals
        logits, corrections = self.stage(0, self.box_roi_pool(features, boxes, image_shapes))
        probabilities = logits.softmax(-1) / len(OVERLAPS)
        for number in range(1, len(OVERLAPS)):
            boxes = self.refined(number - 1, corrections, boxes, image_shapes)
            logits, corrections = self.stage(number, self.box_roi_pool(features, boxes, image_shapes))
            probabilities = probabilities + logits.softmax(-1) / len(OVERLAPS)
        # The softmax of logarithms of probabilities is the probabilities; one correction serves all classes.
        same = corrections.repeat(1, probabilities.shape[-1])
        found = self.postprocess_detections(probabilities.clamp(min=1e-30).log(), same, boxes, image_shapes)
        names = ("boxes", "scores", "labels")
        result: list[dict[str, Tensor]] = [
            dict(zip(names, of_image, strict=True)) for of_image in zip(*found, strict=True)
        ]
        if self.has_mask():
            pooled = self.mask_roi_pool(features, [one["boxes"] for one in result], image_shapes)
            logits = self.mask_predictor(self.mask_head(pooled))
            masks = maskrcnn_inference(logits, [one["labels"] for one in result])
            for one, of_image in zip(result, masks, strict=True):
                one["masks"] = of_image
        return result, {}
