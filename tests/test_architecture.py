"""The layout of the package: imports point down the shelves, packages stay where they belong.

Imports inside functions count. A private sibling ``_x.py`` (or ``_x_more.py``) belongs to ``x.py``.
"""

import ast
from pathlib import Path

import pytest

import changedet

ROOT = Path(changedet.__file__).parent
SHELVES = [
    "errors",
    "grid sensors columns",
    "scenes blocks findings",
    "steps io sites metrics simulate",
    "detector",
    "pipeline",
    "demo sensitivity",
    "cli",
    "__main__",
]
RANK = {module: rank for rank, shelf in enumerate(SHELVES) for module in shelf.split()}
ONLY_IN = {
    "dask": "blocks",
    "distributed": "blocks",
    "rasterio": "grid io",
    "typer": "cli",
    "rich": "cli",
}
FILES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py" and "render" not in p.parts]


def parts_of(path):
    """('steps', '_difference') of steps/_difference.py; a package is its own first part."""
    return path.relative_to(ROOT).with_suffix("").parts


def shelf_name(parts):
    """Return the top-level module a file belongs to; a private top-level sibling belongs to its door."""
    top = parts[0]
    if not top.startswith("_") or top == "__main__":
        return top
    doors = [name for name in RANK if top[1:] == name or top[1:].startswith(f"{name}_")]
    return max(doors, key=len, default=top)


def name_of(path):
    """Return a path as the id of a test."""
    return "/".join(parts_of(path))


def imports(tree):
    """Yield the full names that a module imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def of_changedet(name):
    """Return the module parts of an imported name below changedet, or None for the package itself."""
    parts = name.split(".")[1:]
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        if path.is_dir() or path.with_suffix(".py").is_file():
            return tuple(parts[:n])
    return None if parts in ([], ["__version__"]) else tuple(parts[:1])


def is_sibling(path, target):
    """Return True for an import inside one house.

    A package (io, metrics, simulate, cli) may import its own modules. In steps, nothing imports a step; a
    private file named after a step (``_report_text.py``) serves that step and its other private files alone;
    a private file named after no step (``_resample.py``) is shared by all.
    """
    home = parts_of(path)
    if home[0] != target[0] or home == target:
        return False
    if home[0] != "steps":
        return len(target) > 1
    if len(target) < 2 or not target[1].startswith("_"):
        return False
    return step_of(target[1]) in (None, step_of(home[1]))


def step_of(name):
    """Return the step that a file in steps/ belongs to, None for a shared private file."""
    words = name.lstrip("_").split("_")
    doors = ["_".join(words[: n + 1]) for n in range(len(words))]
    return next((d for d in reversed(doors) if (ROOT / "steps" / f"{d}.py").is_file()), None)


def complaint(path, name):
    """Say in words what is wrong with an import; None where nothing is."""
    home = shelf_name(parts_of(path))
    if name.startswith("."):
        return f"{path.name}: write imports in full, not {name}"
    package = name.partition(".")[0]
    if package in ONLY_IN and home not in ONLY_IN[package].split():
        return f"{path.name} imports {name}; {package} belongs in {ONLY_IN[package]}"
    if package != "changedet":
        return None
    target = of_changedet(name)
    if target is None or is_sibling(path, target):
        return None
    other = shelf_name(target)
    if other not in RANK:
        return f"{path.name} imports {name}, which is on no shelf; put {other!r} on one in SHELVES"
    if other == home and len(target) == 1 and len(parts_of(path)) == 1:
        private = parts_of(path)[0].startswith("_")
        return f"{path.name} imports its own door {name}" if private else None
    if RANK[other] >= RANK[home]:
        return f"{path.name} (shelf {RANK[home]}) must not import {name} (shelf {RANK[other]}, not below it)"
    return None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_is_on_a_shelf(path):
    home = shelf_name(parts_of(path))
    assert home in RANK, (
        f"changedet/{path.relative_to(ROOT)} is on no shelf: decide what it may import, and add {home!r} to "
        f"SHELVES in tests/test_architecture.py (and to docs/design.md)"
    )


@pytest.mark.parametrize("path", [p for p in FILES if shelf_name(parts_of(p)) in RANK], ids=name_of)
def test_imports_point_down(path):
    found = [complaint(path, name) for name in imports(ast.parse(path.read_text(encoding="utf-8")))]
    assert not [words for words in found if words], "\n".join(words for words in found if words)


def test_the_guard_sees_what_it_must():
    step = ROOT / "steps" / "difference.py"
    assert complaint(step, "changedet.blocks.Pixelwise") is None
    assert complaint(step, "changedet.steps._difference.change_vector") is None
    assert complaint(ROOT / "steps" / "_difference.py", "changedet.errors.SettingError") is None
    for path, name, words in [
        (step, "changedet.steps.threshold.otsu", "must not import"),
        (step, "changedet.steps._threshold.otsu", "must not import"),
        (ROOT / "steps" / "_difference.py", "changedet.steps.difference", "must not import"),
        (step, "changedet.pipeline.run", "must not import"),
        (step, "changedet.nowhere.thing", "no shelf"),
        (step, "changedet.steps._report_text.day", "must not import"),
        (step, "dask.array", "belongs in blocks"),
        (step, "rasterio.features", "belongs in grid io"),
        (step, ".threshold", "in full"),
        (ROOT / "grid.py", "changedet.blocks.Tile", "must not import"),
        (ROOT / "grid.py", "changedet.columns", "must not import"),
        (ROOT / "_blocks.py", "changedet.blocks.label", "own door"),
    ]:
        found = complaint(path, name)
        assert found is not None and words in found, (path.name, name, found)


def module_graph():
    """Return module → modules of the package that it imports, at any depth of its code."""
    graph = {}
    for path in FILES:
        names = imports(ast.parse(path.read_text(encoding="utf-8")))
        targets = {of_changedet(n) for n in names if n.partition(".")[0] == "changedet"}
        own = parts_of(path)[:-1] if path.name == "__init__.py" else parts_of(path)
        graph[own] = {t for t in targets if t and t != own}
    return graph


def test_no_import_cycles():
    graph, done = module_graph(), set()

    def visit(module, trail):
        assert module not in trail, "import cycle: " + " → ".join(".".join(m) for m in (*trail, module))
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines < 500, f"{path.name} has {lines} lines; move kernels to a private sibling"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{path.name}: {node.name} has {length} lines; wanted at most 60"
        assert not isinstance(node, ast.Assert), (
            f"{path.name}: line {node.lineno} asserts; raise a named error"
        )
