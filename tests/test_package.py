"""The package as it is shipped and described: metadata, what goes with it, README, links."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import changedet as cd
from changedet.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = Path(cd.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "seeds" / "README.md"]
IMPORTED_AS = {"skimage": "scikit-image", "PIL": "pillow", "odc": "odc-geo", "distributed": "dask"}
COMES_WITH = {"markupsafe": "jinja2"}


def readme():
    """Return README's text."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def command_lines():
    """Return the lines of README's shell blocks that begin from nothing."""
    code = "".join(re.findall(r"^```sh\n(.*?)^```", readme(), re.MULTILINE | re.DOTALL))
    return [line for line in code.splitlines() if line.startswith("python3 -m venv")]


def requirements(extra=None):
    """Return the names that the project, or one of its extras, requires."""
    project = PROJECT["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return {re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in lines}


def imported(path):
    """Return the top-level packages that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"changedet", "__future__"}


def distribution(name):
    """Return the name under which a package is installed."""
    name = IMPORTED_AS.get(name, COMES_WITH.get(name, name))
    return name.replace("_", "-").lower()


def test_the_version_is_said_once():
    assert PROJECT["project"]["dynamic"] == ["version"]
    source = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert re.findall(r"__version__ = \"(.+)\"", source.read_text(encoding="utf-8")) == [cd.__version__]


def test_what_goes_with_the_code_is_there():
    assert (PACKAGE / "py.typed").is_file()
    for file in (ROOT / "changedet" / "render").iterdir():
        assert (PACKAGE / "render" / file.name).is_file()
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"seeds": "changedet/_seeds"}
    assert {site.name for site in cd.list_sites()} == {p.parent.name for p in ROOT.glob("seeds/*/site.toml")}


def test_everything_imported_is_required():
    needed = {distribution(name) for path in PACKAGE.rglob("*.py") for name in imported(path)}
    assert needed - requirements() == set()
    tests = {distribution(name) for path in ROOT.glob("tests/*.py") for name in imported(path)}
    assert tests - {"conftest"} - requirements() - requirements("test") == set()


def test_what_is_required_is_used():
    used = {distribution(name) for path in PACKAGE.rglob("*.py") for name in imported(path)}
    assert requirements() - used == set()


def test_every_requirement_has_a_lower_bound():
    lines = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["test"]]
    assert [line for line in lines if ">=" not in line] == []


@pytest.mark.parametrize("name", [name for name in cd.__all__ if name != "__version__"])
def test_public_names_are_there_and_say_what_they_are(name):
    found = getattr(cd, name)
    assert found.__doc__ and found.__doc__.strip()
    assert name in dir(cd)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        _ = cd.detekt


def test_python_m_changedet_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "changedet", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == f"changedet {cd.__version__}"


def test_readme_has_two_commands_from_a_fresh_clone():
    demo, check = command_lines()
    assert demo.endswith("&& .venv/bin/changedet demo")
    for word in ("-e", "[dev]", "ruff check", "mypy", "pytest"):
        assert word in check
    extras = PROJECT["project"]["optional-dependencies"]
    assert "changedet[test]" in extras["dev"]


def test_readme_lists_every_command():
    table = readme().partition("| command | does |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    said = {word for cell in cells for word in re.findall(r"`([a-z]+)", cell)}
    assert said == set(get_command(app).commands)


def test_readme_maps_every_module():
    table = readme().partition("| module | owns |")[2].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    said = {word for cell in first for word in re.findall(r"`([a-z_]+)", cell)}
    modules = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert said == {name for name in modules if not name.startswith("_")}


def test_the_design_has_the_shelves_of_the_guard():
    guard = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    (shelves,) = (
        ast.literal_eval(node.value)
        for node in guard.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "SHELVES"
    )
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| (.+) \|$", design, re.MULTILINE)
    said = [re.findall(r"`([a-z_]+)", row) for row in rows]
    assert [name for row in said for name in row] == " ".join(shelves).split()


def test_the_design_has_every_step():
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = design.partition("## Modules")[2].partition("\n## ")[0]
    cells = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    said = set(re.findall(r"`(?:steps/)?([a-z]+)/?`", cells))
    assert {p.stem for p in PACKAGE.glob("steps/[a-z]*.py")} <= said


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
                for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}  # fmt: skip
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        assert not path or (page.parent / path).exists(), f"{page.name} links to {path}, which is not there"
        assert path or anchor in headings, f"{page.name} links to #{anchor}, which is no heading"


def test_the_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in text or f"## {cd.__version__}" in text


def test_the_license_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS" in text
