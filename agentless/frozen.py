"""JSON-like values that cannot change: what settings keep of TOML tables and of the caller's dicts."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Never, TypeVar

T = TypeVar("T")


class FrozenDict(dict[str, Any]):
    """A dict that refuses to change, and that can be hashed if its values can.

    A dict all the same, so that `json.dumps`, `**` and `isinstance` take it; `thaw` makes a plain one.
    """

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> Never:
        raise TypeError("settings cannot be changed; with_overrides(key=value) makes others")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __copy__(self) -> "FrozenDict":
        return self

    def __deepcopy__(self, memo: object) -> "FrozenDict":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """A deep copy of JSON-like data in which dicts are `FrozenDict`s and lists are tuples."""
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """A deep copy of frozen data in plain dicts and lists: the caller's own, fit for the wire."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value


class kept(Generic[T]):  # noqa: N801  # a decorator, used as `property` is
    """A property worked out at its first use.

    `functools.cached_property` of Python 3.11 holds a lock of the whole class meanwhile: threads wait for
    each other's, and a child that was forked then waits for ever. Here two threads may both work it out.
    """

    def __init__(self, work_out: Callable[[Any], T]) -> None:
        self._work_out = work_out
        self.__doc__ = work_out.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        value = instance.__dict__[self._work_out.__name__] = self._work_out(instance)
        return value
