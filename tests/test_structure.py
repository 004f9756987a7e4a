"""How the packages hang together, what they are pinned to, and that the tests have no network."""

import ast
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("resnest_timm", "finetune", "cards")


def modules(package, root=ROOT):
    """Name and path of every module of a package."""
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path):
    """Every module that a file imports, wherever in it: `a.b` and, for `from a import b`, `a.b` too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def imported_packages(path):
    return {name.split(".")[0] for name in imports(path)}


def test_the_reader_of_imports_sees_every_form(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import a.b as c\ndef f():\n    from d import e\n    import_module('g.h')\nif x:\n    import i, j\n"
    )
    assert imports(path) == {"a.b", "d", "d.e", "g.h", "i", "j"}


@pytest.mark.parametrize(
    ("package", "allowed"), [("resnest_timm", set()), ("cards", set()), ("finetune", {"resnest_timm", "cards"})]
)
def test_imports_point_one_way(package, allowed):
    found = list(modules(package))
    assert len(found) > 2
    for name, path in found:
        others = imported_packages(path) & set(PACKAGES) - {package}
        assert others <= allowed, name
        assert not imported_packages(path) & {"tests", "benchmarks"}, name


def test_finetune_uses_both_others():
    used = set().union(*(imported_packages(path) for _, path in modules("finetune")))
    assert set(PACKAGES) <= used


def _modules_under(names, paths):
    """The modules that a list of imports loads, with the packages above them: `a.b.c` loads `a` and `a.b`."""
    for name in names:
        parts = name.split(".")
        yield from (module for n in range(1, len(parts) + 1) if (module := ".".join(parts[:n])) in paths)


def _wing(name):
    """The wing of `finetune` that a module is in; the floor below all wings is ``."""
    part = name.removeprefix("finetune").lstrip(".").split(".")[0]
    return "cli" if part in ("", "__main__", "cli") else part if part in WINGS else ""


def upward(package, order, wing, root=ROOT):
    """Imports against the order: `a -> b`, where b stands above a."""
    paths = dict(modules(package, root))
    place = {name: rank for rank, name in enumerate(order)}
    return [
        f"{name} -> {other}"
        for name, path in paths.items()
        for other in sorted(set(_modules_under(imports(path), paths)) - {package})
        if place[wing(other)] < place[wing(name)]
    ]


WINGS = {
    "cli": "argv -> settings -> a command",
    "commands": "one file a verb",
    "tasks": "one folder a task",
    "serving": "a model that answers",
    "training": "Lightning's Trainer and its hooks",
    "export": "a trained model -> files for strangers",
    "evaluation": "predictions -> how good, how sure",
    "networks": "name -> network",
    "loading": "rows -> batches",
    "runs": "the run folder",
    "imagenet": "prepare-imagenet",
    "data": "name -> rows",
    "settings": "every flag",
    "": "console, errors, task: the floor that all stand on",
}
"""From top to bottom: a wing imports from those below it, never from those above."""


def test_no_import_runs_up_between_wings():
    assert upward("finetune", list(WINGS), _wing) == []


def test_an_import_that_runs_up_is_named(tmp_path):
    for path, text in {
        "finetune/__init__.py": "",
        "finetune/data/__init__.py": "",
        "finetune/data/rows.py": "def f():\n    from finetune.commands import train",
        "finetune/commands/__init__.py": "",
        "finetune/commands/train.py": "from finetune.data import rows",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = upward("finetune", list(WINGS), _wing, tmp_path)
    assert "finetune.data.rows -> finetune.commands.train" in found
    assert not any(line.startswith("finetune.commands") for line in found)


def test_every_folder_is_a_wing_and_every_wing_a_folder():
    folders = {path.name for path in (ROOT / "finetune").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(WINGS) - {"cli", ""}


MOST_FILES, MOST_LINES = 16, 400


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_stay_small(package):
    files = [path for _, path in modules(package)]
    assert {path: n for path in files if (n := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES} == {}
    folders = {path.parent for path in files}
    assert {folder: n for folder in folders if (n := len(list(folder.glob("*.py")))) > MOST_FILES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_wings_say_what_they_are_for_and_import_nothing(package):
    """One sentence; what a wing re-exported, every import of one of its modules would pay for."""
    for path in (ROOT / package).rglob("*/__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.parent.parent.name == package:
            assert "\n\n" not in (ast.get_docstring(tree) or "").strip(), path
        assert len(tree.body) == 1, f"{path} has code: name it for what it does, in a file of its own"


def test_config_stops_at_the_door():
    """Models, tasks, data and transforms take plain arguments, and so work in anybody's Trainer."""
    inner = ("finetune.tasks", "finetune.training.callbacks", "finetune.loading", "finetune.networks", "finetune.data")
    tasks = ("classification", "detection", "multi_label", "regression", "segmentation")
    learning = tuple(f"finetune.tasks.{task}.learning" for task in tasks)
    doors = ("finetune.loading.choose", "finetune.tasks.one_layer", *learning)
    found = [(name, path) for name, path in modules("finetune") if name.startswith(inner) and name not in doors]
    assert len(found) > 40
    for name, path in found:
        known = {f"finetune.settings.{module}" for module in ("config", "options", "checks")} & imports(path)
        assert not known, name


def test_the_data_module_and_what_learns_do_not_know_each_other():
    by_name = {name: imports(path) for name, path in modules("finetune")}
    assert not {"finetune.networks.models", "timm.create_model"} & by_name["finetune.loading.datamodule"]
    learners = [name for name, path in modules("finetune") if _defines(path, ("LightningModule", "TaskModule"))]
    assert len(learners) >= 2
    data = {f"finetune.{module}" for module in ("loading.datamodule", "data.dataset", "data.source")}
    for name in learners:
        assert not data & by_name[name], name


