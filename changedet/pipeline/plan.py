"""The plan: every setting of a run in one frozen record, to and from TOML.

Nothing is declared here: :data:`STEPS` says which record or function declares the settings of a step, and the
plan reads names, defaults and types there.
"""

from __future__ import annotations

import functools
import json
import math
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from changedet import detector
from changedet.errors import MissingInputError, SettingError, UnknownSettingError, UnreadableError
from changedet.pipeline._options import (
    ComputeOptions,
    DiffOptions,
    ReadOptions,
    RunOptions,
    SensitivityOptions,
    WriteOptions,
)
from changedet.pipeline._settings import Declarer, Section, Setting, declared
from changedet.steps import (
    aggregate,
    align,
    breaks,
    bridge,
    classify,
    difference,
    normalize,
    report,
    segment,
    threshold,
    track,
)

STEPS: Mapping[str, Section] = {
    "run": Section((RunOptions,)),
    "read": Section((ReadOptions,)),
    "align": Section((align.align,)),
    "normalize": Section((normalize.normalize,)),
    "aggregate": Section((aggregate.block_size,)),
    "detector": Section((detector.Options,)),
    "breaks": Section((breaks.Noise,)),
    "track": Section((track.Persistence, track.Growth)),
    "classify": Section((classify.Rules,)),
    "bridge": Section((bridge.Rules,)),
    "report": Section((report.report_html,)),
    "sensitivity": Section((SensitivityOptions,)),
    "diff": Section((DiffOptions,)),
    "difference": Section(methods=difference.METHODS),
    "threshold": Section((threshold.threshold,), methods={**threshold.METHODS, **threshold.STATISTICS}),
    "segment": Section((segment.segment,), given=("high",)),
    "write": Section((WriteOptions,)),
    "compute": Section((ComputeOptions,)),
}
"""The steps in order, and what declares their settings. Nothing else lists them."""

SHARED = {"seed": "run.seed"}
"""Options that several steps declare and one setting gives."""

CHOOSERS = {"difference": "diff.method", "threshold": "diff.threshold"}
"""Steps with methods, and the setting that names the method."""

_Record = TypeVar("_Record")


@functools.cache
def settings() -> Mapping[str, Setting]:
    """Return every setting by its key, in the order of the steps."""
    found = {s.key: s for name, section in STEPS.items() for s in section.settings(name)}
    return {k: s for k, s in found.items() if k.rpartition(".")[2] not in SHARED or k in SHARED.values()}


