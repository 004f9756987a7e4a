"""The verbs of this folder: what can be wrong with names first, before torch and the data are there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from finetune.data import places
from finetune.networks import model_names
from finetune.settings.data_verbs import DatasetFlags
from finetune.tasks import registry


def check(options: DatasetFlags) -> None:
    """Raise where there is no such dataset, task or model; the Hub is not asked.

    Raises:
        FinetuneError: It says which.
    """
    registry.reader(options.task)
    named = getattr(options, "model", None)
    for model in (named,) if isinstance(named, str) else named or ():
        model_names.check_name(model_names.locate(model))
    places.check(options.dataset)


def go(verb: str, options: Any) -> None:
    """Do what a verb does, and report it.

    Raises:
        FinetuneError: A mistake that the user can mend; or something serious was found.
    """
    of_data = isinstance(options, DatasetFlags)
    if of_data:
        check(options)
    flow: Any = import_module(f"finetune.commands.trust.{verb}")  # torch and Lightning come with it
    if of_data:
        flow.report(getattr(flow, verb)(options), options)
    else:
        flow.write(options)
