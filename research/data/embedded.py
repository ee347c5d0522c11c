"""The embedded corpus: documentation that every installation of this project has.

The topics of Python's ``help()`` and the docstrings of the standard library and of the
large scientific libraries: about 11 MB of English in 11,000 documents. The same versions
of Python and of these libraries give the same text.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sysconfig
from collections.abc import Iterable, Iterator

from research.data import docstrings

# Import name to the distribution whose version stands for its contents.
LIBRARIES = {
    "jax": "jax",
    "matplotlib": "matplotlib",
    "mpl_toolkits": "matplotlib",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}
# Tests, and copies of other libraries.
SKIPPED_FOLDERS = {
    "__pycache__",
    "_vendor",
    "dist-packages",
    "externals",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "testing",
    "tests",
    "vendored",
}
# Part of the identity of a corpus: raise it whenever the same files give other texts.
EXTRACTION = 3
# Paragraphs of this many characters are kept where they occur first. Functions of one
# library repeat them, and held-out documents would hold what was trained on.
UNIQUE_PARAGRAPH = 200


def open_parts():
    """(name, origin, parts) of the embedded corpus, see `corpora`."""
    origin = {
        "extraction": EXTRACTION,
        "python": platform.python_version(),
        "libraries": {
            name: importlib.metadata.version(name)
            for name in sorted(set(LIBRARIES.values()))
        },
    }

    def read() -> Iterator[tuple[str, int]]:
        texts = documents()
        yield from zip(texts, range(1, len(texts) + 1), strict=True)

    # The number of documents is only known after parsing; about one in 11,000.
    return "embedded", origin, [(11_000, read)]


@functools.cache
def documents() -> tuple[str, ...]:
    """All documents: help topics, then docstrings by file; each text once.

    Files are parsed, never imported.
    """
    texts = help_topics()
    for path in source_files():
        texts += docstrings.texts(path.read_bytes())
    return tuple(dict.fromkeys(unique(texts)))


def unique(texts: Iterable[str]) -> Iterator[str]:
    """Yields each text without the long paragraphs that an earlier one has.

    What is left of a text is dropped if it is shorter than a paragraph that counts.
    """
    seen: set[str] = set()
    for text in texts:
        kept = [part for part in text.split("\n\n") if part not in seen]
        seen.update(part for part in kept if len(part) >= UNIQUE_PARAGRAPH)
        rest = "\n\n".join(kept)
        if len(rest) >= docstrings.MIN_CHARACTERS:
            yield rest


def help_topics() -> list[str]:
    """The reference pages behind ``help('topics')``, in the order of their names."""
    path = pathlib.Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")
    if not path.is_file():
        return []
    tree = ast.parse(path.read_bytes())
    table = next(node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    topics = ast.literal_eval(table)
    pages = [docstrings.clean(topics[name]) for name in sorted(topics)]
    return [page for page in pages if page]


def source_files() -> list[pathlib.Path]:
    """Python files of the standard library and of `LIBRARIES`, in a fixed order."""
    folders = [sysconfig.get_path("stdlib")]
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders.extend(sorted(spec.submodule_search_locations))
    paths = []
    for folder in folders:
        for parent, subfolders, names in os.walk(folder):
            subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
            paths += [
                pathlib.Path(parent, name)
                for name in sorted(names)
                if name.endswith(".py")
                if not name.startswith("test_") and not name.endswith("_test.py")
            ]
    return paths
