"""A card says what result.json says, and nothing else."""

import copy
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard

import cards
from cards import CardError, build, render
from cards.__main__ import main
from cards.tasks import TASKS
from tests.cards.results import CLASSES, RESULT, changed, named, tables, text_of, without_code

# --- the YAML head ---------------------------------------------------------------------------------------------------


def test_the_head_says_what_the_hub_asks_for(run_of):
    path = build(run_of(RESULT))
    assert path == run_of(RESULT) / "model" / "README.md"
    head = ModelCard.load(path).data
    assert (head.library_name, head.pipeline_tag, head.license) == ("timm", "image-classification", "apache-2.0")
    assert (head.base_model, head.base_model_relation) == ("timm/resnest50d.in1k", "finetune")
    assert (head.datasets, head.metrics) == (["ethz/food101"], ["accuracy", "f1", "loss"])
    assert head.tags == ["image-classification", "timm", "transformers", "resnest"]
    assert head.model_name == "resnest50d on ethz/food101"
    for entry in head.eval_results:
        assert (entry.task_type, entry.dataset_type) == ("image-classification", "ethz/food101")
        assert (entry.dataset_name, entry.dataset_config) == ("ethz/food101", "default")
        assert (entry.dataset_split, entry.dataset_args) == ("holdout", None)
        assert entry.dataset_revision == RESULT["dataset"]["revision"]
    assert [(e.metric_type, e.metric_name, e.metric_value) for e in head.eval_results] == [
        ("accuracy", "Accuracy", 0.9017821782178218),
        ("accuracy", "Top-5 accuracy", 0.99),
        ("f1", "Macro F1", 2 / 3),
        ("accuracy", "Balanced accuracy", 0.8299500000000001),
        ("loss", "Loss", 12.34567890123),
    ]


def test_the_head_is_plain_yaml_and_the_card_can_be_saved_again(run_of, tmp_path):
    path = build(run_of(RESULT))
    _, head, _ = path.read_text(encoding="utf-8").split("---\n", 2)
    keys = ["base_model", "datasets", "library_name", "license", "metrics", "pipeline_tag", "tags", "model-index"]
    assert [key for key in yaml.safe_load(head) if key != "base_model_relation"] == keys
    card = ModelCard.load(path)
    card.save(tmp_path / "again.md")
    assert ModelCard.load(tmp_path / "again.md").data.to_dict() == card.data.to_dict()


def test_a_test_split_that_was_held_out_is_a_part_of_its_source(run_of):
    """Also in a run of an earlier version, which has no `sources`."""
    result = changed(dataset__held_out={"test": {"from": "training", "fraction": 0.2}})
    for sources, split in (({"test": "all"}, "all"), (None, "training")):
        result["dataset"]["sources"] = sources
        if sources is None:
            del result["dataset"]["sources"]
        for entry in ModelCard(render(run_of(result))).data.eval_results:
            assert (entry.dataset_split, entry.dataset_args) == (split, {"held_out": 0.2})
    del result["dataset"]["held_out"]["test"]
    assert ModelCard(render(run_of(result))).data.eval_results[0].dataset_split == "test"


def test_an_exported_file_is_a_tag_and_has_its_snippet(run_of):
    run = run_of(RESULT)
    assert "finetune export RUN --format onnx" in render(run)
    assert "With OpenVINO" not in render(run)
    (run / "model/model.onnx").touch()
    (run / "model/model.xml").touch()
    assert {"onnx", "openvino"} <= set(ModelCard(render(run)).data.tags)
    assert "finetune export" not in render(run)
    assert "With OpenVINO:" in render(run)


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        (None, {"license": "unknown"}),
        ("My Own Terms", {"license": "other", "license_name": "My Own Terms"}),
    ],
)
def test_what_is_no_id_of_a_licence_is_another(run_of, text, head):
    found = ModelCard(render(run_of(changed(model__base_license=text)))).data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == head


