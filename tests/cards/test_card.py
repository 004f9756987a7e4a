"""A card says what result.json says, and nothing else; it works as it stands."""

import copy
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from cards import CardError, build, render
from cards.__main__ import main
from cards.data import METRICS

RESULT = {
    "schema_version": 1,
    "task": "image-classification",
    "model": {
        "name": "resnest50",
        "architecture": "resnest50d",
        "pretrained": True,
        "pretrained_tag": "in1k",
        "base_model": "timm/resnest50d.in1k",
        "base_license": "apache-2.0",
        "parameters": 25_434_592,
        "image_size": 224,
    },
    "dataset": {
        "id": "ethz/food101",
        "hub": True,
        "config": "default",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "license": "cc-by-4.0",
        "classes": ["apple_pie", "baby back ribs", "crème brûlée", "1.5 l", "C++", "x"],
        "splits": {"train": 66281, "validation": 9469, "test": 25250},
        "held_out": {"validation": {"from": "train", "fraction": 0.125}},
        "excluded": {
            "undecodable": {"train": [{"row": 3, "reason": "OSError: truncated"}]},
            "unlabelled": {"train": 7},
        },
    },
    "metrics": {
        "validation": {
            "accuracy": 0.9106453,
            "top5_accuracy": 0.98,
            "macro_f1": 1 / 3,
            "balanced_accuracy": 0.9,
            "loss": 0.4,
        },
        "test": {
            "accuracy": 0.9017821782178218,
            "top5_accuracy": 0.99,
            "macro_f1": 2 / 3,
            "balanced_accuracy": 0.8999500000000001,
            "loss": 12.34567890123,
        },
    },
    "training": {
        "epochs": 10,
        "best_epoch": 9,
        "batch_size": 64,
        "seconds": 8123.456,
        "images_per_second": 81.594,
        "devices": 2,
        "precision": "bf16-mixed",
        "optimizer": "adamw",
        "lr": 5e-05,
        "drop_path": None,
    },
    "seed": 42,
    "environment": {"torch": "2.15.0", "timm": "1.0.31"},
}


def changed(**values):
    """RESULT with some keys changed; `dataset__id=...` reaches into a section."""
    result = copy.deepcopy(RESULT)
    for key, value in values.items():
        *sections, name = key.split("__")
        place = result
        for section in sections:
            place = place[section]
        place[name] = value
    return result


@pytest.fixture
def run_of(tmp_path):
    """A run folder that holds a result."""

    def make(result):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
        return tmp_path

    return make


def text_of(card):
    """The card's text without its YAML head."""
    return ModelCard(card).text


