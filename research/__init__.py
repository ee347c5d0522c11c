"""How it runs: entry points, data, training, evaluation, comparison."""

import importlib.machinery
import importlib.util
import pathlib
import sys


def _prefer_own_packages() -> None:
    """Imports our packages whose names a folder or file of the user's has too.

    `python -m research.pretrain` looks in the working directory first, where models/
    or experiments/ are common names.

    Raises:
      ImportError: if theirs is already imported under that name.
    """
    root = pathlib.Path(__file__).resolve().parent.parent
    for name in ("models", "objectives", "experiments"):
        found = importlib.util.find_spec(name)
        origin = found.origin if found else None
        if origin and pathlib.Path(origin).resolve().parent.parent == root:
            continue
        own = importlib.machinery.PathFinder.find_spec(name, [str(root)])
        if name in sys.modules or own is None or own.loader is None:
            raise ImportError(
                f"{name!r} is imported from {origin}, and Palimpsest has a package of "
                f"that name in {root}: import research before yours, or rename yours."
            )
        module = importlib.util.module_from_spec(own)
        sys.modules[name] = module
        own.loader.exec_module(module)


_prefer_own_packages()