@pytest.mark.parametrize(
    ("values", "absent", "present"),
    [
        (
            {"model__base_model": None, "model__pretrained": False, "model__pretrained_tag": None},
            ["base_model", "finetuned"],
            ["trained from scratch"],
        ),
        ({"model__base_model": None}, ["base_model"], ["finetuned from resnest50.in1k"]),
        (
            {"model__base_model": None, "model__name": "local-dir:secret"},
            ["secret"],
            ["finetuned from pretrained weights"],
        ),
        ({"model__base_license": None}, ["apache-2.0"], ["license: unknown", "No licence has been chosen for these"]),
        (
            {"dataset__hub": False, "dataset__id": "pets"},
            ["datasets:", "huggingface.co/datasets"],
            ["pets at 224 x 224"],
        ),
        ({"dataset__license": None}, ["cc-by-4.0"], ["The dataset states no licence."]),
        ({"dataset__config": None}, ["Configuration"], ["Revision: 0123456789abcdef"]),
        ({"dataset__revision": None}, ["Revision"], ["Configuration: default."]),
        ({"dataset__held_out": {}}, ["held out", "12.5%"], ["| validation | 9,469 | train of the dataset |"]),
        ({"dataset__excluded": {"undecodable": {}, "unlabelled": {}}}, ["Left out"], ["Weak classes"]),
        ({"dataset__excluded__undecodable": {}}, ["decode"], ["images: 57 without a label."]),
        ({"dataset__max_samples": None}, ["a part of the dataset"], ["Left out"]),
        ({"training__best_epoch": None}, ["best epoch"], ["| epochs | 10 |"]),
        ({"training__planned_epochs": 10}, ["epochs planned"], ["| epochs | 10 |"]),
        ({"training__freeze": "none", "training__hflip": 0.0}, ["frozen", "flip"], ["| unequal classes | class"]),
        ({"model__weights": "averaged"}, [], ["on the weights in this folder, which are an average over the"]),
        ({"command": []}, ["This repeats it", "```sh"], ["Made with torch"]),
        ({"evaluation__figures": {}}, ["!["], ["### Calibration"]),
    ],
    ids=str,
)
def test_what_is_not_known_is_not_said(run_of, values, absent, present):
    card = render(run_of(changed(**values)))
    for text in absent:
        assert text not in card
    for text in present:
        assert text in card
    assert "None" not in without_code(card)
    assert not re.search(r"\n{3}", text_of(card))


def test_what_is_known_is_said(run_of):
    card = render(run_of(RESULT))
    for text in (
        "finetuned from timm/resnest50d.in1k on [ethz/food101](https://huggingface.co/datasets/ethz/food101)",
        "at 224 x 224 pixels",
        "**Test accuracy 0.9018** (95 % interval 0.8912 to 0.9471) on 25,250 images; always answering the most "
        "frequent training class would reach 0.8950.",
        "Intervals: percentile bootstrap over images, 2,000 resamples.",
        "The weights that this model started from are under apache-2.0.",
        "The dataset's card says cc-by-4.0.",
        "Left out of the dataset's images: 2 that do not decode and 57 without a label.",
        "| train | 66,281 | train without what was held out |",
        "| validation | 9,469 | 12.5% of train, held out by class |",
        "| test | 25,250 | holdout of the dataset |",
        "(25,434,592 parameters)",
        "python -m finetune --model resnest50 --dataset ethz/food101 --epochs 11 --lr 5e-05\n",
        "![Confusion matrix of the test images](figures/confusion.png)",
        "![Learning curves](figures/curves.png)",
        "![Reliability diagram: confidence against accuracy on the test images](figures/reliability.png)",
        "![Most confident mistakes on the test images](figures/mistakes.png)",
    ):
        assert text in card


@pytest.mark.parametrize(
    ("exported", "this"), [(4, "that of seed 4"), ("average", "the average of their weights")], ids=str
)
def test_the_seeds_are_one_line(run_of, exported, this):
    accuracies = {3: 0.8111, 4: 0.8222, 5: 0.8633}
    seeds = {
        "exported": exported,
        "chosen_by": "validation *accuracy*",
        "each": [{"seed": seed, "test": {"accuracy": value}} for seed, value in accuracies.items()],
        "mean": {"test": {"accuracy": 0.8322}},
        "sd": {"test": {"accuracy": 0.0275}},
    }
    average = {"model__weights": "averaged over seeds"} if exported == "average" else {}
    card = render(run_of(changed(evaluation__seeds=seeds, **average)))
    assert ("The weights are an average over seeds; nothing was chosen" in card) == (exported == "average")
    assert (
        "nothing was chosen on the test split. 3 trainings that differ in their seed alone have a mean test accuracy "
        "of 0.8322 with a standard deviation of 0.0275: 0.8111 (seed 3), 0.8222 (seed 4), 0.8633 (seed 5). This model "
        f"is {this}, chosen on validation (validation \\*accuracy\\*). Intervals: percentile"
    ) in card


def test_figures_that_are_not_there_are_not_shown(run_of):
    run = run_of(RESULT, figures=False)
    assert "![" not in render(run)
    (run / "model/figures/curves.png").touch()
    assert render(run).count("![") == 1
    (run / "model/figures/x).png").touch()
    assert render(run_of(changed(evaluation__figures={"curves": "figures/x).png"}), figures=False)).count("![") == 0


