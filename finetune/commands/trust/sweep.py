"""`python -m finetune sweep`: a search over settings on validation, whose winner alone is tested against the preset."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from finetune.commands import train
from finetune.commands.trust import compare
from finetune.console import log
from finetune.data.dataset import LabelledImages
from finetune.errors import ConfigError, FinetuneError
from finetune.loading import choose
from finetune.networks import models
from finetune.runs.runfolder import RunFolder, write_text
from finetune.settings import durations, of_tasks
from finetune.settings.config import RunConfig
from finetune.settings.trust_verbs import CompareOptions, SweepOptions
from finetune.task import Score, Task
from finetune.tasks import registry

if TYPE_CHECKING:
    import optuna

TENTHS = 10
"""Of a training, after each of which a trial may be stopped."""
SPARED = 4
"""Tenths before which no trial is stopped: a high rate, which may win, is behind at first. With 2, half of ten trials
on 3,068 photographs of clothes ended there, one of them with the winner's settings at 0.85 times its rate."""
PRESET, STRONG, GENTLE = "as given", "strong", "gentle"
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    PRESET: {},
    STRONG: {"crop_scale": 0.2, "auto_augment": "rand-m6-n2", "random_erasing": 0.1},
    GENTLE: {"crop_scale": 0.7},
}


def sweep(options: SweepOptions) -> dict[str, Any]:
    """Search, and test the winner.

    Returns:
        JSON values: `trials`, of each `trial`, `state`, `score`, `settings`, `seconds`, `why`; `by`; `winner` and
        `preset`, two of them; `images`, on which was chosen; `test`, what `compare` says of the winner against the
        preset; and where all lies.

    Raises:
        ConfigError: Optuna is missing, or the settings make no sense.
        FinetuneError: The preset cannot be trained.
    """
    options.check()
    config = _config(options)
    folder = _folder(options)
    data = choose.load(config, registry.reader(config.task))
    task = registry.get(data.schema.task)
    config = of_tasks.settle(config, task.name, task.preset(config), task.refused)
    config = config.for_images(data.splits.counts()["train"])
    if config.image_size is None:
        config = config.inferring({"image_size": _own_size(task, config, data)})
    found = _Search(options, config, task, data, folder).run()
    write_text(folder / "sweep.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return found


def write(options: SweepOptions) -> None:
    """Search, and print a table or JSON."""
    found = sweep(options)
    if options.json:
        print(json.dumps(found))
        return
    for line in lines(found):
        log.info(line)


def _config(options: SweepOptions) -> RunConfig:
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(RunConfig)}
    return RunConfig(**fields | {"output": None, "devices": "1"}).resolved()