def tables(text):
    """Each table of the card, as rows of cells without escapes; a cell's escaped bars do not end it."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            found.append(rows)
            rows = []
    return found


def check_against(card, result):
    """Every number of the card is one of the result, as the result has it."""
    results, data, training = tables(text_of(card))
    test, validation = result["metrics"]["test"], result["metrics"]["validation"]
    names = [key for key in METRICS if key in test]
    assert results[0] == ["", "test", "validation"]
    assert results[2:] == [[METRICS[key][1], f"{test[key]:.4f}", f"{validation[key]:.4f}"] for key in names]
    counts = result["dataset"]["splits"]
    assert [row[:2] for row in data[2:]] == [[role, f"{count:,}"] for role, count in counts.items()]
    facts = {key.replace("_", " "): value for key, value in result["training"].items() if value is not None}
    facts |= {"seed": result["seed"], **result["environment"]}
    assert training[2:] == [[name, str(value)] for name, value in facts.items()]
    head = ModelCard(card).data
    assert {e.metric_name: e.metric_value for e in head.eval_results} == {METRICS[key][1]: test[key] for key in names}


# --- the YAML head ---------------------------------------------------------------------------------------------------


def test_the_head_says_what_the_hub_asks_for(run_of):
    path = build(run_of(RESULT))
    assert path == run_of(RESULT) / "model" / "README.md"
    card = ModelCard.load(path)
    head = card.data
    assert (head.library_name, head.pipeline_tag, head.license) == ("timm", "image-classification", "apache-2.0")
    assert head.base_model == "timm/resnest50d.in1k"
    assert head.datasets == ["ethz/food101"]
    assert set(head.tags) == {"image-classification", "timm", "transformers"}
    assert head.model_name == "resnest50d on ethz/food101"
    for entry in head.eval_results:
        assert (entry.task_type, entry.dataset_type, entry.dataset_name) == (
            "image-classification",
            *["ethz/food101"] * 2,
        )
        assert (entry.dataset_config, entry.dataset_split) == ("default", "test")
        assert entry.dataset_revision == RESULT["dataset"]["revision"]
    assert [(e.metric_type, e.metric_name, e.metric_value) for e in head.eval_results] == [
        ("accuracy", "Accuracy", 0.9017821782178218),
        ("accuracy", "Top-5 accuracy", 0.99),
        ("f1", "Macro F1", 2 / 3),
        ("accuracy", "Balanced accuracy", 0.8999500000000001),
        ("loss", "Loss", 12.34567890123),
    ]


def test_the_head_is_plain_yaml_and_the_card_can_be_saved_again(run_of, tmp_path):
    path = build(run_of(RESULT))
    _, head, _ = path.read_text(encoding="utf-8").split("---\n", 2)
    assert list(yaml.safe_load(head)) == [
        "base_model",
        "datasets",
        "library_name",
        "license",
        "pipeline_tag",
        "tags",
        "model-index",
    ]
    card = ModelCard.load(path)
    card.save(tmp_path / "again.md")
    assert ModelCard.load(tmp_path / "again.md").data.to_dict() == card.data.to_dict()


@pytest.mark.parametrize(
    ("values", "absent", "present"),
    [
        (
            {"model__base_model": None, "model__pretrained": False},
            ["base_model:", "finetuned"],
            ["trained from scratch"],
        ),
        ({"model__base_model": None}, ["base_model:"], ["finetuned from pretrained weights"]),
        ({"model__base_license": None}, ["apache-2.0"], ["license: unknown", "No licence has been chosen for these"]),
        (
            {"dataset__hub": False, "dataset__id": "pets"},
            ["datasets:", "huggingface.co/datasets"],
            ["pets at 224 x 224"],
        ),
        ({"dataset__license": None}, ["cc-by-4.0"], ["The dataset states no licence."]),
        ({"dataset__config": None}, ["Configuration"], ["Revision: 0123456789abcdef"]),
        ({"dataset__revision": None}, ["Revision"], ["Configuration: default."]),
        ({"dataset__held_out": {}}, ["held out", "12.5%"], ["| validation | 9,469 | as in the dataset |"]),
        ({"dataset__excluded": {"undecodable": {}, "unlabelled": {}}}, ["Left out"], ["Classes: "]),
        ({"training__best_epoch": None}, ["best epoch"], ["| epochs | 10 |"]),
    ],
    ids=str,
)
def test_what_is_not_known_is_not_said(run_of, values, absent, present):
    card = render(run_of(changed(**values)))
    for text in absent:
        assert text not in card
    for text in present:
        assert text in card
    assert "None" not in card.replace("transform(image)[None]", "")
    assert not re.search(r"\n{3}", text_of(card))


def test_what_is_known_is_said(run_of):
    card = render(run_of(RESULT))
    for text in (
        "finetuned from timm/resnest50d.in1k on [ethz/food101](https://huggingface.co/datasets/ethz/food101)",
        "at 224 x 224 pixels",
        "The weights that this model started from are under apache-2.0.",
        "The dataset's card says cc-by-4.0.",
        "Left out: 1 images that do not decode, 7 without a label.",
        "| train | 66,281 | what was not held out |",
        "| validation | 9,469 | 12.5% of train, held out by class |",
        "| test | 25,250 | as in the dataset |",
        "(25,434,592 parameters)",
    ):
        assert text in card


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"dataset__classes": ["a", "b"], "metrics__test": {"accuracy": 1.0, "loss": 0.0}},
        {"training__lr": 1e-07, "training__warmup_epochs": 0.5, "seed": 0},
    ],
    ids=str,
)
def test_every_number_is_that_of_the_result(run_of, values):
    result = changed(**values)
    check_against(render(run_of(result)), result)


def test_the_text_holds_no_number_that_the_result_does_not_hold(run_of):
    """Outside the code, which is the same on every card."""
    text = re.sub(r"```.*?```", "", text_of(render(run_of(RESULT))), flags=re.DOTALL)
    plain = {"12.5", "1", "7", "6", "32", "5", "1.5", str(RESULT["dataset"]["revision"])}  # "float32", "Top-5", "F1"

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for part in value.values() for leaf in leaves(part)]
        return [value]

    numbers = [leaf for leaf in leaves(RESULT) if isinstance(leaf, int | float) and not isinstance(leaf, bool)]
    allowed = plain | {form for n in numbers for form in (str(n), f"{n:,}", f"{n:.4f}")}
    text = text.replace(RESULT["dataset"]["revision"], "")
    for name in ("resnest50d", "in1k", "food101", "2.15.0", "1.0.31", "cc-by-4.0", "apache-2.0", "bf16", "adamw"):
        text = text.replace(name, "")
    found = re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)
    assert len(found) > 30
    assert set(found) <= allowed


def test_a_real_run(digits_run):
    result = json.loads((digits_run / "result.json").read_text())
    card = (digits_run / "model" / "README.md").read_text(encoding="utf-8")
    assert card == render(digits_run)
    check_against(card, result)
    head = ModelCard.load(digits_run / "model" / "README.md").data
    assert {e.metric_value for e in head.eval_results} == set(result["metrics"]["test"].values())
    assert "trained from scratch on digits at 32 x 32 pixels" in card
    assert head.datasets is None
    assert head.base_model is None
    assert "The dataset's card says cc-by-4.0." in card


# --- text from outside -----------------------------------------------------------------------------------------------

EVIL = [
    "a|b",
    "two\nlines",
    "cr\r\nlf\u2028sep",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{# gone #}",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "&lt;b&gt; &amp;",
    "[x](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "<http://evil.example>",
    "---",
    "\n---\nlicense: mit\n---\n",
    "**bold** __also__ ~~gone~~",
    "`code` ```fence",
    "back\\slash \\| \\",
    "# heading",
    "- item",
    "1. first",
    "> quote",
    "$math$",
    "'single' \"double\"",
    "a: b # c",
    "*",
    "100%",
    "日本 größe",
]


class Page(HTMLParser):
    """Text of each element that matters, and every tag."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.links, self.text, self.cells = [], [], {}, []
        self.open = []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "tr":
            self.cells.append(0)
        if tag in ("td", "th"):
            self.cells[-1] += 1
        if tag in ("h1", "p", "td"):
            self.text.setdefault(tag, []).append("")
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]][-1] += data


