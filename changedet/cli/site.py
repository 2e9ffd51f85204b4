"""``changedet site``: the dossiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from changedet.cli import _options as option
from changedet.cli._console import emit, say, table

if TYPE_CHECKING:
    from changedet.sites import Site

Name = Annotated[
    str | None, typer.Argument(metavar="[NAME|PATH]", help="Dossier to show; all are listed without it.")
]


def site(
    name: Name = None,
    *,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """List the site dossiers, or show one."""
    from changedet.sites import list_sites, load_site

    if name is not None:
        found = load_site(name)
        _show(found)
        emit(found.to_dict())
        return
    known = list_sites()
    rows = [(s.name, s.title, s.axes, s.events, s.expected) for s in known]
    say(table(("name", "title", "axes", "events", "expected structures"), rows))
    emit([{**s.model_dump(), "path": str(s.path)} for s in known])


def _show(found: Site) -> None:
    """Print a dossier."""
    say(f"{found.title} ({found.name}), {found.crs}", found.summary)
    axes = ((a.id, a.name, a.role, f"{a.from_bank} → {a.to_bank}", a.uncertainty_m) for a in found.axes)
    say(table(("axis", "name", "role", "banks", "± m"), axes, title="Bridge axes"))
    events = ((e.date, e.date_end, e.where, e.what, e.source) for e in found.timeline)
    say(table(("from", "to", "where", "what", "source"), events, title="Timeline"))
    wanted = ((e.id, e.kind, e.not_before, e.seen_by, e.gone_by, e.source) for e in found.expected)
    columns = ("structure", "kind", "not before", "seen by", "gone by", "source")
    say(table(columns, wanted, title="Expected structures"))
    facts = (
        (f.about, f.text or f"{f.bound} {f.value:g} {f.unit}".strip(), f.date, f.source) for f in found.facts
    )
    say(table(("about", "fact", "date", "source"), facts, title="Facts; rival figures stand side by side"))
    sources = ((s.id, s.title, s.date) for s in found.sources)
    say(table(("source", "title", "date"), sources, title="Sources"))
