"""Which forms there are, by the names that `export --format` takes, and which one a file has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from finetune.errors import ConfigError, FinetuneError, ModelError
from finetune.export import onnx, openvino
from finetune.export.network import Network, Precision


@dataclass(frozen=True)
class Format:
    """A form of a model.

    Attributes:
        name: As `--format` takes it; also the project's extra that brings the packages.
        file: What it is called in a run's model/.
        weights: Where weights are that are not in the file itself, of its path.
        library: Runs it, as people write it.
        runs: Package that runs it.
        writes: Packages that write it.
        save: Writes it, with metadata and an example of the input.
        load: Opens it, in a precision, with so many threads, best for batches of a size.
    """

    name: str
    file: str
    weights: Callable[[Path], Path]
    library: str
    runs: str
    writes: tuple[str, ...]
    save: Callable[[nn.Module, Path, Mapping[str, str], Tensor], None]
    load: Callable[[Path, Precision, int | None, int | None], Network]

    def check_installed(self, packages: tuple[str, ...]) -> None:
        """Raise where one of its packages is missing.

        Raises:
            ConfigError: Names the extra.
        """
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(f"{', '.join(missing)}: not installed; pip install 'resnest-timm[{self.name}]'")

    def open(
        self, path: Path, precision: Precision = "32", threads: int | None = None, batch_size: int | None = None
    ) -> Network:
        """Read a file.

        Raises:
            ConfigError: The library is not installed, or does not compute in this precision.
            ModelError: It is not there, or the library cannot run it.
        """
        if not path.is_file():
            raise ModelError(f"no such file: {path}; `{self.command}` writes it")
        self.check_installed((self.runs,))
        try:
            return self.load(path, precision, threads, batch_size)
        except FinetuneError:
            raise
        except Exception as error:  # the libraries' classes have no public base
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]  # before it, where in its source
            raise ModelError(
                f"{self.library} cannot run {path}: {last[:300]}; expected it as `{self.command}` has written it, with "
                f"{self.weights(path).name} beside it where that was written, too"
            ) from error

    def parts(self, path: Path) -> list[Path]:
        """A file and that with its weights, where it has one."""
        return [path, *([weights] if (weights := self.weights(path)).is_file() else [])]

    @property
    def command(self) -> str:
        """What writes such a file."""
        return f"python -m finetune export RUN --format {self.name}"


_FORMATS = (
    Format(
        name="onnx",
        file="model.onnx",
        weights=lambda path: path.with_name(f"{path.name}.data"),
        library="onnxruntime",
        runs="onnxruntime",
        writes=("onnx", "onnxscript"),
        save=onnx.save,
        load=onnx.load,
    ),
    Format(
        name="openvino",
        file="model.xml",
        weights=lambda path: path.with_suffix(".bin"),
        library="OpenVINO",
        runs="openvino",
        writes=(),
        save=openvino.save,
        load=openvino.load,
    ),
)


def named(name: str) -> Format:
    """The form that `--format` calls so."""
    return next(form for form in _FORMATS if form.name == name)


def of_file(model: str | Path) -> Format | None:
    """The form of what a user calls a model, by the end of its name; None of a folder and of any other name."""
    path = Path(model).expanduser()
    return next((form for form in _FORMATS if path.suffix == Path(form.file).suffix and not path.is_dir()), None)