def page_of(card):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return Page(markdown.render(text_of(card)))


def one_line(text):
    return " ".join(text.split())


def test_names_of_classes_are_shown_as_they_are_and_change_nothing_else(run_of):
    """A reader of the rendered page sees the very names, and the page has the form of one with harmless names."""
    harmless = page_of(render(run_of(changed(dataset__classes=["name"] * len(EVIL)))))
    card = render(run_of(changed(dataset__classes=EVIL)))
    page = page_of(card)
    assert f"Classes: {', '.join(map(one_line, EVIL))}." in [one_line(text) for text in page.text["p"]]
    assert (page.tags, page.cells, page.links) == (harmless.tags, harmless.cells, harmless.links)
    assert ModelCard(card).data.to_dict() == ModelCard(render(run_of(RESULT))).data.to_dict()
    assert "49" not in "".join(page.text["p"])


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("key", ["dataset__id", "dataset__config", "dataset__license"])
def test_text_of_the_dataset_changes_neither_the_form_of_the_page_nor_the_head(run_of, key, text):
    harmless = page_of(render(run_of(changed(dataset__hub=False, **{key: "name"}))))
    card = render(run_of(changed(dataset__hub=False, **{key: text})))
    page = page_of(card)
    assert (page.tags, page.cells, page.links) == (harmless.tags, harmless.cells, harmless.links)
    assert any(one_line(text) in one_line(shown) for shown in page.text["p"])
    head = ModelCard(card).data
    assert head.license == "apache-2.0"
    for entry in head.eval_results:
        name = {"dataset__id": entry.dataset_name, "dataset__config": entry.dataset_config}.get(key, text)
        assert name == text
    if key == "dataset__id":
        assert page.text["h1"] == [f"resnest50d on {one_line(text)}"]


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize(
    "key", ["model__base_model", "model__base_license", "dataset__revision", "model__architecture"]
)
def test_text_of_the_model_changes_neither_the_form_of_the_page_nor_the_head(run_of, key, text):
    """The base model's card is somebody else's too."""
    harmless = page_of(render(run_of(changed(**{key: "name"}))))
    card = render(run_of(changed(**{key: text})))
    page = page_of(card)
    assert (page.tags, page.cells, page.links) == (harmless.tags, harmless.cells, harmless.links)
    assert any(one_line(text) in one_line(shown) for shown in page.text["p"])
    assert ModelCard(card).data.datasets == ["ethz/food101"]


