"""Dataclasses from JSON and back, every value checked against its type."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from hfft.errors import HfftError

T = TypeVar("T")


def plain(value: object) -> object:
    """Return JSON's own kinds of values; what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json(value: Any) -> Any:
    """Return JSON's own kinds of values: dataclasses become objects, paths text, what is not finite null."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(each) for each in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):  # numpy's own kinds
        return as_json(value.tolist())
    return str(value)


def build(cls: type[T], data: object, where: str) -> T:
    """Make a dataclass of a JSON object, field by field, each checked against its type.

    Args:
        cls: the dataclass; keys that it does not know are passed over.
        data: what `json.loads` gave.
        where: what an error calls the place.

    Raises:
        HfftError: a key is missing, or a value is of the wrong kind.
    """
    if not isinstance(data, dict):
        raise HfftError(f"{where}: expected an object, found {_short(data)}")
    assert is_dataclass(cls)
    hints, values = get_type_hints(cls), {}
    for item in fields(cls):
        if item.name in data:
            values[item.name] = _value(hints[item.name], data[item.name], f"{where}: {item.name}")
        elif item.default is MISSING and item.default_factory is MISSING:
            raise HfftError(f"{where}: {item.name} is missing; this is not a record that hfft wrote")
    return cls(**values)


def _value(kind: Any, data: object, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin is UnionType:
        return None if data is None else _value(next(k for k in inner if k is not NoneType), data, where)
    if origin is list and isinstance(data, list):
        return [_value(inner[0], item, f"{where}[{index}]") for index, item in enumerate(data)]
    if origin is tuple and isinstance(data, list) and inner[1:] == (Ellipsis,):
        return tuple(_value(inner[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    if origin is tuple and isinstance(data, list) and len(data) == len(inner):
        return tuple(_value(part, item, where) for part, item in zip(inner, data, strict=True))
    if origin is dict and isinstance(data, dict):
        return {key: _value(inner[1], item, f"{where}.{key}") for key, item in data.items()}
    if origin is Literal and data in inner:
        return data
    if is_dataclass(kind):
        return build(kind, data, where)  # type: ignore[arg-type]  # is_dataclass holds for instances too
    return _scalar(kind, data, where)


def _scalar(kind: Any, data: object, where: str) -> Any:
    if kind is float and data is None:
        return math.nan  # JSON has no word for it
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in (str, bool, float) and isinstance(data, kind):
        return data
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    name = getattr(kind, "__name__", str(kind))
    raise HfftError(f"{where}: expected {name if not get_args(kind) else kind}, found {_short(data)}")


def _short(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
