"""The folders of the package (rooms): which may import which, and the size limits of files and functions."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deit_hf"
# A room may import itself and rooms of earlier levels, but not another room of its own level.
LEVELS = (
    {"argument_checks", "atomic_files"},
    {"model"},
    {"data", "reliability"},
    {"distillation", "evaluation"},
    {"analysis", "hub"},
    {"training"},
    {"benchmarks"},
    {"jobs"},
    {"commands"},
    {"__init__", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FLAT_MODULES = {"__init__", "__main__", "argument_checks", "atomic_files"}
MAX_LINES, MAX_LINES_OF = 350, {"model.modeling_deit": 500}
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(name: str, code: str) -> set[str]:
    """Modules of this package that the code of a module imports anywhere, as `room.module`."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "deit_hf"}
        elif isinstance(node, ast.ImportFrom):
            package = ["deit_hf", *name.split(".")][: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            if module.split(".")[0] == "deit_hf":
                found |= {f"{module}.{alias.name}" for alias in node.names}
    return {_longest_module(target.removeprefix("deit_hf").removeprefix(".")) for target in found}


def _longest_module(target: str) -> str:
    """The module that a dotted name names or is defined in; `__init__` for a public name of the package."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        for name in (".".join(parts[:end]), ".".join([*parts[:end], "__init__"])):
            if name in MODULES:
                return name
    return "__init__"


IMPORTS = {name: imported_modules(name, path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[0]


def violations(imports: dict[str, set[str]]) -> list[str]:
    """Imports of a room of a later level, or of another room of the same level."""
    return [
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target in sorted(targets)
        if room_of(module) != room_of(target) and LEVEL[room_of(module)] <= LEVEL[room_of(target)]
    ]


def circles(imports: dict[str, set[str]]) -> Iterator[list[str]]:
    """Import cycles, each as a path that ends where it begins."""
    finished: set[str] = set()

    def follow(module: str, path: list[str]) -> Iterator[list[str]]:
        if module in path:
            yield [*path[path.index(module) :], module]
        elif module not in finished:
            for target in sorted(imports.get(module, ())):
                yield from follow(target, [*path, module])
            finished.add(module)

    for module in imports:
        yield from follow(module, [])


def test_imports_between_rooms_run_one_way():
    assert violations(IMPORTS) == []


def test_no_module_imports_itself_by_way_of_others():
    assert next(circles(IMPORTS), None) is None


def test_what_the_tests_above_read_is_the_real_graph():
    # an empty graph would pass the tests above
    assert "distillation.losses" in IMPORTS["training.trainer"]
    assert "argument_checks" in IMPORTS["data.sources.arguments"]
    assert IMPORTS["__init__"] >= {"training.trainer", "model.conversion"}
    assert sum(map(len, IMPORTS.values())) > 150


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("model.layers", "from ..training.arguments import DistillationArguments"),
        ("model.layers", "def late():\n    from deit_hf.data import mixing"),
        ("data.mixing", "import deit_hf.reliability.checkpoints"),
        ("data.sources.load", "from ...evaluation import metrics"),
        ("training.trainer", "from deit_hf import Teacher"),
    ],
)
def test_an_import_that_runs_up_or_across_is_found(module: str, code: str):
    assert len(violations({module: imported_modules(module, code)})) == 1


def test_a_circle_inside_a_room_is_found():
    graph = {"data.a": {"data.b"}, "data.b": {"data.c"}, "data.c": {"data.a"}, "data.d": {"data.a"}}
    assert next(circles(graph)) == ["data.a", "data.b", "data.c", "data.a"]


def test_every_module_is_in_a_room():
    assert {room_of(module) for module in MODULES} <= LEVEL.keys()
    assert {module for module in MODULES if "." not in module} == FLAT_MODULES


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.endswith(".__init__")))
def test_a_room_opens_with_its_reading_order_and_no_names(name: str):
    docstring, *code = ast.parse(MODULES[name].read_text(encoding="utf-8")).body
    assert not code
    text = ast.literal_eval(docstring.value)
    own = {module.split(".")[-1] for module in MODULES if module.rpartition(".")[0] == name.rpartition(".")[0]}
    assert {module for module in own - {"__init__"} if module not in text} == set()


def test_no_file_is_too_long():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lines.items() if n > MAX_LINES_OF.get(name, MAX_LINES)} == {}


def test_no_function_is_too_long():
    functions = [
        (f"{name}.{node.name}", node.end_lineno - node.lineno + 1)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, lines) for name, lines in functions if lines > MAX_FUNCTION_LINES] == []


def test_tests_mirror_the_rooms():
    tests = Path(__file__).parent
    folders = {path.relative_to(tests).as_posix() for path in tests.rglob("*") if list(path.glob("test_*.py"))}
    rooms = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.is_dir()}
    assert folders - rooms == {"integration"}


def test_files_that_docstrings_name_exist():
    file_name = re.compile(r"(?<![\w/-])(?<!official )(?<!timm )(\w+\.py)\b(?!:\d)")  # `losses.py:50` is official
    of_others = {"app.py", "main.py", "models_v2.py", "run_image_classification.py"}
    files = {path.name for folder in (PACKAGE, PACKAGE.parent / "scripts") for path in folder.rglob("*.py")}
    missing = {
        f"{name}: {file}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for file in file_name.findall(ast.get_docstring(node) or "")
        if file not in files | of_others
    }
    assert missing == set()