@pytest.mark.parametrize("text", EVIL)
def test_text_of_the_training_and_of_split_names_stays_in_its_cell(run_of, text):
    result = changed(training__optimizer=text, environment={"package": text})
    result["dataset"]["held_out"]["validation"]["from"] = text
    harmless = changed(training__optimizer="x", environment={"package": "x"})
    page, plain = page_of(render(run_of(result))), page_of(render(run_of(harmless)))
    assert (page.tags, page.cells, page.links) == (plain.tags, plain.cells, plain.links)
    cells = [one_line(cell) for cell in page.text["td"]]
    assert cells.count(one_line(text)) == 2
    assert f"12.5% of {one_line(text)}, held out by class" in cells


def test_an_id_on_the_hub_is_quoted_in_its_address(run_of):
    card = render(run_of(changed(dataset__id="owner/a b)c[d")))
    assert "(https://huggingface.co/datasets/owner/a%20b%29c%5Bd)" in card


# --- the code --------------------------------------------------------------------------------------------------------

STRANGER = """
import sys
for path in sys.argv[1:]:
    print("==")
    exec(compile(open(path).read(), path, "exec"), {})
print("==")
print(sorted({"resnest_timm", "finetune", "cards"} & set(sys.modules)))
"""


def test_the_code_runs_as_it_stands(digits_run, tmp_path):
    """In the model's folder, by somebody who has timm and transformers, and nothing of ours."""
    blocks = re.findall(r"```python\n(.*?)```", (digits_run / "model" / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.py").write_text(block)
    guard = str(Path(os.environ["PYTHONPATH"].split(os.pathsep)[0]))
    before = sorted(path.name for path in (digits_run / "model").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, tmp_path / "0.py", tmp_path / "1.py"],
        cwd=digits_run / "model",
        env={**os.environ, "PYTHONPATH": guard, "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, timms, transformers, ours = done.stdout.split("==\n")
    assert re.fullmatch(r"(0\.\d{3} \d\n){5}", timms)
    assert timms.splitlines()[0].split()[1] == transformers.strip()  # both see the same digit in the black image
    assert ours == "[]\n"
    assert sorted(path.name for path in (digits_run / "model").iterdir()) == before


def test_the_code_is_the_same_on_every_card(run_of, digits_run):
    code = [
        re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        for card in (render(run_of(RESULT)), render(run_of(changed(dataset__classes=EVIL))), render(digits_run))
    ]
    assert code[0] == code[1] == code[2]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no complete run: expected .*result.json; give the folder that `finetune --output` made"),
        (json.dumps(RESULT | {"schema_version": 2}), "result.json: expected schema version 1, got 2"),
        ("{}", "result.json: expected schema version 1, got None"),
        ('{"schema_version": 1', "result.json is not JSON: "),
    ],
)
def test_a_run_that_is_not_complete_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "model").mkdir()
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(CardError, match=message):
        build(tmp_path)
    assert main(["build", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.match(rf"error: .*{message}", captured.err)
    assert len(captured.err.splitlines()) == 1
    assert list((tmp_path / "model").iterdir()) == []


def test_a_run_without_a_model_is_refused(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    with pytest.raises(CardError, match=f"{tmp_path} holds no exported model: expected {tmp_path}/model"):
        build(tmp_path)


def test_the_command_line_builds_and_refuses(cli, run_of, tmp_path):
    done = cli("cards", "build", run_of(RESULT))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/model/README.md\n", "")
    assert (tmp_path / "model" / "README.md").read_text(encoding="utf-8") == render(tmp_path)
    failed = cli("cards", "build", tmp_path / "model")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith(f"error: {tmp_path}/model holds no complete run")


def test_building_again_replaces_the_card_and_leaves_nothing_else(run_of):
    build(run_of(RESULT))
    path = build(run_of(changed(seed=7)))
    assert "| seed | 7 |" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_keys_of_a_later_version_are_passed_over(run_of):
    result = changed(calibration={"temperature": 1.5}, dataset__more=1, model__more=[1], dataset__excluded__more={})
    for split in ("test", "validation"):
        result["metrics"][split] = {"expected_calibration_error": 0.0123} | result["metrics"][split]
    result["metrics"]["train"] = {"accuracy": 0.999}
    assert render(run_of(result)) == render(run_of(RESULT))
