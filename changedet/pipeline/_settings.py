"""Settings found by inspection: a name, a default and a type, each declared once, where it is used."""

from __future__ import annotations

import functools
import inspect
import json
import operator
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from changedet.errors import SettingError

Declarer = Callable[..., Any]
"""A frozen options record, or a function whose keyword-only parameters are settings."""

_PLAIN = (bool, int, float, str, types.NoneType)
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_RESOURCES = ("threads",)
"""Keywords on which no result depends."""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Parameters
    ----------
    key : ``section.option``, or ``section.method.option``
    default : value as declared
    kind : type as declared, without what no file can hold
    meaning : what the docstring says of it
    """

    key: str
    default: Any
    kind: Any
    meaning: str = ""

    @property
    def optional(self) -> bool:
        """True where none is a value."""
        return types.NoneType in get_args(self.kind)

    def check(self, value: Any) -> Any:
        """Return a value in the declared type.

        Raises
        ------
        SettingError
            It is of another type.
        """
        if self.optional and value in (None, "none"):
            return None
        try:
            if value != value:
                raise ValueError("not a number")
            return _adapter(self.kind).validate_json(json.dumps(value, default=str), strict=True)
        except (ValueError, TypeError) as error:  # pydantic's own error is a ValueError
            raise SettingError(
                f"{self.key} is {value!r}; wanted {words(self.kind)}; its default is {self.default!r}"
            ) from error


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the checker of a type."""
    return TypeAdapter(kind)


def words(kind: Any) -> str:
    """Say in words what values a type has.

    >>> words(int | None), words(Literal["a", "b"])
    ('a whole number or none', 'one of a, b')
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        known = " or ".join(words(k) for k in inner if k is not types.NoneType)
        return f"{known} or none" if types.NoneType in inner else known
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (tuple, list):
        return "a list of " + " and ".join(dict.fromkeys(words(k) for k in inner if k is not Ellipsis))
    return _WORDS.get(kind, str(kind))


def plain(kind: Any) -> Any:
    """Return a type without the members that no file can hold; None where nothing is left.

    >>> plain(str | bytes)
    <class 'str'>
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _PLAIN or origin is Literal:
        return kind
    if origin in (tuple, list):
        return kind if inner and all(k is Ellipsis or plain(k) for k in inner) else None
    if origin in (Union, types.UnionType):
        kept = [p for p in map(plain, inner) if p is not None]
        return functools.reduce(operator.or_, kept) if any(k is not types.NoneType for k in kept) else None
    return None


@dataclass(frozen=True)
class Section:
    """What declares the settings of one step.

    Parameters
    ----------
    declares : option records and functions
    methods : table of methods, each with settings of its own
    given : keywords that the pipeline itself supplies
    """

    declares: tuple[Declarer, ...] = ()
    methods: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()

    def settings(self, name: str) -> Iterator[Setting]:
        """Yield the settings of the step and of its methods."""
        for source in self.declares:
            yield from self._of(source, name)
        for method, entry in self.methods.items():
            yield from self._of(getattr(entry, "kernel", None) or entry, f"{name}.{method}")

    def _of(self, source: Declarer, prefix: str) -> Iterator[Setting]:
        """Yield the settings that one record or function declares."""
        meanings = _meanings(source)
        for option, default, kind in declared(source):
            if option not in self.given:
                yield Setting(f"{prefix}.{option}", default, kind, meanings.get(option, ""))


def declared(source: Declarer) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, default and type of what a record or a function declares."""
    for name, default, hint in _candidates(source):
        kind = plain(hint)
        if kind is not None and name not in _RESOURCES:
            yield name, default, kind


def _candidates(source: Declarer) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, default and resolved annotation of fields, or of keyword-only parameters."""
    if isinstance(source, type) and is_dataclass(source):
        hints = get_type_hints(source)
        for one in fields(source):
            if one.default is not MISSING:
                yield one.name, one.default, hints[one.name]
        return
    scope = getattr(inspect.unwrap(source), "__globals__", {})
    for p in inspect.signature(source).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty:
            yield p.name, p.default, _resolved(p.annotation, scope)


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    """Return an annotation that may be text as a type; ``object`` where its names are not there to see."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(holder, scope)["it"]
    except (NameError, TypeError):
        return object


def _meanings(source: Declarer) -> dict[str, str]:
    """Return what a docstring in numpydoc's short form says of each parameter."""
    lines = inspect.cleandoc(source.__doc__ or "").splitlines()
    out: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        head = re.match(r"(\w+(?:, \w+)*) : (.*)", line)
        if head:
            names = head[1].split(", ")
            out.update(dict.fromkeys(names, head[2].strip()))
        elif line.startswith("    ") and names:
            out.update({n: f"{out[n]} {line.strip()}" for n in names})
        else:
            names = []
    return out
