"""Imports point one way: models <- objectives <- research; experiments stand alone."""

import ast
import pathlib
import subprocess

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


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; use absolute ones"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_import_direction(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = (imported(path) & OURS) - ALLOWED[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_experiments_are_data_only():
    for path in (ROOT / "experiments").rglob("*.py"):
        libraries = imported(path) - {"experiments"}
        assert libraries <= EXPERIMENT_LIBRARIES, f"{path.name}: {sorted(libraries)}"


def test_top_level_layout():
    allowed = {
        "pyproject.toml",
        "Makefile",
        "README.md",
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
