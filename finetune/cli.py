"""argv -> RunConfig -> run; the only reader of sys.argv and the only place that turns errors into exit codes."""

from __future__ import annotations

import dataclasses
import errno
import functools
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro import _errors as tyro_errors

from finetune import console
from finetune.errors import ConfigError, FinetuneError, suggest
from finetune.imagenet.options import PrepareOptions
from finetune.runs import runfolder
from finetune.settings import help, recipe, trust_verbs
from finetune.settings.config import RunConfig
from finetune.settings.data_verbs import DATA_VERBS
from finetune.settings.options import GROUPS, NONE, RESUME_AUTO, RunOptions, flag
from finetune.settings.verbs import DemoOptions, EvaluateOptions, ExportOptions, PredictOptions
from finetune.text import visible

T = TypeVar("T")

PROG = "python -m finetune"

ELSEWHERE = {
    "--gpus": "--devices",
    "--num-gpus": "--devices",
    "--device": "--accelerator",
    "--learning-rate": "--lr",
    "--max-lr": "--lr",
    "--wd": "--weight-decay",
    "--num-epochs": "--epochs",
    "--num-train-epochs": "--epochs",
    "--max-epochs": "--epochs",
    "--bs": "--batch-size",
    "--per-device-train-batch-size": "--device-batch-size",
    "--img-size": "--image-size",
    "--imgsz": "--image-size",
    "--input-size": "--image-size",
    "--data": "--dataset",
    "--data-dir": "--dataset",
    "--dataset-name": "--dataset",
    "--data-path": "--dataset",
    "--model-name": "--model",
    "--model-name-or-path": "--model",
    "--arch": "--model",
    "--opt": "--optimizer",
    "--output-dir": "--output",
    "--out-dir": "--output",
    "--smoothing": "--label-smoothing",
    "--num-workers": "--workers",
    "--dataloader-num-workers": "--workers",
    "--resume-from-checkpoint": "--resume",
    "--checkpoint": "--resume",
    "--fp16": "--precision",
    "--bf16": "--precision",
    "--amp": "--precision",
    "--push-to-hub": "--publish",
    "--label-column-name": "--target-column",
    "--image-column-name": "--image-column",
    "--class-weights": "--imbalance",
}
"""What other tools call our flags."""

# Where the parser says which type a value should have had, and the value.
_WRONG_TYPE = (
    r"no type matching (\S+) could be instantiated from \[(.*?)\]",
    r"invalid literal for (int)\(\) with base 10: (.*)",
    r"could not convert string to (float): (.*)",
)