def test_a_run_of_an_earlier_version_has_a_card_too(run_of):
    """Before there was an evaluation, figures, a certificate, and much else."""
    result = copy.deepcopy(RESULT)
    for key in ("evaluation", "command"):
        del result[key]
    for key in ("sources", "class_counts", "imbalance_ratio", "max_samples"):
        del result["dataset"][key]
    del result["model"]["weights"]
    result["training"] = {key: result["training"][key] for key in ("epochs", "best_epoch", "lr", "precision")}
    card = render(run_of(result))
    assert "| | test | validation |" in card
    assert "**Test accuracy 0.9018** on 25,250 images." in card
    assert f"Classes: {', '.join(CLASSES)}.".replace("_", r"\_") in card
    assert "| test | 25,250 | as in the dataset |" in card
    assert "calibrated" not in card.lower()
    assert "None" not in without_code(card)
    assert not re.search(r"\n{3}", card)


# --- numbers ---------------------------------------------------------------------------------------------------------

METRICS = TASKS["image-classification"].metrics
FIXED = {"95", "32", "5", "1", "10", "256"}
"""Of the text: float32, Top-5, F1, SHA-256, fewer than 10 test images; the level is tested by itself."""
NOT_SHOWN = (
    "schema_version",
    "dataset.class_counts",
    "dataset.excluded",  # as sums, tested by themselves
    "evaluation.confusion",
    "evaluation.mistakes",
    "evaluation.per_class.test.*.predicted",
    "evaluation.intervals.seed",
)


def leaves(value, path=()):
    """Path and number of each number of a JSON value."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]
    if isinstance(value, list):
        return [leaf for i, part in enumerate(value) for leaf in leaves(part, (*path, str(i)))]
    return [(".".join(path), value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def forms(value):
    """How a card may print a number."""
    found = {str(value), f"{value:,}", f"{value:.4f}", f"{value:g}"}
    if isinstance(value, float):
        found |= {f"{100 * value:g}", f"{value:.3f}"} | ({f"{value:,.0f}"} if value >= 1000 else set())
    return found


def numbers(card):
    """Of the text, without code, names and versions."""
    text = without_code(text_of(card))
    names = (RESULT["dataset"]["revision"], "resnest50d", "in1k", "food101", "2.15.0", "1.0.31", "cc-by-4.0")
    for name in (*names, "apache-2.0", "bf16", "rand-m6-n2"):
        text = text.replace(name, "")
    return re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?", text)


def test_every_number_of_the_card_is_one_of_the_result_and_nearly_every_one_is_shown(run_of):
    """All numbers of RESULT are different, so that each of the card's is traced to its place."""
    known = [leaf for leaf in leaves(RESULT) if not re.match("|".join(NOT_SHOWN).replace(".*.", r".\d+."), leaf[0])]
    found = numbers(render(run_of(RESULT)))
    excluded, classes, few, every_class = "2", "4", "1", "57"
    allowed = {form: path for path, value in known for form in forms(value)}
    assert set(found) - set(allowed) - FIXED - {excluded, classes, few, every_class} == set()
    missing = [path for path, value in known if not forms(value) & set(found)]
    assert missing == []


@pytest.mark.parametrize("split", ["test", "validation"])
def test_each_number_stands_at_its_name(run_of, split):
    results, classes, calibration, splits, training = tables(text_of(render(run_of(RESULT))))
    column = {"test": 1, "validation": 3}[split]
    ends = RESULT["evaluation"]["intervals"]["test"]
    assert results[0] == ["", "test", "95 % interval", "validation"]
    assert [row[0] for row in results[2:-1]] == [METRICS[key][1] for key in METRICS]
    assert [row[column] for row in results[2:-1]] == [f"{RESULT['metrics'][split][key]:.4f}" for key in METRICS]
    shown = [" to ".join(f"{end:.4f}" for end in ends[key]) if key in ends else "" for key in METRICS]
    assert [row[2] for row in results[2:-1]] == shown
    floor = RESULT["evaluation"]["majority_class"]
    assert results[-1][0] == "Accuracy of always answering C++"
    assert results[-1][column] == f"{floor[split]:.4f}"

    def cell(value):
        return "" if value is None else f"{value:.4f}"

    for row, of in zip(classes[2:], RESULT["evaluation"]["per_class"]["test"], strict=True):
        assert row == [of["class"], *(cell(of[key]) for key in ("precision", "recall", "f1")), str(of["support"])]
    found = RESULT["evaluation"]["calibration"]["test"]
    assert calibration[2:] == [
        ["Expected calibration error", cell(found["error"]), cell(found["error_calibrated"])],
        ["Loss", cell(found["loss"]), cell(found["loss_calibrated"])],
    ]
    assert [row[:2] for row in splits[2:]] == [[r, f"{count:,}"] for r, count in RESULT["dataset"]["splits"].items()]
    facts = dict(training[2:])
    for name, key in {"epochs": "epochs", "best epoch": "best_epoch", "peak learning rate": "lr"}.items():
        assert facts[name] == str(RESULT["training"][key])
    assert facts["gradient checkpointing"] == "yes"
    assert facts["seconds, with validation"] == "8,123"
    assert len(facts) == len(RESULT["training"]) + 1
    assert {"clip_grad", "clip grad"} & set(facts) == set()  # each setting has a name in words
    assert facts["largest gradient norm"] == "1.5"