def _defines(path, bases):
    """Whether a file defines a subclass of one of these."""
    classes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef))
    return any(getattr(base, "id", getattr(base, "attr", "")) in bases for node in classes for base in node.bases)


def test_no_module_reads_the_trainers_data_module():
    """Nothing flows back: who needs to know of the data is told."""
    for name, path in modules("finetune"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Attribute) and node.attr == "datamodule"), name


TASK_NAMES = (
    "image-classification",
    "multi-label-classification",
    "image-regression",
    "semantic-segmentation",
    "object-detection",
    "instance-segmentation",
)


def task_comparisons(text):
    """Lines of a module's text that compare, match or look up a task's name."""
    found = []
    for node in ast.walk(ast.parse(text)):
        inside = []
        if isinstance(node, ast.Compare):
            inside = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            inside = [node.value]
        elif isinstance(node, ast.Subscript):
            inside = [node.slice]
        elif isinstance(node, ast.Dict):
            inside = [key for key in node.keys if key is not None]
        values = [leaf.value for one in inside for leaf in ast.walk(one) if isinstance(leaf, ast.Constant)]
        if set(values) & set(TASK_NAMES):
            found.append(node.lineno)
    return found


def test_nothing_asks_which_task_it_is():
    """Outside `finetune/tasks/` and the table of `cards` what differs between tasks stands behind finetune/task.py."""
    asked = {
        name: lines
        for package in ("finetune", "resnest_timm")
        for name, path in modules(package)
        if not name.startswith("finetune.tasks") and (lines := task_comparisons(path.read_text(encoding="utf-8")))
    }
    assert asked == {}


@pytest.mark.parametrize(
    "text",
    [
        "if task == 'semantic-segmentation': pass",
        "x = task in ('image-regression', 'y')",
        "match task:\n    case 'object-detection': pass",
        "x = {'image-classification': 1}[task]",
    ],
)
def test_a_comparison_of_a_tasks_name_is_found(text):
    assert task_comparisons(text)


def test_the_interface_of_tasks_imports_nothing_of_ours_and_no_torch():
    code = "import finetune.task, sys; print({'torch', 'lightning', 'timm', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert not {name for name in imports(ROOT / "finetune/task.py") if name.startswith(PACKAGES)}


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_command_line_reads_the_arguments(package):
    readers = {name for name, path in modules(package) if "sys.argv" in path.read_text(encoding="utf-8")}
    assert readers <= {"finetune.cli", f"{package}.__main__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_for(package):
    for name, path in modules(package):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name


def test_light_modules_stay_light():
    """Flags, errors and cards must not wait for torch."""
    code = "import sys, {}; print('torch' in sys.modules or 'timm' in sys.modules)"
    for names in ("finetune.settings.config, finetune.cli, finetune.errors, finetune.console", "cards, cards.__main__"):
        done = subprocess.run([sys.executable, "-c", code.format(names)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False", names


def test_constraints_are_versions_alone():
    """No address of a registry, no hash, no range: such lines work behind any mirror."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = []
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.+!]*)", line)
        assert match, line
        names.append(match[1].lower().replace("_", "-"))
    assert len(names) == len(set(names)) > 30
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = re.findall(r'^    "([a-zA-Z0-9_-]+)[>\[=]', project, re.MULTILINE)
    assert {"torch", "timm", "pytest"} <= set(pinned)
    assert {name.lower().replace("_", "-") for name in pinned if not name.startswith("resnest")} <= set(names)


# --- the guard of tests/no_network -----------------------------------------------------------------------------------


@pytest.fixture
def network_log():
    """The record of refused connections, taken away again so that it does not fail this test as it should others."""
    log = Path(os.environ["NETWORK_LOG"])
    yield log
    log.unlink(missing_ok=True)


REACHES = {
    "socket.socket().connect(('192.0.2.1', 80))": "192.0.2.1",
    "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))": "2001:db8::1",
    "socket.create_connection(('192.0.2.1', 80), timeout=1)": "192.0.2.1",
    "socket.getaddrinfo('host.example', 80)": "host.example",
    "urllib.request.urlopen('http://host.example/', timeout=1)": "host.example",
}


@pytest.mark.parametrize(("reach", "recorded"), REACHES.items())
def test_processes_that_tests_start_are_refused_and_recorded(network_log, reach, recorded):
    code = f"import socket, urllib.request; {reach}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the tests have no network" in done.stderr
    assert recorded in network_log.read_text()


def test_a_refusal_that_is_swallowed_is_recorded_all_the_same(network_log):
    code = "import socket\ntry:\n    socket.socket().connect_ex(('192.0.2.1', 80))\nexcept OSError:\n    pass"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    assert "192.0.2.1" in network_log.read_text()


@pytest.mark.skipif("pytest_socket" in sys.modules, reason="pytest-socket, not ours, lifts our guard after every test")
def test_the_process_of_the_tests_is_refused_and_recorded_too(network_log):
    with socket.socket() as client, pytest.raises(OSError, match="the tests have no network"):
        client.connect(("192.0.2.1", 80))
    assert "192.0.2.1" in network_log.read_text()


def test_names_are_not_even_looked_up(network_log):
    with pytest.raises(OSError, match="the tests have no network"):
        socket.getaddrinfo("host.example", 80)
    assert "host.example" in network_log.read_text()


def test_loopback_is_open(network_log):
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5):
                pass
    assert not network_log.exists()
