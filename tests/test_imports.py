"""Imports point one way, between the packages, inside research/, and between files."""

import ast
import functools
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ALLOWED = {
    "models": {"models"},
    "objectives": {"models", "objectives"},
    "research": {"models", "objectives", "research"},
    "experiments": {"experiments"},
}
OURS = set(ALLOWED) | {"tests"}
# Data only: a config must load on a machine that has nothing else installed.
EXPERIMENT_LIBRARIES = {"ml_collections", "__future__"}

# Folders of research/, each line importing itself and the lines above it. Folders of one
# line do not import each other.
ORDER = (
    ("errors",),
    ("machine",),
    ("config",),
    ("data",),
    ("training",),
    ("evaluation", "planning", "previewing", "conversion", "generation"),
    ("comparison",),
    ("benchmarks",),
)
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names}
ENTRY_POINTS = sorted(
    path.stem
    for path in (ROOT / "research").glob("*.py")
    if path.stem not in ("__init__", "__main__", "errors")
)


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def files() -> dict[str, pathlib.Path]:
    return {module_name(p): p for top in ALLOWED for p in (ROOT / top).rglob("*.py")}


@functools.cache
def imported(module: str) -> frozenset[str]:
    """Everything that a file imports anywhere; a name of ours as its file."""
    names = set()
    for node in ast.walk(ast.parse(files()[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; use absolute ones"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name in files() else node.module)
    return frozenset(names - {module})


def imports_of_ours(module: str) -> set[str]:
    return set(imported(module) & files().keys())


def level(module: str) -> int:
    """Of a file; what is not in research/ is below it, entry points are on top."""
    package, _, rest = module.partition(".")
    return LEVELS.get(rest.split(".")[0], len(ORDER)) if package == "research" else -1


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_import_direction(package):
    modules = [name for name in files() if name.split(".")[0] == package]
    assert modules
    for module in modules:
        tops = {name.split(".")[0] for name in imported(module)}
        wrong = (tops & OURS) - ALLOWED[package]
        assert not wrong, f"{module} imports {sorted(wrong)}"


def test_experiments_are_data_only():
    for module in (name for name in files() if name.startswith("experiments")):
        libraries = {name.split(".")[0] for name in imported(module)} - {"experiments"}
        assert libraries <= EXPERIMENT_LIBRARIES, f"{module}: {sorted(libraries)}"


def test_every_folder_of_research_has_its_place():
    folders = {p.name for p in (ROOT / "research").iterdir() if p.is_dir()}
    assert folders - {"__pycache__"} <= LEVELS.keys()


def test_no_import_in_research_runs_upward():
    wrong = []
    for module in (name for name in files() if name.startswith("research.")):
        for name in imports_of_ours(module):
            elsewhere = name.split(".")[:2] not in (module.split(".")[:2], ["research"])
            if elsewhere and level(name) >= level(module):
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_nothing_imports_an_entry_point():
    entry_points = {f"research.{name}" for name in ENTRY_POINTS}
    wrong = {m: imported(m) & entry_points for m in files()}
    assert not {module: names for module, names in wrong.items() if names}


def test_no_circle_between_files():
    graph = {module: imports_of_ours(module) for module in files()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_all_entry_points_can_be_imported_into_one_process():
    """A notebook does so; a flag that is defined on import can be defined only once."""
    result = subprocess.run(
        [sys.executable, "-c", f"from research import {', '.join(ENTRY_POINTS)}"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_top_level_layout():
    allowed = {
        "pyproject.toml",
        "Makefile",
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs",
        "mkdocs.yml",
        "research",
        "objectives",
        "models",
        "experiments",
        "tests",
    }
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = {name for name in listed.stdout.split() if not name.startswith(".")}
    assert names <= allowed, f"unexpected at the top level: {sorted(names - allowed)}"
