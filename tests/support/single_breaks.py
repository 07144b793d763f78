"""Breaks the package in one place at a time and reports which breaks the default tests do not detect.

    python tests/support/single_breaks.py --count 100 --jobs 2 -o breaks.jsonl
    python tests/support/single_breaks.py --room data --seed 1 --wide

The same seed draws the same breaks; a larger count continues the same list. Each break is made in a temporary copy of
the files that git tracks or does not ignore, so that the checkout is not changed. The tests of the module run first,
then those of its room, and with --wide those of training/ and integration/. A test counts only if it passes without
the break. With -o, a restarted run skips the breaks that the file contains; to try a break again, delete its line.
"""

import argparse
import ast
import contextlib
import copy
import dataclasses
import itertools
import json
import multiprocessing
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest

Change = tuple[str, ast.AST, ast.AST]  # kind, old node, new node
ROOT = Path(__file__).parents[2]
PACKAGE = "deit_hf"
OTHER_OPERATORS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
}
NO_END = "no end within"
# importing these takes most of the time of a short test, so they are imported once, before the tests
LIBRARIES = ["torch", "torchvision", "transformers.trainer", "datasets", "timm", "accelerate", "evaluate", "sklearn"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
ENVIRONMENT |= dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"), "1")
ENVIRONMENT |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
SERVER = multiprocessing.get_context("forkserver")
# keywords that only change messages, or have no effect without an error
NOT_BROKEN = {"metadata", "help", "description", "formatter_class", "metavar", "encoding", "strict"}


@dataclasses.dataclass(frozen=True)
class Break:
    """A part of a file, bytes `start` to `end`, and its replacement."""

    file: str
    line: int
    start: int
    end: int
    kind: str
    before: str
    after: str

    def applied(self, code: bytes) -> bytes:
        return code[: self.start] + self.after.encode() + code[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}:{self.line}  {self.kind}: {before[:90]} -> {after[:90]}"


class Breaks:
    """Lists the breaks of a module; leaves out docstrings, type hints, decorators, and texts of errors and logs."""

    def __init__(self, file: str, code: bytes, choices: dict[str, str]):
        self.file, self.code, self.choices = file, code, choices
        self.line_starts = [0, *itertools.accumulate(map(len, code.splitlines(keepends=True)))]
        self.found: list[Break] = []
        self._visit(ast.parse(code), [])

    def _visit(self, node: ast.AST, parameters: list[str]) -> None:
        for kind, place, new in itertools.chain(self._of_expressions(node), self._of_calls(node, parameters)):
            self._add(kind, place, new)
        if isinstance(node, ast.FunctionDef):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            parameters = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        for child in _children(node):
            self._visit(child, parameters)

    def _add(self, kind: str, place: Any, new: ast.AST) -> None:
        start = self.line_starts[place.lineno - 1] + place.col_offset
        end = self.line_starts[place.end_lineno - 1] + place.end_col_offset
        text = ast.unparse(new)
        if isinstance(new, ast.expr) and not isinstance(new, ast.Constant | ast.Name | ast.Call):
            text = f"({text})"  # an operator next to it may bind more closely
        self.found.append(Break(self.file, place.lineno, start, end, kind, self.code[start:end].decode(), text))

    def _of_expressions(self, node: ast.AST) -> Iterator[Change]:
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) | ast.comprehension(ifs=[test, *_]):
                yield "condition", test, ast.UnaryOp(ast.Not(), test)
            case ast.Compare(ops=[operator, *others]):
                yield "operator", node, _changed(node, ops=[OTHER_OPERATORS[type(operator)](), *others])
            case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in OTHER_OPERATORS:
                yield "operator", node, _changed(node, op=OTHER_OPERATORS[type(op)]())
            case ast.UnaryOp(operand=operand):
                yield "operator", node, operand
            case ast.Constant(value=bool(value)):
                yield "constant", node, ast.Constant(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield "constant", node, ast.Constant(value + 1 if isinstance(value, int) else value * 2 or 1.0)
            case ast.Constant(value=str(value)) if value in self.choices:
                yield "constant", node, ast.Constant(self.choices[value])

    def _of_calls(self, node: ast.AST, parameters: list[str]) -> Iterator[Change]:
        match node:
            case ast.Expr(value=ast.Call()):
                yield "call removed", node, ast.Pass()
            case (
                ast.Assign(value=ast.Call(args=[first, *_]) as call)
                | ast.Return(value=ast.Call(args=[first, *_]) as call)
            ) if not isinstance(first, ast.Starred):
                yield "call removed", call, first
            case ast.Call(args=args, keywords=keywords):
                values = [*args, *(keyword.value for keyword in keywords)]
                places = [value for value in values if isinstance(value, ast.Name)]
                names = list(dict.fromkeys(place.id for place in places))
                others = names if len(names) > 1 else parameters
                yield from (("name", p, ast.Name(other)) for p in places for other in others if other != p.id)
                for dropped in keywords:
                    if dropped.arg is not None and dropped.arg not in NOT_BROKEN:
                        yield "argument dropped", node, _changed(node, keywords=[k for k in keywords if k != dropped])


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _children(node: ast.AST) -> Iterable[ast.AST]:
    """The parts of a node that may be broken."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.arg() | ast.Expr(value=ast.Constant()):
            return ()
        case ast.Expr(value=ast.Call(func=func)) if ast.unparse(func).startswith(
            ("logger.", "logging.", "warnings.", "print")
        ):
            return ()
        case ast.Subscript(value=ast.Name("Literal")) | ast.If(test=ast.Name("TYPE_CHECKING")):
            return ()
        case ast.AnnAssign(value=value):
            return () if value is None else (value,)
        case ast.ClassDef(body=body):
            return body
        case ast.FunctionDef(args=arguments, body=body):
            return (arguments, *body)
        case ast.Call(func=func, args=args, keywords=keywords):
            return (func, *args, *(keyword.value for keyword in keywords if keyword.arg not in NOT_BROKEN))
    return ast.iter_child_nodes(node)


def next_choices(trees: Iterable[ast.Module]) -> dict[str, str]:
    """For each string of a `Literal[...]`, the next one."""
    found = {}
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            choices = ast.literal_eval(node.slice)
            if isinstance(choices, tuple):
                found |= zip(choices, [*choices[1:], choices[0]], strict=True)
    return found


def draw_breaks(root: Path, seed: int, room: str | None = None) -> Iterator[Break]:
    """All breaks of the package or a room in random order; each kind is equally likely, equal code comes once."""
    files = [path for path in sorted((root / PACKAGE).rglob("*.py")) if path.name != "__init__.py"]
    codes = {str(path.relative_to(root)): path.read_bytes() for path in files}
    choices = next_choices(ast.parse(code) for code in codes.values())
    kinds: dict[str, list[Break]] = {}
    for file, code in codes.items():
        if room is None or Path(file).parts[1] in (room, f"{room}.py"):
            for one in Breaks(file, code, choices).found:
                kinds.setdefault(one.kind, []).append(one)
    generator = random.Random(seed)
    for breaks in kinds.values():
        generator.shuffle(breaks)
    seen = {ast.dump(ast.parse(code)) for code in codes.values()}
    while kinds:
        kind = generator.choice(sorted(kinds))
        one = kinds[kind].pop()
        if not kinds[kind]:
            del kinds[kind]
        with contextlib.suppress(SyntaxError):  # such as `pass` in a lambda
            broken = one.applied(codes[one.file])
            compile(broken, one.file, "exec")
            if (dump := ast.dump(ast.parse(broken))) not in seen:
                seen.add(dump)
                yield one


def stages_of(file: str, root: Path, *, wide: bool) -> list[list[str]]:
    """Lists of test files to run in turn: those of the module, of its room, and with `wide` of other rooms."""
    module = Path(*Path(file).parts[1:])
    name = ".".join(module.with_suffix("").parts)
    own = Path("tests") / module.with_name(f"test_{module.name}")
    room = Path("tests") / module.parts[0]
    rooms = [room, *(Path("tests") / other for other in ("training", "integration") if wide)]
    stages, taken = [[str(own)]], {own}
    for folder in rooms if room.suffix == "" else rooms[1:]:
        tests = {path.relative_to(root) for path in (root / folder).rglob("test_*.py")} - taken
        taken |= tests
        # tests that import the module run first
        stages.append(sorted(map(str, tests), key=lambda test: (name not in (root / test).read_text("utf-8"), test)))
    return [some for stage in stages if (some := [test for test in stage if (root / test).exists()])]


def run_pytest(root: Path, options: list[str], output: Path) -> None:
    """Runs pytest; called in a new process that has imported the libraries, but not the package."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # data workers would use the one of this process
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    os.environ |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}  # two breaks may have the same timestamp
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    sys.modules.pop("support", None)
    code = pytest.main(options)
    sys.stdout.flush()
    os._exit(code)


