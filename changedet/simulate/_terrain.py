"""What does not move: the grid, the river's bed and banks, land cover, the rail bridge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._fields import Array, fractal, smoothstep, stream
from changedet.simulate._grain import Grain, grain
from changedet.simulate._render import window_coverage
from changedet.simulate._settings import SceneSettings

if TYPE_CHECKING:
    from affine import Affine

MARGIN = 16  # px around the delivered grid, so that blur and shifts take in real ground

# Land cover labels; parcels of fields are numbered from FIELD up.
GRASS, REED, FOREST, SAND, GRAVEL, ROAD, ROOF, ROOF_BLUE, FIELD = range(9)


@dataclass(frozen=True)
class Crossing:
    """Numbers of the river and the axis. `bearing_deg`: of the axis, clockwise from grid north."""

    bearing_deg: float
    width_m: float
    spacing_m: float
    rail_offset_m: float  # along the flow, negative: upstream of the axis
    depth_m: float
    meander_m: float
    meander_length_m: float
    bar_height_m: float
    islands: int


@dataclass(frozen=True)
class Parcel:
    """A field: its corner box in the parcels' own rotated frame, and its calendar."""

    label: int
    box: Any
    crop: bool
    paddy: bool
    sow_doy: float
    harvest_doy: float
    plow_lag_d: float
    vigor: float
    soil: float
    film: bool  # a plot under plastic film in some springs


