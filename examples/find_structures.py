"""Find what was built in a folder of GeoTIFFs, through the public API.

    python examples/find_structures.py [OUT]

The scenes are simulated, so that the example needs no download and what it finds can be held against the
truth. With scenes of your own, begin at ``open_stack``.
"""

import sys
from pathlib import Path

import changedet as cd
from changedet.demo import write_scenes
from changedet.simulate import SceneSettings, simulate

out = Path(sys.argv[1] if len(sys.argv) > 1 else "example")

# Fourteen scenes of a small river crossing at 3 m, written as an analyst would have them: one GeoTIFF a date,
# its cloud mask beside it.
settings = SceneSettings.for_sensor(
    "planet", seed=1, shape_px=(160, 200), n_dates=14, river_width_m=(90.0, 180.0)
)
simulation = simulate(settings)
write_scenes(simulation, out / "scenes")

# What was recognised. Nothing is guessed in silence: `why` holds every decision.
scenes = cd.find_scenes(out / "scenes")
first = scenes[0]
print(f"{len(scenes)} scenes from {str(first.date)[:10]} on, bands {', '.join(first.bands)}")
print(f"scale: {first.why['scale']}; mask: {first.why['mask']}")

# The stack: reflectance (time, band, y, x), NaN where a pixel may not be used.
stack = cd.open_stack(scenes)

# The main job: align, normalize, weigh the evidence, date and judge every object.
found = cd.detect(stack)

columns = ["id", "kind", "status", "last_absent", "first_seen", "area_m2", "over"]
table = found.structures[columns].assign(area_m2=found.structures.area_m2.round())
print(table.to_string(index=False))
print(f"{len(found.alarms)} candidates were rejected: {found.alarms.reason.value_counts().to_dict()}")

# Found against true. A structure appeared after last_absent and not later than first_seen.
scores = cd.evaluate(found.structures, simulation.truth)
objects, dates = scores["objects"], scores["dates"]
print(
    f"{objects['matched']} of {objects['n_truth']} true structures found, F1 {objects['f1']:.2f}; "
    f"the true date lies in the interval of {dates['covered']} of {dates['n_dated']}"
)

# The files of `changedet run`: vectors, rasters, an offline report, run.json.
files = found.to_files(out / "results", overwrite=True)
print(f"wrote {len(files)} files; open {out / 'results' / 'report.html'}")
