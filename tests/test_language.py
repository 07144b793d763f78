"""Plain language: phrases that a reader has to read twice do not come back into code and documents.

The list has only phrases that a regular expression can find; a review still has to read the sentences.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Text files whose docstrings, comments, strings and prose are checked.
CHECKED = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "deit_hf/**/*.py",
    "deit_hf/**/*.yaml",
    "deit_hf/hub/templates/*.md",
    "deit_hf/analysis/templates/*.html",
    "model_cards/*.md",
    "scripts/**/*.py",
    "scripts/**/*.sh",
    "scripts/**/*.yaml",
    "tests/**/*.py",
)
# phrase (a space stands for any gap between words, also the end of a line) -> what to write instead
PHRASES = {
    r"the parent(?!s| process| director| folder)": "`Trainer`, or the name of the class",
    r"in force": "effective, used",
    r"(?:go|goes|going|went) on": "resume, continue",
    r"anew": "again, from the beginning",
    r"(?<!there )(?:is|are|was|were) no(?! longer)": "is not a",
    r"besides?": "next to, in addition to, with",
    r"data sets?": "dataset",
    r"iff": "only if, exactly if",
    r"mend(?:s|ed|ing)?": "fix",
    r"""(?<!["`])pictures?|pictures?(?!["`])""": "image",  # "pictures" is a key in the stored facts of a run
    r"(?:is|are|was|were|be) said": "is logged, is reported",
    r"hands? on": "pass",
    r"all of a": "all, the whole",
    r"None of none": "None for None",
    r"tak(?:e|es|ing) (?:\w+ )?\w+'s place": "replace",
    r"(?:can|could) be had": "is available",
    r"maybe within": "possibly wrapped in",
    r"at fault": "caused by",
}
GAP = r"""(?:[\s#"]|f(?="))+"""  # spaces, a line break in prose, a comment or a string of several parts


def compiled(phrase: str) -> re.Pattern[str]:
    """The phrase as whole words, in any case, with `GAP` between them; lookarounds keep their single space."""
    parts = re.split(r"(\(\?<?[!=][^)]*\))", phrase)
    pattern = "".join(part if part.startswith("(?<") else part.replace(" ", GAP) for part in parts)
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)


PATTERNS = {compiled(phrase): better for phrase, better in PHRASES.items()}


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, phrase and what to write instead, of each phrase in a text."""
    for pattern, better in PATTERNS.items():
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield line, " ".join(match[0].split()), better


def checked_files() -> list[Path]:
    return sorted({path for pattern in CHECKED for path in ROOT.glob(pattern)} - {Path(__file__)})


@pytest.mark.parametrize("path", checked_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_phrase_has_to_be_read_twice(path: Path):
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: `{phrase}`; write: {better}"
        for line, phrase, better in sorted(findings(path.read_text(encoding="utf-8")))
    ]
    assert found == [], "\n".join(found)


def test_every_pattern_of_files_finds_some():
    assert [pattern for pattern in CHECKED if not any(ROOT.glob(pattern))] == []


PLANTED = [  # a text with each phrase, and the line of the phrase
    ('"""As the parent\'s, with views."""', 1),
    ("\n\n# The recipe in force is logged.", 3),
    ("# the run goes\n    # on from its checkpoint", 1),
    ('raise ValueError(\n    f"`{name}` is"\n    f" no option"\n)', 2),
    ("The run starts anew.", 1),
    ("Logs beside the loss.", 1),
    ("a data set of images", 1),
    ("zero iff both agree", 1),
    ("mend the file", 1),
    ("Pictures of the\ndataset", 1),
    ("the change is said", 1),
    ("It hands on no number.", 1),
    ("all of a class", 1),
    ("or None of none", 1),
    ("what takes a view's place", 1),
    ("it can be had", 1),
    ("a model, maybe within DDP", 1),
    ("What a disk is at fault for", 1),
]


@pytest.mark.parametrize(("text", "line"), PLANTED)
def test_a_phrase_is_found_with_its_line(text: str, line: int):
    assert [place for place, _, _ in findings(text)] == [line]


@pytest.mark.parametrize(
    "text",
    [
        "there is no such directory",
        "it is no longer used",
        "the parent process, the parent directory",
        "an on-going run, `in_force`, `says_what_to_mend`",
        "different, recommended, commended",
        "no image, on a GPU",
        'the key "pictures", also written `pictures`',
    ],
)
def test_plain_sentences_and_names_pass(text: str):
    assert list(findings(text)) == []


def test_each_phrase_is_planted_above():
    """A pattern that matches nothing would pass every file."""
    patterns = [pattern.pattern for pattern in PATTERNS if not any(pattern.search(text) for text, _ in PLANTED)]
    assert patterns == []