def _folder(options: SweepOptions) -> Path:
    dataset, model = (Path(str(name)).name for name in (options.dataset, options.model))
    folder = (options.output or Path("sweeps") / f"{dataset}-{model}").expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _own_size(task: Task, config: RunConfig, data: LabelledImages) -> int:
    """The side of the model's input where none is given; sizes are searched around it."""
    return int(models.data_config(task.network(config, data.schema, False))["input_size"][-1])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("sweep searches with Optuna: pip install 'resnest-timm[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


# --- what is searched ---


def space(config: RunConfig) -> dict[str, Sequence[Any]]:
    """Choices by name, the preset's own first; of the learning rate the two ends.

    Args:
        config: With lr, epochs and image size.
    """
    assert config.lr is not None
    assert config.epochs is not None
    assert config.image_size is not None
    sides = [round(config.image_size * factor / 32) * 32 for factor in (0.75, 1.25)]
    return {
        "lr": (config.lr / 8, config.lr * 8),
        "epochs": _distinct(config.epochs, max(1, config.epochs // 2), config.epochs * 2),
        "layer_decay": _distinct(config.layer_decay, None, 0.65, 0.8),
        "image_size": _distinct(config.image_size, *(side for side in sides if side >= 32)),
        "augmentation": list(AUGMENTATIONS),
    }


def _distinct(*values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def preset(config: RunConfig) -> dict[str, Any]:
    """Trial 0, as a point of `space`."""
    names = ("lr", "epochs", "layer_decay", "image_size")
    return {name: getattr(config, name) for name in names} | {"augmentation": PRESET}


def settings(config: RunConfig, point: Mapping[str, Any]) -> RunConfig:
    """The settings of a trial.

    Args:
        config: The preset.
        point: Of `space`.
    """
    changed = {name: value for name, value in point.items() if name != "augmentation"}
    changed |= AUGMENTATIONS[point["augmentation"]]
    if "warmup_epochs" in config.inferred and point["epochs"] != config.epochs:
        changed["warmup_epochs"] = None  # which goes with the epochs
    return dataclasses.replace(config, **changed).resolved()


class _Watch(L.Callback):
    """Tells Optuna of a training, a tenth at a time, and stops it where that falls behind or time is over."""

    def __init__(self, trial: optuna.Trial, of: Score, deadline: float | None, may_stop: bool) -> None:
        self.trial, self.of, self.deadline, self.may_stop = trial, of, deadline, may_stop
        self.reported = 0
        self.why: str | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After each epoch."""
        if trainer.state.fn != TrainerFn.FITTING or not trainer.max_epochs:
            return
        module: Any = pl_module
        tenth = TENTHS * (trainer.current_epoch + 1) // trainer.max_epochs
        if tenth == self.reported or tenth == TENTHS:
            return
        self.reported = tenth
        self.trial.report(module.exact[self.of.key], tenth)
        if not self.may_stop:
            return
        if self.trial.should_prune():
            self.why = f"behind the others after {tenth} of {TENTHS} parts"
        elif self.deadline is not None and time.monotonic() > self.deadline:
            self.why = "time is over"
        trainer.should_stop = trainer.should_stop or self.why is not None


@dataclass
class _Search:
    options: SweepOptions
    config: RunConfig
    task: Task
    data: LabelledImages
    folder: Path

    def run(self) -> dict[str, Any]:
        optuna, of = _optuna(), self.task.ranking[0]
        deadline = time.monotonic() + durations.seconds(self.options.budget) if self.options.budget else None
        study = self._study(optuna)
        while len(study.trials) < self.options.trials or _waiting(study):
            if deadline is not None and time.monotonic() > deadline and len(study.trials) > 0:
                log.info(f"--budget {self.options.budget} is over after {_done(study)} trials")
                break
            self._trial(optuna, study, of, deadline)
        return self._finish(study, of)

    def _study(self, optuna: Any) -> Any:
        """The one in the folder, or a new one; trials that a kill has cut short are made again."""
        higher = self.task.ranking[0].higher
        study = optuna.create_study(
            storage=f"sqlite:///{self.folder / 'study.db'}",
            study_name="sweep",
            direction="maximize" if higher else "minimize",
            sampler=optuna.samplers.TPESampler(seed=self.config.seed, n_startup_trials=5),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=SPARED),
            load_if_exists=True,
        )
        known = study.user_attrs.get("preset")
        wanted = json.loads(json.dumps(preset(self.config)))
        if known is not None and known != wanted:
            raise ConfigError(
                f"{self.folder} holds a sweep around {known}, and these flags give {wanted}: give the same flags, or "
                "another --output"
            )
        study.set_user_attr("preset", wanted)
        if not study.trials:
            study.enqueue_trial(preset(self.config))
        for one in study.trials:
            if one.state == optuna.trial.TrialState.RUNNING:
                study.tell(one.number, state=optuna.trial.TrialState.FAIL)
                study.enqueue_trial(one.params)
        return study

    def _trial(self, optuna: Any, study: Any, of: Score, deadline: float | None) -> None:
        trial = study.ask()
        point = _suggested(trial, space(self.config))
        folder = self._of(trial.number)
        shutil.rmtree(folder.path, ignore_errors=True)
        # Trial 0 is what all are compared with: it is never stopped.
        first = point == preset(self.config)
        watch, begun, states = _Watch(trial, of, deadline, not first), time.monotonic(), optuna.trial.TrialState
        log.info(f"trial {trial.number}: {_shown(point)}")
        value: float | None = None
        try:
            scores = train.trial(settings(self.config, point), self.task, self.data, folder, watch)
            value, state, why = scores[of.key], states.PRUNED if watch.why else states.COMPLETE, watch.why
        except FinetuneError as error:
            if first or error.exit_code != 2:  # of a signal, for instance
                raise
            state, why = states.FAIL, " ".join(str(error).split())[:200]
        trial.set_user_attr("seconds", round(time.monotonic() - begun, 1))
        trial.set_user_attr("why", why)
        trial.set_user_attr("score", value)
        study.tell(trial, value if state == states.COMPLETE else None, state=state)
        log.info(
            f"trial {trial.number}: {state.name.lower()}, validation {of.title} {value}{f', {why}' if why else ''}"
        )

    def _of(self, number: int) -> RunFolder:
        return RunFolder(self.folder / "trials" / str(number))

    def _finish(self, study: Any, of: Score) -> dict[str, Any]:
        """Choose by validation, and only then test."""
        done = [one for one in study.trials if one.state.name == "COMPLETE"]
        sign = 1 if of.higher else -1
        winner = max(done, key=lambda one: (sign * one.value, -one.number))  # of equals the earliest
        base = next(one for one in done if one.params == preset(self.config))
        found = {
            "by": f"validation {of.title}",
            "folder": str(self.folder),
            "trials": [_entry(one) for one in study.trials if one.state.is_finished()],
            "winner": winner.number,
            "preset": base.number,
            "images": self.data.splits.counts()["validation"],
            "test": None,
        }
        for number in sorted({winner.number, base.number}):
            run = self._of(number)
            if not run.complete:
                log.info(f"trial {number}: testing")
                train.run(dataclasses.replace(settings(self.config, study.trials[number].params), resume=run.path))
        if winner.number != base.number:
            pair = tuple(str(self._of(number).path) for number in (base.number, winner.number))
            found["test"] = compare.compare(CompareOptions(models=pair)).found
        return found


def _waiting(study: Any) -> bool:
    return any(one.state.name == "WAITING" for one in study.trials)


def _done(study: Any) -> int:
    return sum(one.state.is_finished() for one in study.trials)


def _suggested(trial: optuna.Trial, choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    point: dict[str, Any] = {"lr": trial.suggest_float("lr", *choices["lr"], log=True)}
    for name, values in choices.items():
        if name != "lr":
            point[name] = trial.suggest_categorical(name, values)
    return point


def _entry(one: Any) -> dict[str, Any]:
    return {
        "trial": one.number,
        "state": {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed"}[one.state.name],
        "score": one.user_attrs.get("score"),
        "settings": one.params,
        "seconds": one.user_attrs.get("seconds"),
        "why": one.user_attrs.get("why"),
    }


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {f'{value:.3g}' if isinstance(value, float) else value}" for name, value in point.items())


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The table for a terminal: every trial, and what the winner has over the preset."""
    yield f"{'trial':>5}  {'state':8}{found['by']:>22}{'seconds':>10}  settings"
    for one in found["trials"]:
        score = "" if one["score"] is None else f"{one['score']:.4f}"
        mark = "*" if one["trial"] == found["winner"] else " "
        why = f" ({one['why']})" if one["why"] else ""
        taken = f"{one['seconds'] or 0:>10.1f}"
        yield f"{one['trial']:>5}{mark} {one['state']:8}{score:>22}{taken}  {_shown(one['settings'])}{why}"
    if found["test"] is None:
        yield "no trial is better than trial 0, the preset, on validation"
    else:
        (comparison,) = found["test"]["comparisons"]
        key, first = next(iter(comparison["metrics"].items()))
        scores = {one["trial"]: one["score"] for one in found["trials"]}
        ahead = scores[found["winner"]] - scores[found["preset"]]
        yield f"trial {found['winner']} was chosen for {ahead:+.4f} on {found['images']} validation images"
        low, high = first["interval"]
        yield (
            f"on {found['test']['images']} test images trial {found['winner']} against trial 0: {key} "
            f"{first['difference']:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]: {first['verdict']}"
        )
    yield f"winner: {Path(found['folder']) / 'trials' / str(found['winner'])}"