class Copy:
    """A copy of the checkout, in which one break at a time is tested."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = folder / "checkout", folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
        for name in filter(None, files.split("\0")):
            if os.path.lexists(root / name):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.root / name, follow_symlinks=False)
        self.sound: set[str] = set()  # tests that pass without a break
        self.unsound: list[str] = []

    def failing_test(self, tests: list[str], timeout: float) -> str | None:
        """Returns the first failing test or None; a text for a timeout or a failure without a test name."""
        options = ["-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", f"--basetemp={self.folder / 'pytest'}"]
        options += [*(f"--deselect={test}" for test in self.unsound), *tests]
        process = SERVER.Process(target=run_pytest, args=(self.root, options, self.folder / "output"))
        process.start()
        process.join(timeout)
        code = process.exitcode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and processes that its tests started
        if code is None:
            return f"{NO_END} {timeout:g} s"
        output = (self.folder / "output").read_text("utf-8", errors="replace")
        failed = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", output, re.MULTILINE)
        if code in (0, 5):  # 5: no tests, or only slow ones
            return None
        return failed[1] if failed else f"pytest ended with {code}"

    def try_break(self, one: Break, stages: list[list[str]], timeout: float) -> str | None:
        """Returns the test that detects the break, or None."""
        path = self.root / one.file
        code = path.read_bytes()
        remaining = list(stages)
        while remaining:
            path.write_bytes(one.applied(code))
            try:
                found = self.failing_test(remaining[0], timeout)
            finally:
                path.write_bytes(code)
            if found is None:
                remaining.pop(0)
            elif self._is_sound(found, remaining[0], timeout):
                return found
            else:
                self.unsound.append(found)
                print(f"{found} also fails without a break, and is left out", flush=True)
        return None

    def _is_sound(self, found: str, tests: list[str], timeout: float) -> bool:
        """Whether the test passes without the break; each test is tried once."""
        if found.startswith(NO_END) or found in self.unsound:
            return True
        again = [found] if found.startswith("tests/") else ["--collect-only", *tests]
        if found in self.sound or self.failing_test(again, timeout) is None:
            self.sound.add(found)
        elif again != [found]:
            raise RuntimeError(f"{found} without a break, too: {' '.join(tests)}")
        return found in self.sound


def tried(breaks: list[Break], root: Path, options: argparse.Namespace) -> Iterator[tuple[Break, str | None, float]]:
    """Yields each break after it was tried, with the test that detects it (or None) and the seconds."""
    with tempfile.TemporaryDirectory(prefix="single-breaks-") as folder:
        copies: queue.Queue[Copy] = queue.Queue()
        for number in range(options.jobs):
            copies.put(Copy(root, Path(folder, str(number))))

        def try_one(one: Break) -> tuple[Break, str | None, float]:
            own, began = copies.get(), time.monotonic()
            is_auto = options.tests == ["auto"]
            stages = stages_of(one.file, own.root, wide=options.wide) if is_auto else [options.tests]
            try:
                return one, own.try_break(one, stages, options.timeout), time.monotonic() - began
            finally:
                copies.put(own)

        with ThreadPoolExecutor(options.jobs) as pool:
            try:
                yield from map(Future.result, as_completed([pool.submit(try_one, one) for one in breaks]))
            finally:
                pool.shutdown(cancel_futures=True)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100, help="breaks to draw")
    parser.add_argument("--room", help="such as data, or argument_checks (default: all)")
    parser.add_argument("--tests", nargs="+", default=["auto"], help="test files to run instead of the room's")
    parser.add_argument("--wide", action="store_true", help="also run the tests of training/ and integration/")
    parser.add_argument("--jobs", type=int, default=1, help="breaks to try in parallel")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for the tests of a room")
    parser.add_argument("-o", "--output", type=Path, help="JSON lines file, which a restarted run continues")
    options = parser.parse_args(arguments)
    os.environ |= ENVIRONMENT
    SERVER.set_forkserver_preload(LIBRARIES)
    drawn = list(itertools.islice(draw_breaks(root, options.seed, options.room), options.count))
    lines = options.output.read_text("utf-8").splitlines() if options.output and options.output.exists() else []
    results = {Break(**record.pop("break")): record["seen_by"] for record in map(json.loads, lines)}
    for one, seen_by, seconds in tried([one for one in drawn if one not in results], root, options):
        results[one] = seen_by
        print(f"{one}  {f'seen by {seen_by}' if seen_by else 'SURVIVED'}  {seconds:.0f} s", flush=True)
        if options.output:
            record = {"break": dataclasses.asdict(one), "seen_by": seen_by, "seconds": round(seconds, 1)}
            with options.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    survivors = [one for one in drawn if results[one] is None]
    print(f"{len(drawn) - len(survivors)} of {len(drawn)} breaks were seen; survivors:", *survivors, sep="\n")


if __name__ == "__main__":
    main()
