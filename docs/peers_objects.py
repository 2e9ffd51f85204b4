"""Breaks of pixels as objects, for ``make_peers.py``."""

from typing import Any

import geopandas as gpd
import numpy as np
from accuracy_scenes import BASELINE_PX
from rasterio.features import shapes
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry import shape

LEAST_PX = BASELINE_PX
JOINS = {"; by place": 10_000, "; by place and date": 1}
"""How breaks of pixels become objects → dates that those of neighbors may be apart."""


def objects(breaks: np.ndarray, scene: Any, how: str) -> gpd.GeoDataFrame:
    """Turn breaks of pixels into objects: connected pixels, dated by the middle half of their breaks.

    Parameters
    ----------
    breaks : (y, x) index of the date of the break, -1 without
    scene : with ``mask``, ``dates``, ``transform`` and ``crs``
    how : one of :data:`JOINS`
    """
    labels, count = joined(breaks, JOINS[how])
    numbers = np.arange(1, count + 1)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = numbers[sizes >= LEAST_PX]
    there, drawn = np.isin(labels, kept), labels.astype(np.int32)
    found = shapes(drawn, mask=there, connectivity=8, transform=scene.transform)
    outlines = {int(value): shape(geometry) for geometry, value in found}
    seen = [~lost for lost in scene.mask]
    usable = np.array([ndimage.mean(one, labels, kept) for one in seen]).reshape(len(seen), len(kept))
    rows = []
    for place, number in zip(ndimage.find_objects(labels), numbers, strict=True):
        if sizes[number - 1] < LEAST_PX:
            continue
        own = breaks[place][labels[place] == number]
        first, last = (int(np.quantile(own, q, method="nearest")) for q in (0.25, 0.75))
        clear = np.flatnonzero(usable[:first, len(rows)] >= 0.5)
        absent = scene.dates[clear[-1]] if len(clear) else np.datetime64("NaT")
        middle = scene.dates[int(np.median(own))]
        rows.append((str(number), absent, middle, scene.dates[last], outlines[int(number)]))
    names = ("id", "last_absent", "date", "first_seen", "geometry")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    return gpd.GeoDataFrame(columns, geometry="geometry", crs=scene.crs)


def joined(breaks: np.ndarray, apart: int) -> tuple[np.ndarray, int]:
    """Label pixels with a break: neighbors, of eight, belong together if not too far apart in time.

    Parameters
    ----------
    breaks : (y, x) index of the date of the break, -1 without
    apart : dates that breaks of neighbors may be apart

    Returns
    -------
    labels, count : (y, x), 0 = no break; how many there are
    """
    place = np.arange(breaks.size).reshape(breaks.shape)
    pairs = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        rows, columns = breaks.shape
        one = (slice(0, rows - dy), slice(max(-dx, 0), columns - max(dx, 0)))
        other = (slice(dy, rows), slice(max(dx, 0), columns - max(-dx, 0)))
        near = (breaks[one] >= 0) & (breaks[other] >= 0) & (np.abs(breaks[one] - breaks[other]) <= apart)
        pairs.append((place[one][near], place[other][near]))
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(left.size, bool), (left, right)), shape=(breaks.size, breaks.size))
    own = connected_components(graph, directed=False)[1].reshape(breaks.shape)
    labels = np.zeros(breaks.shape, np.int64)
    there = breaks >= 0
    numbers, labels[there] = np.unique(own[there], return_inverse=True)
    labels[there] += 1
    return labels, len(numbers)