def test_the_level_is_that_of_the_intervals(run_of):
    card = render(run_of(changed(evaluation__intervals__level=0.9)))
    assert "| | test | 90 % interval | validation |" in card
    assert "**Test accuracy 0.9018** (90 % interval" in card
    assert "95 %" not in card


def test_intervals_that_were_not_resampled_do_not_say_so(run_of):
    card = render(run_of(changed(evaluation__intervals__method="Wilson score")))
    assert "Intervals: Wilson score.\n" in card
    assert "2,000" not in card


@pytest.mark.parametrize("key", ["temperature", "error", "best_epoch", "weak", "seed"])
def test_another_number_is_another_card(run_of, key):
    values = {
        "temperature": {"evaluation__calibration__temperature": 3.25},
        "error": {"evaluation__calibration__test__error_calibrated": 0.0888},
        "best_epoch": {"training__best_epoch": 7},
        "weak": {"evaluation__per_class__test": [RESULT["evaluation"]["per_class"]["test"][0]] * 4},
        "seed": {"seed": 77},
    }[key]
    assert render(run_of(changed(**values))) != render(run_of(RESULT))


def test_many_classes_are_folded_and_very_many_are_the_weakest(run_of):
    card = render(run_of(named([f"c{i}" for i in range(20)])))
    assert "<details>" not in card
    folded = render(run_of(named([f"c{i}" for i in range(21)])))
    assert "<details>\n<summary>Precision, recall and F1 of each class</summary>\n\n| class |" in folded
    assert len(tables(text_of(folded))[1]) == 2 + 21
    result = named([f"c{i}" for i in range(1001)])
    rows = result["evaluation"]["per_class"]["test"]
    for i, row in enumerate(rows):
        row["f1"] = (i * 8 % 1001) / 1001  # each once, in no order
    card = render(run_of(result))
    assert "The 100 classes with the lowest F1 of 1,001." in card
    assert [row[3] for row in tables(text_of(card))[1][2:]] == [f"{i / 1001:.4f}" for i in range(100)]


def test_the_table_as_a_file_is_named_where_it_is(run_of):
    run = run_of(RESULT)
    assert "per_class.csv" not in render(run)
    (run / "model/figures/per_class.csv").touch()
    assert "[figures/per_class.csv](figures/per_class.csv)" in render(run)


def test_keys_of_a_later_version_are_passed_over_and_settings_are_listed(run_of):
    result = changed(calibration={"temperature": 1.5}, dataset__more=1, model__more=[1], dataset__excluded__more={})
    for split in ("test", "validation"):
        result["metrics"][split] = {"expected_calibration_error": 0.0123} | result["metrics"][split]
    result["metrics"]["train"] = {"accuracy": 0.999}
    result["evaluation"] |= {"more": [1]}
    assert render(run_of(result)) == render(run_of(RESULT))
    result["training"]["new_setting"] = 0.123
    assert "| new setting | 0.123 |\n| seed | 42 |" in render(run_of(result))


# --- a real run ------------------------------------------------------------------------------------------------------


def test_a_real_run(digits_run):
    result = json.loads((digits_run / "result.json").read_text())
    card = (digits_run / "model" / "README.md").read_text(encoding="utf-8")
    assert card == render(digits_run)
    assert card.count("![") == 4
    results, classes, *_ = tables(text_of(card))
    assert [row[1] for row in results[2:-1]] == [f"{result['metrics']['test'][key]:.4f}" for key in METRICS]
    assert [row[0] for row in classes[2:]] == list("0123456789")
    head = ModelCard.load(digits_run / "model" / "README.md").data
    assert {e.metric_value for e in head.eval_results} == set(result["metrics"]["test"].values())
    assert {(e.dataset_split, str(e.dataset_args)) for e in head.eval_results} == {("train", "{'held_out': 0.1}")}
    assert (head.datasets, head.base_model) == (None, None)
    assert "trained from scratch on digits at 32 x 32 pixels" in card
    assert "The dataset's card says cc-by-4.0." in card
    assert "40 test images are few to judge by" in card
    allowed = {form for _, value in leaves(result) for form in forms(value)} | FIXED | set("0123456789")
    text = card.replace(", ".join(f"{k} {v}" for k, v in result["environment"].items()).replace("_", r"\_"), "")
    found = {n for n in numbers(text) if n not in ("4.0", "14", "16")}  # of cc-by-4.0, resnest14d, bf16
    assert found <= allowed
    assert not list(digits_run.rglob("*.part"))