@dataclass(frozen=True, kw_only=True)
class _RunFlags(RunOptions):
    """The run."""

    config: Annotated[Path | None, NONE] = None
    """YAML file of flags (a run's config.yaml, for instance); the command line wins over it."""
    recipe: Annotated[str | None, NONE] = None
    """Published settings for --model, as ResNeSt's authors had them: imagenet, from scratch; coco, detectors; ade20k,
    DeepLabV3 on its masks; as far as flags can say what they did. Other flags win over it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` when not given.

    Returns:
        Exit code: 0 done, 2 the user's mistake or a full disk, 75 stopped by a signal after saving, 130 by Ctrl-C where
        there was nothing to save, 141 where nobody reads the output any more. Anything else is a bug of ours and
        raises.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["--version"], ["-V"]):
        print(f"resnest-timm {_version()}")
        return 0
    try:
        verb, arguments = _split_verb(argv)
        VERBS[verb](arguments)
    except FinetuneError as error:
        if console.is_main_process() or not error.shared:
            text = visible(console.without_tokens(str(error)), keep="\n")
            print(f"error: {text}" if error.exit_code == 2 else text, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno == errno.EPIPE and console.nobody_reads():
            return 128 + signal.SIGPIPE
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error}: free some space, then repeat the command or go on with --resume", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the training, which catches it itself
        print("stopped; nothing was saved", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _version() -> str:
    """Of the package, without importing it and torch with it."""
    try:
        return metadata.version("resnest-timm")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _split_verb(argv: list[str]) -> tuple[str, list[str]]:
    if not argv or argv[0].startswith("-"):
        return "train", argv
    if argv[0] in VERBS:
        return argv[0], argv[1:]
    raise ConfigError(
        f"expected one of {', '.join(VERBS)} or a flag first, got {argv[0]!r}{suggest(argv[0], VERBS)}; "
        f"see {PROG} --help"
    )


def train(argv: Sequence[str]) -> None:
    """`python -m finetune [train] ...`."""
    config = parse_train(argv)
    console.set_up(sys.stdout)
    # Here and in the other verbs: Hub clients, which read what `set_up` sets, are imported only once the flags are
    # right; torch and friends only once the names are.
    from finetune.commands import start

    begun = start.begin(config)
    from finetune.commands.train import run

    run(config, begun)


def evaluate(argv: Sequence[str]) -> None:
    """`python -m finetune evaluate RUN|MODEL ...`."""
    options = parse(EvaluateOptions, argv, prog=f"{PROG} evaluate")
    options.check()
    console.set_up(sys.stderr if options.json else sys.stdout)
    from finetune.commands import start

    start.check_evaluation(options)
    console.log.info(f"evaluating {options.model}: loading torch and Lightning")
    from finetune.commands import evaluate as evaluate_flow
    from finetune.evaluation import evaluation

    evaluation.report(evaluate_flow.evaluate(options), as_json=options.json)


def predict(argv: Sequence[str]) -> None:
    """`python -m finetune predict RUN|MODEL|FILE PATHS ...`."""
    options = parse(PredictOptions, argv, prog=f"{PROG} predict")
    options.check()
    console.set_up(sys.stderr)
    from finetune.commands import start

    start.check_prediction(options)
    from finetune.commands import predict as predict_flow

    predict_flow.write(options)


def export(argv: Sequence[str]) -> None:
    """`python -m finetune export RUN|MODEL ...`."""
    options = parse(ExportOptions, argv, prog=f"{PROG} export")
    options.check()
    console.set_up(sys.stdout)
    from finetune.networks import model_names

    model_names.locate(options.model)
    from finetune.commands import export as export_flow

    export_flow.export(options)


def demo(argv: Sequence[str]) -> None:
    """`python -m finetune demo RUN|MODEL ...`."""
    options = parse(DemoOptions, argv, prog=f"{PROG} demo")
    options.check()
    console.set_up(sys.stdout)
    from finetune.commands import demo as page

    page.demo(options)


def prepare_imagenet(argv: Sequence[str]) -> None:
    """`python -m finetune prepare-imagenet --tars DIR --output DIR ...`."""
    options = parse(PrepareOptions, argv, prog=f"{PROG} prepare-imagenet")
    options.check()
    console.set_up(sys.stdout)
    from finetune.imagenet import checksums
    from finetune.imagenet.prepare import prepare

    sums = checksums.read(options.checksums) if options.checksums else checksums.OFFICIAL
    prepare(
        options.tars,
        options.output,
        processes=options.processes,
        shard_size=options.shard_size,
        sums=sums if options.verify else None,
    )


def trust(verb: str, argv: Sequence[str]) -> None:
    """`python -m finetune VERB ...` of those in `finetune/commands/trust`."""
    options: Any = parse(_TRUST[verb], argv, prog=f"{PROG} {verb}")
    options.check()
    console.set_up(sys.stderr if options.json else sys.stdout)
    from finetune.commands.trust import ahead

    ahead.go(verb, options)


_TRUST = DATA_VERBS | trust_verbs.VERBS
VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "demo": demo,
    "prepare-imagenet": prepare_imagenet,
    **{verb: functools.partial(trust, verb) for verb in _TRUST},
}


def parse_train(argv: Sequence[str]) -> RunConfig:
    """Flags of `train`, after those of the file that `--config` or `--resume` names.

    Raises:
        ConfigError: An unknown flag, a value of the wrong type or out of range, or a file that cannot be read.
    """
    argv = own = list(argv)
    groups = GROUPS | {"run": _RunFlags}
    flat: Any = tyro.conf.OmitArgPrefixes  # --lr, not --training.lr
    fields = [(name, flat[group], field(default_factory=group)) for name, group in groups.items()]
    flags: type[Any] = make_dataclass("Flags", fields, frozen=True)
    flags.__doc__ = (
        "Finetune an image model: from a dataset's name to a model that stock timm and transformers load.\n\n"
        f"Verbs: {', '.join(VERBS)} (the default is train); `{PROG} VERB --help` describes each. `{PROG} -h` is "
        "shorter, with examples."
    )
    if "-h" in argv:
        print(help.short(PROG, groups, list(VERBS)))
        raise SystemExit(0)
    given = parse(flags, argv, prog=PROG)
    run_flags = given.run
    auto = run_flags.resume == RESUME_AUTO
    if sum(1 for source in (run_flags.config, not auto and run_flags.resume, run_flags.recipe) if source) > 1:
        raise ConfigError(
            "--config, --recipe and --resume exclude each other: each brings flags of its own; --resume takes those of "
            "the run's config.yaml"
        )
    if run_flags.recipe:
        size = given.training.batch_size
        argv = [*_as_arguments(recipe.settings(run_flags.recipe, given.model.model, size), run_flags.recipe), *argv]
    elif path := run_flags.config or (None if auto else _config_of(run_flags.resume)):
        argv = [*_file_arguments(path), *argv]
    config = _config(parse(flags, argv, prog=PROG), groups).resolved()
    if auto and (run := _unfinished(config)):
        argv = [*_file_arguments(run / "config.yaml"), *own, f"--output={run}"]
        config = _config(parse(flags, argv, prog=PROG), groups).resolved()
    return config


def _config(given: Any, groups: Mapping[str, Any]) -> RunConfig:
    values: dict[str, Any] = {}
    for name in groups:
        part = getattr(given, name)
        values |= {
            f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name not in ("config", "recipe")
        }
    return RunConfig(**values)


def _unfinished(config: RunConfig) -> Path | None:
    """The folder that `--resume auto` goes on with: its config.yaml has what was inferred when it began."""
    found = runfolder.find(config)
    return found.path if found else None


def _config_of(run: Path | None) -> Path | None:
    if run is not None and not (run / "config.yaml").is_file():
        raise ConfigError(f"--resume: {run} holds no run (no config.yaml): give the folder that --output made")
    return run and run / "config.yaml"


def _file_arguments(path: Path) -> list[str]:
    """A YAML file's settings as arguments, so that they are parsed and checked like those."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the path of a YAML file of flags") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected lines of `flag: value`, got {type(settings).__name__}")
    if "random_erasing" in settings and "probe_images" not in settings:  # a run of before there was a probe
        settings = {"head_init": "timm", "batch_norm": "trained", "probe_images": 0} | settings
    return _as_arguments(settings, str(path))


