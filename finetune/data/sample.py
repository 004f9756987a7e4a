"""The offline sample: scikit-learn's handwritten digits."""

from __future__ import annotations

from datasets import ClassLabel, Dataset, Features, Image

from finetune.errors import DatasetError


def digits() -> Dataset:
    """1,797 real handwritten digits, 8x8 grey pixels, with columns `image` and `label` (10 classes).

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
    (CC BY 4.0), as packaged by scikit-learn.

    Raises:
        DatasetError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DatasetError("the digits sample comes with scikit-learn: pip install 'resnest-timm[demo]'") from error
    from PIL import Image as PILImage

    sample = load_digits()
    pixels = (sample.images * (255 / 16)).round().astype("uint8")  # 0 to 16 -> 0 to 255
    columns = {"image": [PILImage.fromarray(p) for p in pixels], "label": sample.target.tolist()}
    names = [str(name) for name in sample.target_names]
    return Dataset.from_dict(columns, features=Features(image=Image(), label=ClassLabel(names=names)))
