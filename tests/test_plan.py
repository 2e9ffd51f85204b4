"""The plan: every setting once, checked, and the same after any trip through a file."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tomllib
import types
from typing import Literal, get_args, get_origin

import pytest
import xarray as xr
from hypothesis import given
from hypothesis import settings as settled
from hypothesis import strategies as st

from changedet.errors import (
    MissingInputError,
    SettingError,
    UnknownSettingError,
    UnreadableError,
)
from changedet.pipeline import STEPS, Plan, ReadOptions, RunOptions
from changedet.pipeline._options import ComputeOptions, memory_bytes
from changedet.pipeline._settings import Section, Setting, declared, plain, words
from changedet.pipeline.plan import settings
from changedet.steps import align, track
from changedet.steps.difference import METHODS

TEXTS = st.text(max_size=12).filter(
    lambda t: t.strip() != "none" and not any("\ud800" <= c <= "\udfff" for c in t)
)


def values(kind):
    """Any value of a declared type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        return st.lists(values(inner[0]), max_size=3).map(tuple)
    if inner:
        return st.one_of([values(k) for k in inner])
    known = {
        types.NoneType: st.none(),
        bool: st.booleans(),
        int: st.integers(1, 10**9),
        float: st.floats(1e-6, 0.999),
        str: TEXTS,
    }
    return known[kind]


def usable(setting):
    """Values that the setting's own record takes too."""
    return st.sampled_from(["2GB", "1.5 GiB"]) if setting.key == "compute.memory" else values(setting.kind)


plans = st.fixed_dictionaries({}, optional={k: usable(s) for k, s in settings().items()}).map(
    lambda changes: Plan().with_values(changes)
)


@settled(deadline=None)
@given(plans)
def test_a_plan_survives_toml_json_and_pickle(plan):
    assert Plan.from_toml(plan.to_toml()) == plan
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert hash(Plan.from_toml(plan.to_toml())) == hash(plan)


@settled(deadline=None)
@given(plans)
def test_set_gives_back_what_toml_holds(plan):
    lines, table = [], ""
    for line in plan.to_toml().split("\n"):
        if line.startswith("["):
            table = line.strip("[]")
        elif line and not line.startswith("#"):
            lines.append(f"{table}.{line}")
    assert Plan().with_set(lines) == plan


def test_defaults_are_those_of_the_signatures():
    plan = Plan()
    assert plan.record(track.Persistence) == track.Persistence()
    assert plan.record(RunOptions) == RunOptions()
    assert plan.keywords(align.align) == {o: d for o, d, _ in declared(align.align)}
    assert plan.section("difference.rcva") == {"radius_px": 1, "combine": "max"}
    assert (plan.seed, plan.alpha, plan.min_area_m2) == (0, 0.05, None)


def test_every_section_has_settings_and_every_setting_a_meaning():
    known = settings()
    for name, section in STEPS.items():
        assert any(k.startswith(f"{name}.") for k in known), name
        for method in section.methods:
            Plan().section(f"{name}.{method}")
    assert [k for k, s in known.items() if not s.meaning] == []


def test_the_seed_is_one_setting():
    plan = Plan().with_set(["run.seed=7"])
    for section in STEPS.values():
        for source in section.declares:
            keywords = plan.keywords(source)
            assert keywords.get("seed", 7) == 7
    with pytest.raises(UnknownSettingError):
        plan.with_set(["detector.seed=3"])


def test_toml_is_plain_and_says_what_settings_mean():
    text = Plan().to_toml()
    read = tomllib.loads(text)
    assert read["run"] == {"seed": 0, "alpha": 0.05, "min_area_m2": "none"}
    assert "# false-alarm level of the whole result, 0 to 1\nalpha = 0.05" in text


def test_set_takes_bare_words_lists_dates_and_none():
    plan = Plan().with_set([
        "read.since=2024-01-01", "read.bands=red, nir", 'read.band_names=["a"]', "align.reference=20240101",
        "run.min_area_m2 = 40", "difference.logratio.offset=none", "diff.threshold=otsu",
    ])  # fmt: skip
    read = plan.record(ReadOptions)
    assert (read.since, read.bands, read.band_names) == ("2024-01-01", ("red", "nir"), ("a",))
    assert plan.section("align")["reference"] == "20240101"
    assert plan.min_area_m2 == 40.0
    assert plan.section("difference.logratio")["offset"] is None
    assert plan.section("diff")["threshold"] == "otsu"
    assert plan.with_set(["diff.threshold=0.25"]).section("diff")["threshold"] == 0.25


