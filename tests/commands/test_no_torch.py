"""Help and tables answer at once: they import none of the large libraries."""

import subprocess
import sys

import pytest
from test_main import THERE

CODE = """
import contextlib, io, sys
from deit_hf.commands.main import main
for arguments in {calls!r}:
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main(arguments)
    heavy = [name for name in ("torch", "transformers", "datasets", "timm", "numpy", "PIL") if name in sys.modules]
    if heavy or len(printed.getvalue()) < 10:
        sys.exit(f"{{arguments}} imports {{heavy}}, prints {{printed.getvalue()!r}}")
"""


@pytest.mark.parametrize(
    "calls",
    [
        [[], ["--version"], ["models"], ["recipes"], ["recipes", "small-data"], *([name, "--help"] for name in THERE)],
    ],
    ids=["all"],
)
def test_help_and_tables_import_no_large_library(calls: list[list[str]]):
    process = subprocess.run([sys.executable, "-c", CODE.format(calls=calls)], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
