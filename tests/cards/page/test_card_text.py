"""Text from outside is shown as it is, and does nothing."""

import re
import shlex
import subprocess
import unicodedata
from html.parser import HTMLParser

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from cards import render
from cards.page.text import command, escape, name_list, visible
from tests.cards.results import RESULT, changed, code_of, named, text_of

EVIL = [
    "a|b",
    "| a |",
    "two\nlines",
    "cr\r\nlf\u2028sep",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{# gone #}",
    "</td></tr></table><script>alert(1)</script>",
    "</details><img src=x onerror=alert(1)>",
    "<!-- hidden",
    "--> shown",
    "&lt;b&gt; &amp;",
    "[x](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "[x]: http://evil.example",
    "<http://evil.example>",
    "http://evil.example/x",
    "HTTPS://evil.example www.evil.example ftp://evil.example",
    "somebody@evil.example",
    "---",
    "===",
    "\n---\nlicense: mit\n---\n",
    "...",
    "**bold** __also__ ~~gone~~",
    "`code` ```fence",
    "```\n# heading\n```",
    "back\\slash \\| \\",
    "\\\\(x\\\\) \\(x\\)",
    "$$x$$",
    "# heading",
    "- item",
    "1. first",
    "> quote",
    "'single' \"double\"",
    "a: b # c",
    "yes",
    "null",
    "1e3",
    "0x1F",
    "!!python/object:os.system",
    "&anchor *alias",
    "@at %tag",
    "*",
    "100%",
    "日本 größe",
    "\u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f52c",
    "'; touch evil; '$(touch evil)`touch evil`",
]
UNSEEN = [
    "a\u202eb",
    "\u200b",
    "zero\u200bwidth",
    "\ufeffbom",
    "\x1b[31mred",
    "bell\x07",
    "\u2066x\u2069",
    "\ud800",
    "\x00",
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
        if tag in ("h1", "p", "td", "li"):
            self.text.setdefault(tag, []).append("")
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]][-1] += data

    @property
    def form(self):
        return self.tags, self.cells, self.links


def page_of(card):
    page = Page(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text_of(card)))
    assert not re.search(r"(https?|ftp)://\w|www\.\w|\w@\w", "".join(pieces(card)), re.IGNORECASE)
    return page


def pieces(card):
    """Runs of text that a renderer which makes links of bare addresses would look at, one by one."""
    for block in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text_of(card)):
        for token in block.children or ():
            yield f"{token.content}\0" if token.type == "text" else "\0"


def one_line(text):
    return " ".join(text.split())


def test_names_of_classes_are_shown_as_they_are_and_change_nothing_else(run_of):
    """A reader of the rendered page sees the very names, and the page has the form of one with harmless names."""
    harmless = page_of(render(run_of(named(["name"] * len(EVIL)))))
    card = render(run_of(named(EVIL)))
    page = page_of(card)
    cells = [one_line(cell) for cell in page.text["td"]]
    start = cells.index(one_line(EVIL[0]))
    assert cells[start : start + 5 * len(EVIL) : 5] == [one_line(name) for name in EVIL]
    assert page.form == harmless.form
    assert ModelCard(card).data.to_dict() == ModelCard(render(run_of(RESULT))).data.to_dict()
    assert "49" not in "".join(page.text["td"])


def test_names_of_weak_classes_and_the_majority_class_are_only_names(run_of):
    def result(name):
        row = {"class": name, "precision": None, "recall": 0.0, "f1": 0.0, "support": 1, "predicted": 0}
        other = row | {"support": 0, "recall": None}
        found = changed(evaluation__per_class={"test": [row, other]}, evaluation__majority_class__class=name)
        return found | {"dataset": found["dataset"] | {"classes": [name, "other"]}}

    harmless = page_of(render(run_of(result("name"))))
    for name in EVIL:
        page = page_of(render(run_of(result(name))))
        assert page.form == harmless.form
        warnings = " ".join(map(one_line, page.text["li"]))
        for sentence in ("always answering {}", "classes: {} (F1", "image: {}.", "image shows {}:"):
            assert sentence.format(one_line(name)) in warnings


def test_without_an_evaluation_names_are_listed(run_of):
    card = render(run_of(changed(evaluation={}, dataset__classes=EVIL)))
    page = page_of(card)
    assert f"Classes: {', '.join(map(one_line, EVIL))}." in [one_line(text) for text in page.text["p"]]
    assert page.form == page_of(render(run_of(changed(evaluation={}, dataset__classes=["x"] * len(EVIL))))).form


