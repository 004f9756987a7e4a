"""The task and the data module under Lightning's own command line; needs `pip install 'resnest-timm[lightning-cli]'`.

python examples/lightning_cli.py fit --config examples/lightning_cli.yaml
python examples/lightning_cli.py test --config examples/lightning_cli.yaml --ckpt_path CHECKPOINT
"""

from __future__ import annotations

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from finetune import ImageClassificationTask, ImageDataModule


class CLI(LightningCLI):
    """Nothing is said twice: the number of classes is the dataset's."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the task the classes of the data module, once that has been made."""
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")


if __name__ == "__main__":
    CLI(ImageClassificationTask, ImageDataModule)
