"""Where things may be: which way imports go, how long a function and a module may be, how much a reader meets."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from llm.settings.config import REPOSITORY

# What stands at the top of llm/, in order: a module imports what stands on an earlier line, or is in its own room.
ORDER = (
    ("machine", "distributions", "intervals"),
    ("settings", "store", "metrics"),
    ("engine", "pipeline"),
    ("run", "sampling", "likelihood"),
    ("models", "expectations"),
    ("samplers", "objectives", "eval_perplexity"),
    ("results", "train", "generate_data"),
    ("eval_precision_and_recall", "place"),
)
ENTRIES = ("generate_data", "train", "eval_perplexity", "eval_precision_and_recall", "place")
LINE = {name: line for line, names in enumerate(ORDER, 1) for name in names}
METHOD = sorted(REPOSITORY.glob("llm/**/*.py"))
SCRIPTS = sorted(REPOSITORY.glob("scripts/**/*.py"))
LONGEST_FUNCTION, LONGEST_MODULE, MOST_AT_THE_TOP, MOST_WORDS = 70, 300, 14, 1100


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in [*METHOD, *SCRIPTS]}


def imports(path: Path) -> set[str]:
    """The modules of this repository that a file imports, also within functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports from where it stands, not from the root"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & MODULES or {node.module}
    return {name for name in found if name.split(".")[0] in ("llm", "scripts", "tests", "conftest", "made_up")}


def ids(path: Path) -> str:
    return name_of(path)


def test_every_module_has_its_place_in_the_order():
    assert {path.relative_to(REPOSITORY / "llm").parts[0].removesuffix(".py") for path in METHOD} - {"__init__"} == {
        *LINE
    }


@pytest.mark.parametrize("path", METHOD, ids=ids)
def test_imports_go_down(path):
    parts = name_of(path).split(".")[1:]
    for name in imports(path):
        root, *theirs = name.split(".")
        assert root == "llm", f"{name_of(path)} imports {name}"
        if not parts or not theirs or theirs[0] == parts[0]:
            continue
        assert LINE[theirs[0]] < LINE[parts[0]], f"{name_of(path)} imports {name}, which is not below it"
        assert theirs[0] not in ENTRIES, f"{name_of(path)} imports {name}, an entry"


def test_imports_have_no_circle():
    list(TopologicalSorter({name_of(path): imports(path) for path in [*METHOD, *SCRIPTS]}).static_order())


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.parent.name != "readme"], ids=ids)
def test_a_room_of_scripts_imports_the_method_and_the_analysis_at_most(path):
    """But for what fills in the READMEs, which tell of every room."""
    own = name_of(path).split(".")[:2]
    for name in imports(path):
        room = name.split(".")[:2]
        assert room[0] == "llm" or room in (own, ["scripts", "analysis"]), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", [*METHOD, *SCRIPTS], ids=ids)
def test_a_module_and_its_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= LONGEST_FUNCTION, f"{node.name} at line {node.lineno}"


def test_a_reader_meets_little_at_first():
    assert sum(path.is_file() for path in (REPOSITORY / "scripts").iterdir()) <= MOST_AT_THE_TOP
    assert len((REPOSITORY / "README.md").read_text().split()) <= MOST_WORDS


def test_test_files_have_names_of_their_own():
    """pytest imports them by these alone."""
    names = [path.name for path in REPOSITORY.glob("tests/**/*.py")]
    assert len(set(names)) == len(names) and "__init__.py" not in names
