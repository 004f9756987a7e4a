"""The forms besides timm's in which a model can be kept: written, checked, and run again from the file alone."""

from finetune.export.formats import Format, named, of_file

__all__ = ["Format", "named", "of_file"]
