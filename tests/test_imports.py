"""The floors of the house, read from its imports: they point one way, and modalities do not know
each other."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "diffdpo"

# The floors, from the ground up: a module imports its own room and those below.
FLOORS = [
    {"errors", "words", "flags", "preference", "draws", "batched"},
    {"losses", "config", "extensions"},
    {"objective"},
    {"reference"},
    {"engine", "data"},
    {"cache", "report"},
    {"image", "text", "metrics", "pairs", "ranking"},
    {"annotate", "evaluation"},
    {"commands"},
    {"cli", "__init__"},
    {"__main__"},
]


def imports():
    """Pairs (importer, imported) of top-level names inside the package."""
    for path in ROOT.rglob("*.py"):
        importer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "diffdpo":
                names = [f"diffdpo.{alias.name}" for alias in node.names]
            for name in names:
                if name and name.startswith("diffdpo."):
                    yield importer, name.split(".")[1], path


def test_every_module_has_a_floor():
    modules = {
        path.name.removesuffix(".py")
        for path in ROOT.iterdir()
        if not path.name.startswith("_") and path.name != "py.typed"
    }
    assert modules <= set().union(*FLOORS)


def test_imports_point_down():
    level = {name: depth for depth, names in enumerate(FLOORS) for name in names}
    wrong = [f"{path}: {a} imports {b}" for a, b, path in imports() if level.get(a, 0) < level[b]]
    assert not wrong


def test_image_and_text_do_not_know_each_other():
    wrong = [f"{path}: {a} imports {b}" for a, b, path in imports() if {a, b} == {"image", "text"}]
    assert not wrong


def test_there_is_no_cycle_of_modules():
    graph: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(["diffdpo", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
            ".__init__"
        )
        found = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        graph[name] = {n.module for n in found if n.module and n.module.startswith("diffdpo.")}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())