@dataclass(frozen=True)
class Terrain:
    """Static fields on the padded grid, all `(y, x)` float32 but `label` (int32)."""

    transform: Affine  # of the padded grid
    shape: tuple[int, int]
    crossing: Crossing
    center: tuple[float, float]
    across_m: Array  # along the axis, from the middle of the river
    along_m: Array  # along the flow, positive downstream
    bank_m: Array  # distance from the nearest bank, positive over water
    bed_m: Array  # elevation above the mean water level
    slope_m: Array  # elevation change over one pixel
    label: NDArray[np.int32]
    road: Array
    roof: Array
    height_m: Array  # of forest and houses
    texture: Array  # relative, several scales
    parcels: tuple[Parcel, ...]
    rail: Any  # footprint of the rail bridge's deck
    rail_piers: tuple[Any, ...]
    channel_m: Array  # elevation of the river's bed, were there no banks
    top_m: Array  # elevation of the land, were there no river
    grain: Grain | None = None  # what makes every pixel its own
    dem_error_m: Array | None = None  # of the height model that scenes were corrected with

    def point(self, across_m: float, along_m: float) -> tuple[float, float]:
        """Map coordinates of a place given along the axis and along the flow."""
        ax, ay, fx, fy = _directions(self.crossing.bearing_deg)
        return self.center[0] + across_m * ax + along_m * fx, self.center[1] + across_m * ay + along_m * fy

    def box(
        self, across_m: float, along_m: float, long_m: float, wide_m: float, turn_deg: float = 0.0
    ) -> Any:
        """Rectangle, `long_m` along the axis and `wide_m` along the flow, around a place."""
        from shapely import box
        from shapely.affinity import rotate

        x, y = self.point(across_m, along_m)
        flat = box(x - wide_m / 2, y - long_m / 2, x + wide_m / 2, y + long_m / 2)
        return rotate(flat, -self.crossing.bearing_deg + turn_deg, origin=(x, y))

    def sample(self, field: Array, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of a field at `(n, 2)` map points, nearest pixel, clipped to the grid."""
        cols = (points[:, 0] - self.transform.c) / self.transform.a
        rows = (points[:, 1] - self.transform.f) / self.transform.e
        r = np.clip(rows.astype(int), 0, self.shape[0] - 1)
        c = np.clip(cols.astype(int), 0, self.shape[1] - 1)
        return np.asarray(field[r, c], dtype=np.float64)


def _directions(bearing_deg: float) -> tuple[float, float, float, float]:
    """Unit vectors (x, y) of the axis and of the flow, which runs to the right of the axis."""
    b = np.deg2rad(bearing_deg)
    return float(np.sin(b)), float(np.cos(b)), float(np.cos(b)), float(-np.sin(b))


def crossing(settings: SceneSettings) -> Crossing:
    """Lay out the crossing: the Tumen site's, or one drawn from the seed."""
    rng = stream(settings.seed, "crossing")
    extent = min(settings.shape_px) * settings.gsd_m
    rail = -min(415.0, 0.36 * extent)
    if settings.layout == "tumen":
        # Axis about west-south-west to east-north-east, the river running south-east between its banks.
        return Crossing(62.0, min(480.0, 0.42 * extent), 42.0, rail, 4.0, 25.0, 1400.0, 0.5, 1)
    low, high = (min(w, 0.5 * extent) for w in settings.river_width_m)
    width = float(rng.uniform(low, high))
    return Crossing(
        bearing_deg=float(rng.uniform(0, 180)),
        width_m=width,
        spacing_m=float(rng.uniform(30, 70)) if extent > 700 else float(rng.uniform(30, 42)),
        rail_offset_m=rail * float(rng.uniform(0.75, 1.0)) * float(rng.choice([-1, 1])),
        depth_m=float(rng.uniform(2.5, 5.5)),
        meander_m=float(rng.uniform(0.02, 0.25)) * width,
        meander_length_m=float(rng.uniform(4, 9)) * width,
        bar_height_m=float(rng.uniform(-0.1, 0.8)),
        islands=int(rng.integers(0, 3)),
    )


def terrain(settings: SceneSettings) -> Terrain:
    """Build every static field of a scene."""
    from affine import Affine

    plan = crossing(settings)
    gsd, shape = settings.gsd_m, (settings.shape_px[0] + 2 * MARGIN, settings.shape_px[1] + 2 * MARGIN)
    center = _center(settings)
    left = np.round(center[0] / gsd - shape[1] / 2) * gsd
    top = np.round(center[1] / gsd + shape[0] / 2) * gsd
    transform = Affine(gsd, 0.0, float(left), 0.0, -gsd, float(top))
    across, along, x, y = _frame(transform, shape, center, plan.bearing_deg)
    noise = {m: fractal(stream(settings.seed, "relief", m), shape, m / gsd, 2.2) for m in (25, 90, 300)}
    bank, shape_n = _channel(plan, across, along, noise, stream(settings.seed, "channel"))
    channel, top = _bed(plan, bank, shape_n, (across, along), noise, stream(settings.seed, "bed"))
    rise = bank_rise(bank)
    bed = np.asarray(channel * (1 - rise) + top * rise, dtype=np.float32)
    dy, dx = np.gradient(bed)
    cover = _cover(settings, plan, (x, y, across, bank, bed), (transform, shape, center), noise)
    return Terrain(
        transform=transform, shape=shape, crossing=plan, center=center, across_m=across, along_m=along,
        bank_m=bank, bed_m=bed, slope_m=np.hypot(dx, dy).astype(np.float32) + np.float32(1e-3),
        channel_m=channel, top_m=top, grain=grain(settings, shape),
        dem_error_m=_dem_error(settings, shape, bank), **cover,
    )  # fmt: skip


def _dem_error(settings: SceneSettings, shape: tuple[int, int], bank: Array) -> Array | None:
    """Error of the height model (m), smooth, smaller over water; None where there is none."""
    if settings.dem_error_m <= 0:
        return None
    field = fractal(stream(settings.seed, "dem"), shape, 120 / settings.gsd_m, 2.6)
    return field * np.float32(settings.dem_error_m) * (1 - np.float32(0.7) * smoothstep(bank, -5.0, 20.0))


def _center(settings: SceneSettings) -> tuple[float, float]:
    from pyproj import Transformer

    lonlat = Transformer.from_crs("EPSG:4326", settings.crs, always_xy=True)
    x, y = lonlat.transform(*settings.center_lonlat)
    return float(x), float(y)


def _frame(
    transform: Affine, shape: tuple[int, int], center: tuple[float, float], bearing_deg: float
) -> tuple[Array, Array, Array, Array]:
    """Coordinates along the axis and the flow, and easting and northing, from the center (m)."""
    ax, ay, fx, fy = _directions(bearing_deg)
    x = (transform.c + (np.arange(shape[1]) + 0.5) * transform.a - center[0])[None, :]
    y = (transform.f + (np.arange(shape[0]) + 0.5) * transform.e - center[1])[:, None]
    parts = (x * ax + y * ay, x * fx + y * fy, x + 0 * y, y + 0 * x)
    return tuple(part.astype(np.float32) for part in parts)


def _channel(
    plan: Crossing, across: Array, along: Array, noise: dict[int, Array], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Distance from the nearest bank (m, positive over water) and position across the channel (-1 to 1)."""
    phase = float(rng.uniform(0, 2 * np.pi))
    k = 2 * np.pi / plan.meander_length_m
    middle = plan.meander_m * (np.sin(k * along + phase) - np.sin(phase))
    half = plan.width_m / 2 * (1 + 0.06 * noise[300]) + 4 * noise[90] + 1.5 * noise[25]
    offset = across - middle
    return (half - np.abs(offset)).astype(np.float32), (offset / half).astype(np.float32)


def _bed(
    plan: Crossing,
    bank: Array,
    position: Array,
    frame: tuple[Array, Array],
    noise: dict[int, Array],
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Elevation (m above the mean water level) of the river's bed with its bars, and of the plain."""
    across, along = frame
    k, phase = 2 * np.pi / plan.meander_length_m, float(rng.uniform(0, 2 * np.pi))
    swing = np.sin(k * along + phase)
    channel = -plan.depth_m * np.exp(-(((position - 0.45 * swing) / 0.45) ** 2)) - 0.35
    bar = smoothstep(-position * np.sign(swing), 0.35, 0.95) * np.abs(swing) ** 0.5
    channel += bar * (plan.bar_height_m + 0.35) + 0.10 * noise[25] + 0.22 * noise[90] + 0.3 * noise[300]
    for _ in range(plan.islands):
        u, v = rng.uniform(-0.45, 0.45) * np.ptp(along), rng.uniform(-0.2, 0.2) * plan.width_m
        long, wide = rng.uniform(0.25, 0.6) * plan.width_m, rng.uniform(0.06, 0.12) * plan.width_m
        if abs(u) < long + 60:  # the crossing itself stays open water
            continue
        mound = np.exp(-(((along - u) / long) ** 2) - ((across - v) / wide) ** 2)
        channel += mound * float(rng.uniform(2.0, 4.5))
    top = 2.3 + 0.35 * noise[90] + 0.45 * noise[300] + 0.08 * noise[25] + 0.004 * np.maximum(-bank, 0)
    return channel, top


def bank_rise(bank_m: Array) -> Array:
    """Share of the way from the river's bed to the plain, by distance from the bank."""
    return smoothstep(-bank_m, -3.0, 17.0)


def _cover(
    settings: SceneSettings,
    plan: Crossing,
    parts: tuple[Array, Array, Array, Array, Array],
    grid: tuple[Affine, tuple[int, int], tuple[float, float]],
    noise: dict[int, Array],
) -> dict[str, Any]:
    """Land cover labels, roads, houses, heights, texture, parcels and the rail bridge."""
    x, y, across, bank, bed = parts
    transform, shape, center = grid
    rng = stream(settings.seed, "cover")
    land = -bank
    label = np.full(shape, GRASS, dtype=np.int32)
    extent_m = min(shape) * settings.gsd_m
    size = min(max(extent_m / 900, 0.3), 1.0)
    parcels, field_label = _parcels(rng, (x, y), center, size)
    wood = (
        fractal(
            stream(settings.seed, "wood"),
            shape,
            max(160.0, min(shape) * settings.gsd_m / 14) / settings.gsd_m,
            2.8,
        )
        + 0.25 * noise[25]
    )
    farm = across < 0 if rng.random() < 0.5 else across > 0
    share = np.where(farm, rng.uniform(-0.9, -0.2), rng.uniform(0.0, 0.9)).astype(np.float32)
    fields = (land > size * (45 + 10 * noise[90])) & (wood > share)
    label[fields] = field_label[fields]
    label[(land > 30) & (wood < share - rng.uniform(0.5, 0.9))] = FOREST
    label[(land < 60 * size) & (bed < 2.3 + 0.4 * noise[25]) & (noise[90] > -0.5)] = REED
    label[land < size * (16 + 5 * noise[25])] = GRASS
    label[bed < 1.1 + 0.25 * noise[25]] = SAND
    label[(bed < 0.9) & (noise[90] + 0.5 * noise[25] > 0.9)] = GRAVEL
    if settings.gsd_m < 4:
        label[_trees(settings, shape) & (land > 6) & (bed > 1.2)] = FOREST
    road, roof, roof_label = _built(rng, plan, (transform, shape, center), bank)
    label[roof > 0.5] = roof_label[roof > 0.5]
    forest = (label == FOREST).astype(np.float32)
    height = forest * (7 + 1.5 * noise[25]) + 4.5 * (roof > 0.5)
    rail, piers = _rail(plan, center)
    return {
        "label": label, "road": road, "roof": roof, "height_m": height.astype(np.float32), "parcels": parcels,
        "texture": _texture(settings, shape, label), "rail": rail, "rail_piers": piers,
    }  # fmt: skip


def _trees(settings: SceneSettings, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Crowns of single trees and bushes, 3 to 10 m across, some 6 a hectare, in clumps."""
    from scipy.ndimage import distance_transform_edt

    rng = stream(settings.seed, "trees")
    gsd = settings.gsd_m
    clump = fractal(rng, shape, 40 / gsd, 2.2)
    odds = np.float32(6e-4 * gsd**2) * np.exp(np.float32(0.9) * clump)
    seeds: NDArray[np.bool_] = rng.random(shape, dtype=np.float32) < odds
    if not seeds.any():
        return seeds
    distance, (rows, cols) = distance_transform_edt(~seeds, return_indices=True)
    radius = rng.uniform(1.5, 5.0, shape).astype(np.float32)
    return np.asarray(np.asarray(distance) * gsd < radius[rows, cols], dtype=np.bool_)


def _texture(settings: SceneSettings, shape: tuple[int, int], label: NDArray[np.int32]) -> Array:
    """Relative brightness pattern, so that no two pixels are alike: crowns, tussocks, soil patches."""
    amplitude = {
        GRASS: 0.10,
        REED: 0.11,
        FOREST: 0.16,
        SAND: 0.06,
        GRAVEL: 0.10,
        ROAD: 0.05,
        ROOF: 0.15,
        ROOF_BLUE: 0.1,
    }
    table = np.full(int(label.max()) + 1, 0.06, dtype=np.float32)
    for name, value in amplitude.items():
        if name < len(table):
            table[name] = value
    total = np.zeros(shape, dtype=np.float32)
    for index, (scale_m, weight) in enumerate(((1.2, 0.4), (2.5, 0.5), (9, 0.55), (35, 0.4), (150, 0.5))):
        if scale_m > 0.5 * settings.gsd_m:
            rng = stream(settings.seed, "texture", index)
            total += np.float32(weight) * fractal(rng, shape, scale_m / settings.gsd_m, 2.0)
    return np.asarray(np.clip(total * table[label], -0.45, 0.6), dtype=np.float32)


def _parcels(
    rng: np.random.Generator, xy: tuple[Array, Array], center: tuple[float, float], size: float
) -> tuple[tuple[Parcel, ...], NDArray[np.int32]]:
    """Cut the plain into fields, rows of unequal depth and field width; `size` below 1 makes garden plots."""
    from shapely import box
    from shapely.affinity import rotate, translate

    turn = float(rng.uniform(-45, 45))
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    p, q = c * xy[0] + s * xy[1], -s * xy[0] + c * xy[1]
    reach = float(max(np.abs(p).max(), np.abs(q).max())) + 200
    edges = np.cumsum(size * rng.uniform(45, 130, int(2 * reach / 45 / size) + 2)) - reach
    widths, starts = size * rng.uniform(50, 220, edges.size), rng.uniform(0, 200, edges.size)
    row = np.searchsorted(edges, q)
    col = np.floor((p + reach + starts[row]) / widths[row]).astype(np.int32)
    code = row.astype(np.int64) * 4096 + col
    codes, inverse = np.unique(code, return_inverse=True)
    label = (inverse.reshape(code.shape) + FIELD).astype(np.int32)
    path = 3 * size
    beside = (p + reach + starts[row]) % widths[row] < path
    label[beside | (np.abs(q - edges[np.minimum(row, edges.size - 1)]) < path)] = GRASS
    parcels = []
    for index, number in enumerate(codes):
        r, k = divmod(int(number), 4096)
        low = edges[r - 1] if r else -reach
        west = k * widths[r] - reach - starts[r]
        flat = box(west, low, west + widths[r], edges[min(r, edges.size - 1)])
        shape = translate(rotate(flat, turn, origin=(0, 0)), *center)
        parcels.append(_parcel(rng, index + FIELD, shape))
    return tuple(parcels), label


def _parcel(rng: np.random.Generator, label: int, shape: Any) -> Parcel:
    """Draw a field's calendar: crops of the region are sown in May and harvested from mid September."""
    return Parcel(
        label=label,
        box=shape,
        crop=bool(rng.random() < 0.85),
        paddy=bool(rng.random() < 0.25),
        sow_doy=float(rng.normal(135, 12)),
        harvest_doy=float(rng.normal(272, 13)),
        plow_lag_d=float(rng.choice([5, 15, 40, 200])),
        vigor=float(rng.uniform(0.6, 1.0)),
        soil=float(rng.uniform(0.75, 1.35)),
        film=bool(shape.area < 2500 and rng.random() < 0.5),
    )


def _built(
    rng: np.random.Generator,
    plan: Crossing,
    grid: tuple[Affine, tuple[int, int], tuple[float, float]],
    bank: Array,
) -> tuple[Array, Array, NDArray[np.int32]]:
    """Roads and a few hamlets that stand through the whole stack."""
    from shapely import LineString, box
    from shapely.affinity import rotate

    transform, shape, center = grid
    road, roof = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    kind = np.full(shape, ROOF, dtype=np.int32)
    ax, ay, fx, fy = _directions(plan.bearing_deg)
    far = 1.5 * max(shape) * transform.a
    for side in (-1, 1):
        v = side * (plan.width_m / 2 + float(rng.uniform(60, 140)))
        bend = float(rng.uniform(-0.2, 0.2))
        u = np.linspace(-far, far, 60)
        w = v + bend * u + 12 * np.sin(u / 130 + float(rng.uniform(0, 6)))
        w = np.where(np.abs(w) < plan.width_m / 2 + 40, side * (plan.width_m / 2 + 40), w)
        line = LineString(np.column_stack([center[0] + w * ax + u * fx, center[1] + w * ay + u * fy]))
        _stamp(road, line.buffer(float(rng.uniform(2.5, 4.5))), transform)
        for _ in range(int(rng.integers(1, 3))):
            spot = line.interpolate(float(rng.uniform(0.3, 0.7)), normalized=True)
            for _ in range(int(rng.integers(4, 16))):
                hx, hy = spot.x + float(rng.normal(0, 60)), spot.y + float(rng.normal(0, 60))
                house = box(hx, hy, hx + float(rng.uniform(6, 22)), hy + float(rng.uniform(6, 12)))
                where = _stamp(roof, rotate(house, float(rng.uniform(0, 90))), transform)
                if where is not None and rng.random() < 0.3:
                    kind[where] = ROOF_BLUE
    roof[bank > -25] = 0
    road[bank > -8] = 0
    return road, roof, kind


def _stamp(layer: Array, shape: Any, transform: Affine) -> Any:
    """Raise a coverage layer to that of a footprint; returns the window touched."""
    found = window_coverage(shape, transform, (layer.shape[0], layer.shape[1]), 4)
    if found is None:
        return None
    layer[found[0]] = np.maximum(layer[found[0]], found[1])
    return found[0]


def _rail(plan: Crossing, center: tuple[float, float]) -> tuple[Any, tuple[Any, ...]]:
    """Rail bridge with the spans of the Tumen bridge (33 + 8 x 67 + 54 m), scaled to the river's width."""
    from shapely import LineString

    ax, ay, fx, fy = _directions(plan.bearing_deg + 4)
    spans = np.array([33.0, *[67.0] * 8, 54.0]) * min(1.0, (plan.width_m + 60) / 623)
    t = np.concatenate([[0], np.cumsum(spans)]) - spans.sum() / 2
    base = (center[0] + plan.rail_offset_m * fx, center[1] + plan.rail_offset_m * fy)
    points = np.column_stack([base[0] + t * ax, base[1] + t * ay])
    deck = LineString([points[0], points[-1]]).buffer(3.5, cap_style="flat")
    piers = tuple(
        LineString([p + np.array([fx, fy]) * 6, p - np.array([fx, fy]) * 6]).buffer(1.8, cap_style="flat")
        for p in points
    )
    return deck, piers


def shaded(height_m: Array, elevation_deg: float, azimuth_deg: float, gsd_m: float) -> Array:
    """Share of light lost to shadows of standing things, 0 or 1, float32 `(y, x)`."""
    reach = float(height_m.max()) / np.tan(np.deg2rad(elevation_deg)) / gsd_m
    out = np.zeros(height_m.shape, dtype=bool)
    steps = int(min(np.ceil(reach), 24))
    for k in range(1, steps + 1):
        distance = reach * k / steps
        shift = (
            round(distance * np.cos(np.deg2rad(azimuth_deg))),
            round(-distance * np.sin(np.deg2rad(azimuth_deg))),
        )
        lowered = np.roll(height_m, shift, (0, 1)) - np.float32(
            distance * gsd_m * np.tan(np.deg2rad(elevation_deg))
        )
        out |= lowered > height_m + np.float32(0.5)
    return out.astype(np.float32)