@dataclass(frozen=True)
class Plan:
    """Every setting of a run; ``Plan()`` holds the defaults.

    Parameters
    ----------
    pairs : (key, value), in any order, the rest being defaults; complete and in order once made

    Raises
    ------
    UnknownSettingError, SettingError
        A key does not exist, or a value is of another type than declared.

    >>> Plan().with_set(["run.alpha=0.01"]).alpha
    0.01
    """

    pairs: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check what was given and add the defaults."""
        known = settings()
        given = dict(self.pairs)
        for key in given:
            if key not in known:
                raise UnknownSettingError(key, known)
        full = ((k, s.check(given[k]) if k in given else s.default) for k, s in known.items())
        object.__setattr__(self, "pairs", tuple(full))
        for section in STEPS.values():
            for source in section.declares:
                if isinstance(source, type):
                    self.record(source)  # records check what their types cannot say

    # ------------------------------------------------------------------------------------------- reading

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """Every key and its value."""
        return dict(self.pairs)

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return int(self.values["run.seed"])

    @property
    def alpha(self) -> float:
        """False-alarm level."""
        return float(self.values["run.alpha"])

    @property
    def min_area_m2(self) -> float | None:
        """Smallest area of an object, None = from the pixel size."""
        area: float | None = self.values["run.min_area_m2"]
        return area

    def section(self, name: str) -> dict[str, Any]:
        """Return the options of a step (``track``), or of a method of it (``difference.cva``).

        Raises
        ------
        UnknownSettingError
            There is no such section.
        """
        at = f"{name}."
        found = {k.removeprefix(at): v for k, v in self.pairs if k.startswith(at)}
        if not found and name not in _section_names():
            raise UnknownSettingError(name, _section_names())
        return {k: v for k, v in found.items() if "." not in k}

    def record(self, kind: type[_Record]) -> _Record:
        """Return an options record (``track.Persistence``) filled in."""
        return kind(**self.keywords(kind))

    def keywords(self, source: Declarer) -> dict[str, Any]:
        """Return the keyword arguments of a function or record that :data:`STEPS` names.

        Raises
        ------
        SettingError
            No section names it.
        """
        for name, section in STEPS.items():
            if source in section.declares:
                known = self.section(name)
                shared = {option: self.values[key] for option, key in SHARED.items()}
                options = [option for option, _, _ in declared(source) if option not in section.given]
                return {o: known[o] if o in known else shared[o] for o in options}
        raise SettingError(f"no section of the plan is declared by {source!r}; add it to pipeline.STEPS")

    def to_dict(self) -> dict[str, Any]:
        """Return nested tables, as ``run.json`` holds them."""
        out: dict[str, Any] = {}
        for key, value in self.pairs:
            *tables, option = key.split(".")
            place = functools.reduce(lambda at, name: at.setdefault(name, {}), tables, out)
            place[option] = list(value) if isinstance(value, tuple) else value
        return out

    def to_toml(self) -> str:
        """Return the plan as TOML, with what each setting means."""
        lines = ['# Every setting of changedet. Feed it back with --plan; "none" stands for no value.']
        known, table = settings(), ""
        for key, value in self.pairs:
            here, _, option = key.rpartition(".")
            if here != table:
                lines += ["", f"[{here}]"]
                table = here
            lines += [f"# {line}" for line in textwrap.wrap(known[key].meaning.replace("`", ""), 100)]
            lines.append(f"{option} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    # ------------------------------------------------------------------------------------------- changing

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> Plan:
        """Make a plan from nested tables; what they leave out is default.

        Raises
        ------
        UnknownSettingError, SettingError
            A key does not exist, or a value is of another type.
        """
        return cls(tuple(_flat(tables)))

    @classmethod
    def from_toml(cls, source: str | Path) -> Plan:
        """Read a plan from TOML text, or from a file: TOML, or the ``run.json`` of an earlier run.

        Parameters
        ----------
        source : a path; or text, which has a line end or an equals sign

        Raises
        ------
        MissingInputError, UnreadableError
            The file is not there, or cannot be read.
        SettingError, UnknownSettingError
            It is no TOML, or holds what is no setting.
        """
        if isinstance(source, str) and ("\n" in source or "=" in source or not source):
            return cls.from_dict(_parsed(source, "the plan"))
        return cls.from_dict(_read(Path(source)))

    def with_values(self, changes: Mapping[str, Any]) -> Plan:
        """Return a copy with some settings changed, by key.

        Raises
        ------
        UnknownSettingError, SettingError
            A key does not exist, or a value is of another type.
        """
        return Plan(tuple({**self.values, **changes}.items()))

    def with_set(self, assignments: Iterable[str]) -> Plan:
        """Return a copy with settings changed by ``step.option=value`` texts.

        An option of a method may be written without the method's name: it then counts for the method that is
        chosen, or for every method that has it where none is chosen by name.

        Raises
        ------
        SettingError, UnknownSettingError
            A text has no equals sign, names no setting, or gives a value of another type.
        """
        changes: dict[str, Any] = {}
        for text in assignments:
            key, equals, value = (part.strip() for part in text.partition("="))
            if not equals:
                raise SettingError(f"--set {text!r} has no value; wanted step.option=value")
            for full in _keys(key, {**self.values, **changes}):
                changes[full] = _from_text(settings()[full], value)
        return self.with_values(changes) if changes else self


def _keys(key: str, values: Mapping[str, Any]) -> list[str]:
    """Return the settings that a key names, where the method is chosen by ``values``."""
    known = settings()
    if key in known:
        return [key]
    step, _, option = key.partition(".")
    if step in CHOOSERS:
        methods = [m for m in STEPS[step].methods if f"{step}.{m}.{option}" in known]
        chosen = values[CHOOSERS[step]]
        if chosen in STEPS[step].methods:
            methods = [m for m in methods if m == chosen]
        if methods:
            return [f"{step}.{m}.{option}" for m in methods]
    raise UnknownSettingError(key, known)


def _section_names() -> set[str]:
    """Return the names of the sections, methods included."""
    return {*STEPS, *(f"{step}.{m}" for step, section in STEPS.items() for m in section.methods)}


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested tables with dotted keys."""
    for name, value in tables.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _read(path: Path) -> dict[str, Any]:
    """Read the tables of a plan from a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingInputError(f"{path} does not exist; wanted a plan, as a run writes it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}; wanted a plan in TOML") from error
    if path.suffix.lower() != ".json":
        return _parsed(text, str(path))
    try:
        tables = json.loads(text)["plan"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{path} holds no plan ({error}); wanted the run.json of a run") from error
    return dict(tables)


def _parsed(text: str, name: str) -> dict[str, Any]:
    """Parse TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{name} is no TOML: {error}; wanted lines such as min_after = 3") from error


def _from_text(setting: Setting, text: str) -> Any:
    """Read a value given as text: as TOML writes it, or bare."""
    try:
        return setting.check(tomllib.loads(f"it = {text}")["it"])
    except (tomllib.TOMLDecodeError, SettingError):
        pass
    try:
        return setting.check([part.strip() for part in text.split(",")])
    except SettingError:
        return setting.check(text)


def _toml(value: Any) -> str:
    """Write a value as TOML."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