# --- the certificate -------------------------------------------------------------------------------------------------


@pytest.fixture
def certified(run_of):
    run = run_of(RESULT)
    (run / "model/config.json").write_text("{}")
    (run / "model/model.safetensors").write_bytes(b"weights")

    def write(**values):
        checks = {
            "timm": {"version": "1.2.3", "passed": True, "largest_difference": 3.38e-07, "labels_equal": 31},
            "transformers": {"passed": None, "reason": "transformers is not | installed"},
        }
        made = {"version": 1, **cards.certificate.files.digests(run / "model"), "images": 31, "tolerance": 1e-4}
        content = made | {"checks": checks, "passed": True} | values
        (run / "model/verify.json").write_text(json.dumps(content))
        return render(run)

    write.run = run
    return write


def test_the_certificate_is_told(certified):
    assert "No other library's outputs have been compared" in render(certified.run)
    card = certified()
    assert "On 31 test images" in card
    assert "by 0.0001 of the largest logit" in card
    assert tables(text_of(card))[-1][2:] == [
        ["timm 1.2.3", "passed", "3.4e-07", "31 of 31"],
        ["transformers", "not tried: transformers is not | installed", "", ""],
    ]
    assert f"`{cards.certificate.files.digests(certified.run / 'model')['weights_sha256']}`" in card
    assert "did not pass" not in card


def test_a_certificate_that_failed_is_told_too(certified):
    failed = {"timm": {"version": "1.2.3", "passed": False, "largest_difference": 0.25, "labels_equal": 3}}
    for passed in (False, True):  # True: by hand
        card = certified(checks=failed, passed=passed)
        assert "**This model did not pass" in card
        assert "| timm 1.2.3 | **failed** | 2.5e-01 | 3 of 31 |" in card


def test_a_certificate_of_other_files_or_without_sense_is_none(certified):
    for values in (
        {"config_sha256": "0"},
        {"weights_sha256": None},
        {"checks": 3},
        {"images": None, "checks": {"a": {}}},
    ):
        assert "No other library's outputs have been compared" in certified(**values)
    (certified.run / "model/verify.json").write_text("[")
    assert "No other library's outputs have been compared" in render(certified.run)


def test_verify_renews_the_card_but_not_one_that_was_edited(certified, monkeypatch, capsys):
    run = certified.run
    card = build(run)
    old = card.read_text(encoding="utf-8")
    monkeypatch.setattr("cards.__main__.verify", lambda folder: (certified(), json.loads(verified.read_text()))[1])
    verified = run / "model/verify.json"
    assert main(["verify", str(run)]) == 0
    assert card.read_text(encoding="utf-8") == render(run) != old
    card.write_text("mine")
    assert main(["verify", str(run / "model")]) == 0
    assert card.read_text(encoding="utf-8") == "mine"
    assert "timm 1.2.3: passed" in capsys.readouterr().out


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no complete run: expected .*result.json; give the folder that `finetune --output` made"),
        (json.dumps(RESULT | {"schema_version": 2}), "result.json: expected schema version 1, got 2"),
        ("{}", "result.json: expected schema version 1, got None"),
        ("[]", "result.json: expected schema version 1, got None"),
        ('{"schema_version": 1', "result.json is not JSON: "),
        (json.dumps(RESULT | {"model": {}}), r"result.json is not as `finetune` writes it \(KeyError"),
        (json.dumps(RESULT | {"metrics": []}), r"result.json is not as `finetune` writes it \(TypeError"),
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
    path = build(run_of(changed(seed=7), figures=False))
    assert "| seed | 7 |" in path.read_text(encoding="utf-8")
    assert sorted(p.name for p in path.parent.iterdir()) == ["README.md", "figures"]


def test_a_task_without_a_row_in_the_table_is_refused_by_its_name(run_of):
    with pytest.raises(CardError, match="no card for the task 'image-captioning': this version knows image-class"):
        render(run_of(changed(task="image-captioning")))
