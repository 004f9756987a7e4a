"""Patches of colours on grey noise, several an image or none: classes that can be seen."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List
from PIL import Image as PILImage

COLOURS = ("blue", "green", "red")
SETTINGS = (
    "--model test_efficientnet --no-pretrained --image-size 32 --epochs 4 --batch-size 16 --lr 3e-3 --hflip 0 "
    "--accelerator cpu --workers 0"
)


def picture(shown, rng):
    """Grey noise with a patch of each colour that is shown, somewhere."""
    pixels = rng.integers(90, 160, (32, 32, 3), dtype=np.uint8)
    for colour in shown:
        y, x = rng.integers(0, 22, 2)
        patch = np.full(3, 30, dtype=np.uint8)
        patch[2 - colour] = 230
        pixels[y : y + 10, x : x + 10] = patch
    return PILImage.fromarray(pixels)


def rows(count, seed, names=COLOURS):
    """Images of none to three colours; every 20th has no label."""
    rng = np.random.default_rng(seed)
    found = [np.flatnonzero(rng.random(3) < (0.5, 0.4, 0.3)).tolist() for _ in range(count)]
    features = Features({"image": Image(), "colours_tags": List(ClassLabel(names=list(names)))})
    labels = [None if n % 20 == 19 else [names.index(COLOURS[c]) for c in of] for n, of in enumerate(found)]
    pictures = [picture(of, rng) for of in found]
    return Dataset.from_dict({"image": pictures, "colours_tags": labels}, features=features)
