"""``python -m scripts.import_circles``: fails if files of this repository import each other in a circle.

Imports for type checkers and those inside functions count too: whoever reads one file of a circle has to read all.
"""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter

PACKAGES = ("batch_provider", "bench", "dags", "scripts")


def circle(*packages: str) -> list[str] | None:
    """The modules of one circle, the first again at its end; ``None``: there is none."""
    import grimp

    first, *others = packages
    graph = grimp.build_graph(first, *others, exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) - {module} for module in sorted(graph.modules)}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return list(reversed(found))
    return None


def main() -> int:
    """Say which circle there is."""
    found = circle(*PACKAGES)
    if found is None:
        print("No file imports itself through others.")
        return 0
    print(f"Files import each other in a circle: {' → '.join(found)}")
    print("Move what they share into a file that both import.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
