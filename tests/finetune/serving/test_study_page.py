"""Pages of thumbnails: text is escaped, and does not break where it should not."""

from finetune.serving.study_page import Card, Section, page


def test_text_is_escaped_and_a_number_keeps_its_sign():
    text = page("1 < 2", ["9 % of <b>"], [Section("3 %", ["4 %"], [Card([], "class 0 5 %", ["6 %"])])])
    assert "<title>1 &lt; 2</title>" in text
    assert "<p>9&nbsp;% of &lt;b&gt;</p>" in text
    for number in (3, 4, 5, 6):
        assert f"{number}&nbsp;%" in text
    assert " %" not in text.partition("<body>")[2]