def test_text_of_dataset_and_model_changes_neither_the_form_of_the_page_nor_the_head(run_of):
    """The base model's card is somebody else's too."""
    of_dataset, of_model = ("id", "config", "license", "revision"), ("base_model", "base_license", "architecture")

    def result(text):
        values = {f"dataset__{key}": text for key in of_dataset} | {f"model__{key}": text for key in of_model}
        return changed(dataset__hub=False, **values)

    harmless = page_of(render(run_of(result("name"))))
    for text in EVIL:
        card, line = render(run_of(result(text))), one_line(text)
        page = page_of(card)
        assert page.form == harmless.form
        assert page.text["h1"] == [f"{line} on {line}"]
        paragraphs = [one_line(shown) for shown in page.text["p"]]
        for sentence in ("classes: {} (25", "finetuned from {} on {} at", "Configuration: {}.", "Revision: {}."):
            assert any(sentence.replace("{}", line) in paragraph for paragraph in paragraphs)
        assert (
            f"The weights that this model started from are under {line}. The dataset's card says {line}." in paragraphs
        )
        head = ModelCard(card).data
        assert (head.library_name, head.pipeline_tag, head.datasets) == ("timm", "image-classification", None)
        assert head.base_model in (None, text)
        assert head.license == (text if text in ("yes", "null", "1e3") else "other")
        for entry in head.eval_results:
            found = (entry.dataset_name, entry.dataset_type, entry.dataset_config, entry.dataset_revision)
            assert found == (text,) * 4


@pytest.mark.parametrize(("text", "is_id"), [("a/b-c.d_e", True), ("a/b/c", False), ("a b", False), ("../x", False)])
def test_what_can_be_no_id_is_not_in_the_head(run_of, text, is_id):
    """The Hub would refuse it."""
    head = ModelCard(render(run_of(changed(model__base_model=text, dataset__id=text)))).data
    assert head.base_model == (text if is_id else None)
    assert head.get("base_model_relation") == ("finetune" if is_id else None)
    assert head.datasets == ([text] if is_id else None)


def test_text_of_the_training_and_of_split_names_stays_in_its_place(run_of):
    def result(text):
        found = changed(training__optimizer=text, training__stopped_by=text, environment={"package": text})
        found["training"]["grad_checkpointing"] = False  # a cell that says yes
        found["dataset"] |= {"held_out": {"test": {"from": text, "fraction": 0.125}}, "sources": {"train": text}}
        return found

    harmless = page_of(render(run_of(result("x"))))
    for text in EVIL:
        page = page_of(render(run_of(result(text))))
        assert page.form == harmless.form
        cells = [one_line(cell) for cell in page.text["td"]]
        assert cells.count(one_line(text)) == 2
        assert f"12.5% of {one_line(text)}, held out by class" in cells
        assert f"{one_line(text)} without what was held out" in cells


def test_an_id_on_the_hub_is_quoted_in_its_address(run_of):
    card = render(run_of(changed(dataset__id="owner/a b)c[d")))
    assert "(https://huggingface.co/datasets/owner/a%20b%29c%5Bd)" in card


@pytest.mark.parametrize("text", UNSEEN)
def test_what_nobody_sees_is_shown_by_its_code(run_of, text):
    """A card can be written, and its lines run from left to right as far as its letters do."""
    card = render(run_of(changed(evaluation__majority_class__class=text, environment={"x": text})))
    card.encode("utf-8")
    for character in text_of(card):
        assert character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"), hex(ord(character))
    unseen = next(c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs"))
    assert f"&#92;u{ord(unseen):04x}" in card


def test_a_name_of_nothing_is_seen():
    assert escape("") == escape(" \n") == '""'
    assert visible("\U0001f469\u200d\U0001f52c") == "\U0001f469\u200d\U0001f52c"  # one emoji, with its joiner


def test_a_list_of_names_ends_somewhere():
    assert name_list(["a|", "b", "c"], 3) == "a\\|, b, c"
    assert name_list(["a", "b", "c", "d"], 2) == "a, b and 2 more"


# --- the command -----------------------------------------------------------------------------------------------------


def test_words_of_the_command_are_what_the_shell_reads(tmp_path):
    words = ["--dataset", *EVIL, *UNSEEN[:-2]]  # no file's name has a NUL or half a character in it
    script = command(words, program="printf '%s\\0'")
    assert "\n\n" not in script
    utf8 = {"LC_ALL": "C.UTF-8"}
    said = subprocess.run(["bash", "-c", script], capture_output=True, check=True, cwd=tmp_path, env=utf8)
    assert said.stdout.decode("utf-8").split("\0")[:-1] == words
    assert not list(tmp_path.iterdir())


def test_no_word_of_the_command_ends_its_block(run_of):
    def page(text):
        card = render(run_of(changed(command=["--dataset", text])))
        ((_, shown),) = code_of(card, "sh")
        assert shown == command(["--dataset", text])
        blocks = MarkdownIt("commonmark").parse(text_of(card))
        assert [block.content for block in blocks if block.info == "sh"] == [f"{shown}\n"]
        return page_of(card)

    harmless = page("x")
    for text in [text for text in EVIL if "`" in text or "\n" in text]:
        assert page(text).form == harmless.form


def test_a_long_command_has_several_lines():
    words = [word for i in range(12) for word in (f"--a-long-flag-{i}", f"value {i}")]
    shown = command(words)
    assert max(map(len, shown.splitlines())) <= 87
    assert 4 < len(shown.splitlines()) < 10
    assert shlex.split(shown.replace("\\\n", "")) == ["python", "-m", "finetune", *words]