def _as_arguments(settings: Mapping[Any, Any], path: str) -> list[str]:
    """Settings as arguments; `path` names them in errors."""
    known = [f.name for group in GROUPS.values() for f in dataclasses.fields(group)]
    arguments = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{path}: unknown setting {key!r}{suggest(name, known)}")
        switch = isinstance(getattr(RunConfig(), name), bool)
        if value is None:
            continue
        if isinstance(value, list | dict) or (switch and not isinstance(value, bool)):
            expected = "true or false" if switch else "a single value"
            raise ConfigError(f"{path}: {key} must be {expected}, got {value!r}")
        if switch:
            arguments.append(flag(name) if value else f"--no-{flag(name)[2:]}")
        else:
            arguments.append(f"{flag(name)}={value}")  # one argument, for a value may begin with a dash
    return arguments


def parse(kind: type[T], argv: Sequence[str], prog: str) -> T:
    """Parse flags derived from a dataclass.

    Raises:
        ConfigError: Instead of the parser's own box, in one line.
    """
    with tyro_errors.on_parse_error(functools.partial(_raise_config_error, _flags_of(kind))):
        try:
            return tyro.cli(kind, args=argv, prog=prog, config=(tyro.conf.DisallowNone,))
        except SystemExit as stop:
            if stop.code:
                raise ConfigError(f"the flags cannot be understood; see {prog} --help") from stop
            raise


def _flags_of(kind: type) -> list[str]:
    """The flags of a dataclass, and of the groups in it."""
    fields: list[Any] = list(dataclasses.fields(kind))
    groups = [f.default_factory for f in fields if dataclasses.is_dataclass(f.default_factory)]
    return [flag(f.name) for group in groups for f in dataclasses.fields(group)] or [flag(f.name) for f in fields]


def _raise_config_error(known: Sequence[str], event: tyro_errors.ParseErrorEvent) -> None:
    """Say a parse error in one line; an event that is not known here falls through to the parser's own words."""
    help_hint = f"; see {event.prog} --help"
    match event:
        case tyro_errors.UnrecognizedArgs(tokens=tokens):
            unknown = next((t for t in tokens if t.startswith("-")), tokens[0])
            if not unknown.startswith("-"):
                raise ConfigError(f"expected only flags and their values, got {unknown!r} besides{help_hint}")
            name = unknown.split("=")[0].replace("_", "-")
            ours = ELSEWHERE.get(name)
            near = f": here it is {ours}" if ours in known else suggest(name, known)
            raise ConfigError(f"unknown flag {unknown}{near or help_hint}")
        case tyro_errors.MissingArgs(missing_arguments=missing):
            names = ", ".join(a.arg.display_name() for a in missing)
            raise ConfigError(f"{names} must be given{help_hint}")
        case tyro_errors.InvalidChoice(argument=argument, value=value, choices=choices):
            named = sorted({*choices} - {"None"}) if "None" in choices else choices  # which come in no order there
            raise ConfigError(f"{argument.display_name()} must be one of {', '.join(named)}, got {value!r}")
        case tyro_errors.BadValue(argument=argument):
            raise ConfigError(f"{argument.display_name()} needs a value{help_hint}")
        case tyro_errors.InstantiationFailure(argument=argument, message=message):
            name = argument.display_name() if argument else "a flag"
            message = " ".join(message.split())
            found = next((f for pattern in _WRONG_TYPE if (f := re.search(pattern, message))), None)
            problem = f"must be {found[1].upper()}, got {found[2]}" if found else f"is wrong: {message}"
            raise ConfigError(f"{name} {problem}{help_hint}")