def test_an_option_of_a_method_may_be_short():
    everywhere = Plan().with_set(["threshold.k=5"])
    assert (everywhere.values["threshold.robust.k"], everywhere.values["threshold.hysteresis.k"]) == (
        5.0,
        5.0,
    )
    chosen = Plan().with_set(["diff.threshold=robust", "threshold.k=5"])
    assert (chosen.values["threshold.robust.k"], chosen.values["threshold.hysteresis.k"]) == (5.0, 6.0)
    with pytest.raises(UnknownSettingError):
        Plan().with_set(["diff.method=absdiff", "difference.radius_px=2"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("track.min_afer=4", "did you mean 'track.min_after'"),
        ("trck.min_after=4", "did you mean 'track.min_after'"),
        ("difference.rcva.radius=2", "did you mean 'difference.rcva.radius_px'"),
        ("threshold.sigma=2", "unknown setting 'threshold.sigma'"),
    ],
)
def test_unknown_settings_name_the_nearest(text, wanted):
    with pytest.raises(UnknownSettingError, match=wanted) as caught:
        Plan().with_set([text])
    assert caught.value.exit_status == 2
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize(
    "text",
    [
        "track.min_after=four",
        "track.min_after=true",
        "track.min_after=2.5",
        "track.present=nan",
        "read.warp=1",
        "write.compress=lzw",
        "run.alpha=0",
        "run.alpha=1.5",
        "run.seed=-1",
        "run.min_area_m2=-1",
        "compute.workers=0",
        "compute.memory=lots",
        "track.min_after",
        "track.min_after=none",
    ],
)
def test_values_of_another_kind_are_refused(text):
    with pytest.raises(SettingError) as caught:
        Plan().with_set([text])
    assert "wanted" in str(caught.value) and not isinstance(caught.value, UnknownSettingError)


def test_files(tmp_path):
    plan = Plan().with_set(["track.min_after=4", "read.bands=red"])
    toml, record = tmp_path / "plan.toml", tmp_path / "run.json"
    toml.write_text(plan.to_toml(), encoding="utf-8")
    record.write_text(json.dumps({"version": "1", "plan": plan.to_dict()}), encoding="utf-8")
    assert Plan.from_toml(toml) == Plan.from_toml(str(record)) == plan
    part = tmp_path / "part.toml"
    part.write_text("[read]\nsince = 2024-05-01\n", encoding="utf-8")
    assert Plan.from_toml(part).section("read")["since"] == "2024-05-01"


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(MissingInputError, match=r"none\.toml does not exist"):
        Plan.from_toml(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\n", encoding="utf-8")
    with pytest.raises(SettingError, match="is no TOML"):
        Plan.from_toml(broken)
    other = tmp_path / "other.json"
    other.write_text("[]", encoding="utf-8")
    with pytest.raises(UnreadableError, match="holds no plan"):
        Plan.from_toml(other)
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UnreadableError):
        Plan.from_toml(tmp_path / "latin.toml")
    with pytest.raises(UnknownSettingError):
        Plan.from_toml("[run]\nalpha = {deep = 1}\n")


def test_a_plan_is_frozen():
    plan = Plan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.pairs = ()
    plan.section("run")["alpha"] = 0.5
    assert plan.alpha == 0.05


def test_unknown_sections_and_declarers():
    with pytest.raises(UnknownSettingError, match="did you mean 'track'"):
        Plan().section("trac")
    with pytest.raises(SettingError, match=r"pipeline\.STEPS"):
        Plan().keywords(memory_bytes)


def kernel(
    image,
    *,
    sigma: float = 1.0,
    source: str | xr.DataArray = "a",
    image_only: xr.DataArray | None = None,
    table: dict | None = None,
    threads: int = 1,
):
    """Do something.

    Parameters
    ----------
    image : what it works on
    sigma : width,
        in pixels
    source : where from
    """


def test_inspection_keeps_what_a_file_can_hold():
    found = {s.key: s for s in Section((kernel,), given=("source",)).settings("step")}
    assert list(found) == ["step.sigma"]
    assert found["step.sigma"] == Setting("step.sigma", 1.0, float, "width, in pixels")
    assert plain(str | xr.DataArray) is str
    assert plain(tuple[xr.DataArray, ...]) is None
    assert words(tuple[str, ...] | None) == "a list of text or none"


def test_a_new_setting_of_a_method_is_found_by_itself():
    for name, method in METHODS.items():
        options = {o for o, _, _ in declared(method.kernel)}
        assert set(Plan().section(f"difference.{name}")) == options


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 MiB", 3 * 2**19), ("77", 77)])
def test_amounts_of_memory(text, size):
    assert memory_bytes(text) == size
    assert ComputeOptions(memory=text).memory == text
