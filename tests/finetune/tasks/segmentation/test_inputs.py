"""Image and mask change together, batches are what a network and its evaluation take, and the same on every machine."""

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from finetune.data import dataset
from finetune.data.beside.meaning import Meaning
from finetune.errors import LostImageError
from finetune.loading.randomness import seed_augmentation
from finetune.tasks.segmentation.datamodule import MaskDataModule
from finetune.tasks.segmentation.inputs import MaskInputs, fitted, read, read_lazily
from finetune.tasks.segmentation.masks import VOID
from finetune.tasks.segmentation.schema import READING
from tests.finetune.tasks.segmentation import drawn

CLASSES = np.array([(20, 20, 20), (230, 40, 40), (40, 230, 40), (40, 40, 230)], dtype=np.uint8)
MEANING = Meaning("index", (0, 1, 2, 3), (0, 1, 2, 3))


def blocks(height, width, side, seed=0):
    """A map of squares of four classes, and the picture that shows them."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 4, (-(-height // side), -(-width // side)), dtype=np.uint8)
    mask = small.repeat(side, 0).repeat(side, 1)[:height, :width]
    return CLASSES[mask], mask


def shown(pixels):
    """The class whose colour is nearest, `[H, W]` of `[3, H, W]`."""
    return np.abs(pixels.numpy().astype(np.int16)[None] - CLASSES[..., None, None]).sum(1).argmin(0)


def agreement(classes, mask, right=0, down=0):
    """Share of the pixels whose colour is that of their class, with the mask shifted."""
    moved = np.roll(mask.numpy(), (down, right), (0, 1))[4:-4, 4:-4]
    inside = moved != VOID
    return (classes[4:-4, 4:-4][inside] == moved[inside]).mean()


def crops(inputs, content, mask, count=20):
    target = {"mask": {"bytes": drawn.encoded(mask), "path": None}}
    for seed in range(count):
        seed_augmentation(seed)
        yield inputs.training(read_lazily({"bytes": content, "path": None}), target)


EXIF = PILImage.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    ("height", "width", "side", "form", "options"),
    [
        (60, 90, 15, "PNG", {}),
        (400, 600, 75, "PNG", {}),
        (401, 607, 75, "JPEG", {"quality": 95}),
        (1203, 1607, 200, "JPEG", {"quality": 95}),  # decoded at a fraction of its size
        (401, 607, 75, "JPEG", {"quality": 95, "exif": EXIF.tobytes()}),
    ],
)
def test_the_mask_stays_on_the_image(height, width, side, form, options):
    picture, mask = blocks(height, width, side)
    inputs = MaskInputs("mask", MEANING, 64, hflip=0.5)
    shifted = {place: 0.0 for place in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]}
    for pixels, cut in crops(inputs, drawn.encoded(picture, form, **options), mask):
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 64, 64))
        assert (cut.dtype, cut.shape) == (torch.uint8, (64, 64))
        outside = cut == VOID
        assert outside.float().mean() < 0.8
        assert (pixels.permute(1, 2, 0)[outside] == torch.tensor([124, 116, 104])).all()
        classes = shown(pixels)
        for place in shifted:
            shifted[place] += agreement(classes, cut, *place) / 20
    assert shifted[0, 0] > 0.93
    assert max(shifted, key=lambda place: shifted[place]) == (0, 0)
    left, right = shifted[1, 0], shifted[-1, 0]
    up, down = shifted[0, 1], shifted[0, -1]
    assert abs(left - right) < 0.03  # as much on either side: not by half a pixel
    assert abs(up - down) < 0.03


def test_a_crop_of_nothing_but_void_is_drawn_again():
    picture, mask = blocks(300, 300, 20)
    mask[60:], mask[:, 60:] = VOID, VOID
    inputs = MaskInputs("mask", MEANING, 32, scale=(2.0, 2.0))
    useful = [bool((cut != VOID).any()) for _, cut in crops(inputs, drawn.encoded(picture), mask, 40)]
    assert sum(useful) > 24  # at the first try 6
    mask[:] = VOID  # which is found in the scan; here it must end
    assert all((cut == VOID).all() for _, cut in crops(inputs, drawn.encoded(picture), mask, 2))


def test_colours_change_the_image_alone():
    picture, mask = blocks(64, 64, 16)
    plain = next(crops(MaskInputs("mask", MEANING, 64, scale=None, hflip=0.0), drawn.encoded(picture), mask))
    changed = next(
        crops(MaskInputs("mask", MEANING, 64, scale=None, hflip=0.0, color_jitter=0.4), drawn.encoded(picture), mask)
    )
    assert torch.equal(plain[0], torch.from_numpy(picture).permute(2, 0, 1))
    assert torch.equal(plain[1], torch.from_numpy(mask))
    assert torch.equal(changed[1], plain[1])
    assert not torch.equal(changed[0], plain[0])


@pytest.mark.parametrize(
    ("size", "width", "height", "expected"),
    [(64, 64, 64, (64, 64)), (64, 640, 480, (64, 96)), (50, 100, 200, (128, 64)), (32, 5000, 10, (32, 256))],
)
def test_evaluation_keeps_the_aspect_ratio_and_the_mask(size, width, height, expected):
    image = PILImage.new("RGB", (width, height), (10, 20, 30))
    pixels = fitted(image, size)
    assert pixels.dtype == torch.uint8
    assert tuple(pixels.shape[1:]) == expected
    assert (pixels == torch.tensor([10, 20, 30])[:, None, None]).all()
    _, mask = blocks(height, width, 7)
    target = {"mask": {"bytes": drawn.encoded(mask), "path": None}}
    _, found = MaskInputs("mask", MEANING, size).evaluation(image, target)
    assert torch.equal(found, torch.from_numpy(mask))


def test_evaluation_of_what_exif_turns():
    picture, mask = blocks(400, 600, 50)
    content = drawn.encoded(picture, "JPEG", quality=95, exif=EXIF.tobytes())
    inputs = MaskInputs("mask", MEANING, 400)
    for lies in (mask, np.rot90(mask, -1)):
        target = {"mask": {"bytes": drawn.encoded(np.ascontiguousarray(lies)), "path": None}}
        pixels, found = inputs.evaluation(read({"bytes": content, "path": None}), target)
        assert (tuple(pixels.shape), tuple(found.shape)) == ((3, 608, 416), (600, 400))
        assert torch.equal(found, torch.from_numpy(np.rot90(mask, -1).copy()))
        sized = torch.nn.functional.interpolate(found[None, None], (608, 416), mode="nearest-exact")[0, 0]
        assert agreement(shown(pixels), sized) > 0.97


def test_a_mask_that_has_changed_is_an_error():
    inputs = MaskInputs("mask", MEANING, 32)
    target = {"mask": {"bytes": drawn.encoded(np.zeros((5, 7), np.uint8)), "path": None}}
    with pytest.raises(ValueError, match="the mask is 7 x 5 pixels, and its image 8 x 8: expected one size"):
        inputs.evaluation(PILImage.new("RGB", (8, 8)), target)


# --- loaders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ready():
    return dataset.prepare(drawn.in_memory(drawn.scenes(30, void=True), names=drawn.NAMES[3]), READING)


def module(ready, **options):
    return MaskDataModule(ready, **{"image_size": 32, "batch_size": 6, "workers": 0} | options)


def test_batches_of_training_are_tensors(ready):
    images = module(ready)
    assert (images.classes, images.num_classes) == (drawn.NAMES[3], 3)
    for pixels, targets in images.train_dataloader():
        assert (pixels.dtype, tuple(pixels.shape[1:])) == (torch.uint8, (3, 32, 32))
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert (targets.dtype, tuple(targets.shape)) == (torch.uint8, (len(pixels), 32, 32))
        assert set(targets.unique().tolist()) <= {0, 1, 2, VOID}


def test_batches_of_evaluation_are_lists_of_whole_images(ready):
    images = module(ready, batch_size=2)
    found = []
    for pixels, targets in images.val_dataloader():
        assert isinstance(pixels, list)
        assert isinstance(targets, list)
        found += zip(pixels, targets, strict=True)
    rows = ready.splits.parts["validation"].rows.tolist()
    assert len(found) == len(rows)
    for row, (pixels, mask) in zip(rows, found, strict=True):
        expected = drawn.scenes(30, void=True)[row][1]
        assert np.array_equal(mask.numpy(), expected)
        assert min(pixels.shape[1:]) == 32
        assert all(side % 32 == 0 for side in pixels.shape[1:])


def test_samples_do_not_depend_on_workers(ready):
    def epoch(workers):
        return [
            (pixels.clone(), targets.clone()) for pixels, targets in module(ready, workers=workers).train_dataloader()
        ]

    for (one, first), (two, second) in zip(epoch(0), epoch(1), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(first, second)


class Net(L.LightningModule):
    """What is given to it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)
        self.seen = []

    def training_step(self, batch, _):
        pixels, targets = batch
        assert pixels.dtype == torch.float32
        return torch.nn.functional.cross_entropy(self.layer(pixels), targets.long(), ignore_index=VOID)

    def validation_step(self, batch, _):
        self.seen += [(image, self.layer(image[None]).shape, mask.shape) for image, mask in zip(*batch, strict=True)]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_normalises_both_kinds(ready):
    net, images = Net(), module(ready, workers=1)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(net, images)
    assert len(net.seen) == len(ready.splits.parts["validation"].rows)
    for image, shape, mask in net.seen:
        assert image.dtype == torch.float32
        assert image.min() < 0
        assert shape[2:] == image.shape[1:]
        assert mask in ((32, 48), (40, 36))


def test_a_dataset_is_opened_by_its_name(tmp_path):
    root = drawn.folder(tmp_path / "data", drawn.scenes(12), "images/{}", "masks/{}", drawn.NAMES[3])
    images = MaskDataModule(str(root), image_size=32, batch_size=4, workers=0, max_samples=9)
    assert images.classes == drawn.NAMES[3]
    assert sum(images.data.splits.counts().values()) == 9


@pytest.mark.parametrize("role", ["train", "test"])
def test_a_mask_that_vanishes_after_it_was_counted_is_named(role, tmp_path):
    root = drawn.folder(tmp_path / "data", drawn.scenes(12), "images/{}", "masks/{}", drawn.NAMES[3])
    images = MaskDataModule(str(root), image_size=32, batch_size=4, workers=0)
    row = int(images.data.splits.parts[role].rows[0])
    (root / f"masks/{row:03}.png").unlink()
    message = rf"^row {row} of split 'train' decoded when .*{row:03}.png'\): bring the file back"
    with pytest.raises(LostImageError, match=message):
        list(images.train_dataloader() if role == "train" else images.test_dataloader())
