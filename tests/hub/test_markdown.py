"""Arbitrary names in Markdown are displayed literally and do not change the page."""

import ast
import re

import pytest
from markdown_it import MarkdownIt

from deit_hf.hub.markdown import Markdown, code_block, escaped, one_line, quoted, table

NAMES = [
    "a|b",
    "<script>alert(1)</script>",
    "`code`",
    "[link](https://example.org)",
    "![image](x.png)",
    "*bold* _both_ **x** __y__",
    "snake_case_name",
    "back\\slash \\| \\` \\\\",
    "a & b &lt; c &#60;",
    "~~gone~~ $x$",
    "# heading",
    "<!-- comment",
    "--> end {{ jinja }} {% x %}",
]


def seen(text: str) -> str:
    """Returns the visible text of a line, rendered by another Markdown library."""
    (token,) = [token for token in gfm().parse(text) if token.type == "inline"]
    assert [child.type for child in token.children] == ["text"] * len(token.children)
    return "".join(child.content for child in token.children)


def gfm() -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


@pytest.mark.parametrize("name", NAMES)
def test_name_is_shown_as_it_is_in_a_line_and_in_a_cell(name: str):
    assert seen(f"On {escaped(name)}.") == f"On {name}."
    tokens = gfm().parse(table(["class", name], [[name, 3]]))
    cells = [token for token in tokens if token.type == "inline"]
    assert ["".join(child.content for child in cell.children) for cell in cells] == ["class", name, name, "3"]
    assert {child.type for cell in cells for child in cell.children} == {"text"}


def test_lines_and_invisible_characters_become_spaces_and_joiners_stay():
    assert one_line("a\n\n# b\r\tc\u202ed\x00e") == "a # b c d e"
    assert one_line("می\u200cخواهم") == "می\u200cخواهم"
    assert one_line("x\udcff").encode("utf-8") == b"x?"  # from a file name that is not UTF-8


def test_a_word_with_underscores_stays_readable():
    assert escaped("deit_tiny_patch16_224") == "deit_tiny_patch16_224"
    assert escaped(Markdown("**as it is**")) == "**as it is**"


def test_a_block_of_code_ends_where_it_should():
    text = "a: |\n  ```\n  ````\nb"
    (token,) = gfm().parse(code_block(text, "yaml"))
    assert (token.type, token.info, token.content) == ("fence", "yaml", text + "\n")


@pytest.mark.parametrize("name", [*NAMES, 'say "x"', "Größe", "a\nb"])
def test_a_quoted_name_is_the_string_in_python_and_stays_within_code(name: str):
    assert ast.literal_eval(quoted(name)) == name
    assert not re.search(r"[`<>&\n]", quoted(name))
