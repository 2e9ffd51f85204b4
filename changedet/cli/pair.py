"""``changedet diff``: two images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from changedet.cli import _options as option
from changedet.cli._console import bars, command_line, emit, say, table, warn

if TYPE_CHECKING:
    from changedet.pipeline.bitemporal import DiffResult

MOST_ROWS = 20

Before = Annotated[str, typer.Argument(metavar="BEFORE", help="One scene: a file, a folder or a glob.")]
After = Annotated[str, typer.Argument(metavar="AFTER", help="The later scene.")]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="absdiff, ratio, logratio, cva, rcva, sam, pca, mad, irmad, sfa, isfa, pca-kmeans, ssim, "
        "omnibus, or auto, which looks at the pair and chooses [auto].",
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        metavar="NAME|NUMBER",
        help="otsu, kapur, kittler, triangle, robust, chi2, fdr, hysteresis, a number, or auto: what suits "
        "the method [auto].",
    ),
]


def diff(
    before: Before,
    after: After,
    out: option.Out,
    *,
    method: Method = None,
    threshold: Threshold = None,
    site: option.SiteName = None,
    aoi: option.Aoi = None,
    bands: option.Bands = None,
    band_names: option.BandNames = None,
    warp: option.Warp = False,
    min_area: option.MinArea = None,
    alpha: option.Alpha = None,
    plan: option.PlanFile = None,
    set_: option.Set = None,
    workers: option.Workers = None,
    memory: option.Memory = None,
    outputs: option.Outputs = None,
    compress: option.Compress = None,
    overwrite: option.Overwrite = False,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Compare two images: magnitude, threshold, objects.

    Writes magnitude.tif, change.tif, objects.gpkg, objects.geojson and run.json; p_value.tif and
    components.tif where the method has them. Neither image needs a date; both may be without georeference.
    """
    given = locals()
    from changedet.pipeline.bitemporal import Task
    from changedet.pipeline.bitemporal import diff as work

    chosen = option.make_plan(given | {"threshold": _number(threshold)})
    if alpha is not None:
        chosen = chosen.with_values({"threshold.chi2.alpha": alpha, "threshold.fdr.alpha": alpha})
    task = Task(option.area_of(site, aoi), option.names_of(outputs), overwrite, command_line())
    with bars() as progress:
        result = work(before, after, out, chosen, task=task, progress=progress)
    _tell(result)


def _number(text: str | None) -> str | float | None:
    """Return a threshold as a number where it is one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _tell(result: DiffResult) -> None:
    """Print what was found."""
    record = result.record
    warn(record["warnings"])
    info, counts = record["threshold"], record["counts"]
    if "objects" in counts:
        level = info.get("threshold")
        shown = "none" if level is None else f"{level:.6g} {_units(record)}".strip()
        say(
            f"{record['method']}, threshold {shown} ({info.get('method')}): {counts['objects']} objects of "
            f"at least {record['min_area_m2']:.6g} {_unit(record)}"
        )
        _say_objects(result)
    say(f"wrote {', '.join(path.name for path in result.files)} in {result.files[0].parent}")
    emit({k: record[k] for k in ("method", "threshold", "counts", "warnings")} | {"files": result.files})


def _units(record: dict[str, Any]) -> str:
    """Return the unit of the magnitude, nothing where it has none."""
    return "" if record["units"] in (None, "1") else str(record["units"])


def _unit(record: dict[str, Any]) -> str:
    """Return the unit of areas."""
    return "px²" if record["grid"]["crs"] is None else "m²"


def _say_objects(result: DiffResult) -> None:
    """Print the largest objects."""
    objects = result.comparison.objects
    if objects is None or objects.empty:
        return
    rows = objects.sort_values("area_m2", ascending=False).head(MOST_ROWS).drop(columns="geometry")
    title = f"the {MOST_ROWS} largest" if len(objects) > MOST_ROWS else None
    say(table(rows.columns, rows.itertuples(index=False), title=title))
