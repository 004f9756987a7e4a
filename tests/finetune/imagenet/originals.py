"""Tars of ImageNet's true structure, small, and open to every change before they are written."""

import hashlib
import io
import tarfile
import time

import numpy as np
import scipy.io
from PIL import Image as PILImage

from finetune.imagenet.workers import advance

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"

# WordNet id, ILSVRC2012_ID and words: neither the ids' order nor the list's is that of the other.
CLASSES = [
    ("n03126707", 3, "crane"),
    ("n01440764", 7, "tench, Tinca tinca"),
    ("n02012849", 12, "crane"),
    ("n02119789", 1, "kit fox, Vulpes macrotis"),
    ("n03710721", 5, "maillot, tank suit"),
    ("n03710637", 6, "maillot"),
    ("n01443537", 2, "goldfish, Carassius auratus"),
    ("n04370456", 4, "sweatshirt"),
    ("n07753592", 8, "banana"),
    ("n02123045", 9, "tabby, tabby cat"),
    ("n04557648", 11, "water bottle"),
    ("n01514668", 10, "cock"),
]
# What the ids above must become.
ORDER = sorted(wordnet_id for wordnet_id, _, _ in CLASSES)


def jpeg(number, side=24):
    """A small JPEG of noise that depends on `number`."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + number % 7, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_bytes(members, mode="w"):
    """A tar of pairs: a name, or a TarInfo of any kind, and its bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    """A member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def meta_mat(rows):
    """meta.mat as the devkit has it: a struct array `synsets` of N x 1."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    synsets = np.empty((len(rows), 1), dtype=[(field, object) for field in fields])
    for index, row in enumerate(rows):
        synsets[index, 0] = row
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets})
    return buffer.getvalue()


class Originals:
    """What the three tars hold; change it, then `write`.

    Attributes:
        images: By WordNet id, pairs of name and bytes; one class has as many as its place in `CLASSES` plus `fewest`.
        validation: Pairs of name and bytes, not in the order of their numbers.
        truth: ILSVRC2012_ID of the validation images 1, 2, ...
        rows: Of meta.mat.
    """

    def __init__(self, fewest=3, validation=30):
        numbers = iter(range(10**6))
        self.images = {
            wordnet_id: [(f"{wordnet_id}_{7 * n + 1}.JPEG", jpeg(next(numbers))) for n in range(fewest + place)]
            for place, (wordnet_id, _, _) in enumerate(CLASSES)
        }
        self.validation = [(f"ILSVRC2012_val_{n:08}.JPEG", jpeg(next(numbers))) for n in [*range(2, validation + 1), 1]]
        self.truth = [CLASSES[(5 * n) % len(CLASSES)][1] for n in range(validation)]
        self.rows = [(float(i), w, words, f"gloss of {w}", 0.0, [], 0.0) for w, i, words in CLASSES]
        self.rows.append((float(len(CLASSES) + 1), "n00001740", "entity", "all", 2.0, [1.0, 2.0], 9.0))

    def train_members(self):
        """Pairs of name and bytes of the outer train tar."""
        return [(f"{wordnet_id}.tar", tar_bytes(images)) for wordnet_id, images in self.images.items()]

    def devkit_members(self):
        """Pairs of name and bytes of the devkit."""
        truth = "".join(f"{number}\n" for number in self.truth)
        folder = link("ILSVRC2012_devkit_t12", "", tarfile.DIRTYPE)
        return [
            (folder, b""),
            ("ILSVRC2012_devkit_t12/readme.txt", b"?"),
            (META, meta_mat(self.rows)),
            (TRUTH, truth.encode()),
        ]

    def write(self, folder, train=None, validation=None, devkit=None):
        """Write the tars, of other members where some are given."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRAIN).write_bytes(tar_bytes(self.train_members() if train is None else train))
        (folder / VALIDATION).write_bytes(tar_bytes(self.validation if validation is None else validation))
        (folder / DEVKIT).write_bytes(tar_bytes(self.devkit_members() if devkit is None else devkit, "w:gz"))
        return folder

    def expected_train(self):
        """By image name, bytes and class index."""
        return {
            name: (content, ORDER.index(wordnet_id))
            for wordnet_id, images in self.images.items()
            for name, content in images
        }

    def expected_validation(self):
        """Name, bytes and class index, by number."""
        ids = {number: wordnet_id for wordnet_id, number, _ in CLASSES}
        images = sorted(self.validation)
        return [(*image, ORDER.index(ids[number])) for image, number in zip(images, self.truth, strict=True)]


def md5sums(folder):
    """What md5sum says of the three tars."""
    names = (TRAIN, VALIDATION, DEVKIT)
    return "".join(f"{hashlib.md5((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def tree(folder):
    """By path, the bytes of every file in a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def long_call(seconds):
    """What a worker is at when it is told to stop: work that counts its progress."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        advance(1)
        time.sleep(0.01)
