"""Two tables by data set name: how to load its records, and what is known about it."""

from collections import UserDict
from collections.abc import Callable
from typing import Any


class Metadata:
    """What is known about one data set; a fact can be stated again but not changed."""

    name: str

    def __init__(self, name: str = "N/A") -> None:
        self.name = name

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"nothing is known of {key!r} for data set {self.name!r}, only {sorted(vars(self))}")

    def __setattr__(self, key: str, val: Any) -> None:
        known = vars(self).setdefault(key, val)
        if known != val:
            raise AssertionError(f"{key!r} of data set {self.name!r} is already set to {known}, it cannot become {val}")

    def as_dict(self) -> dict[str, Any]:
        """A copy as a plain dictionary."""
        return dict(vars(self))

    def set(self, **kwargs: Any) -> "Metadata":
        """State several facts at once; returns itself, for chaining."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """A fact, or `default` where it is not known."""
        return vars(self).get(key, default)


class _DatasetTable(UserDict):
    """Name -> function that returns the records of the data set."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Announce a data set. `func` takes nothing and gives the same records each time it is called."""
        if not callable(func):
            raise AssertionError(f"data set {name!r} needs a function that loads it, not {type(func).__name__}")
        if name in self:
            raise AssertionError(f"data set {name!r} is registered twice")
        self[name] = func

    def get(self, name: str) -> list[dict]:  # type: ignore[override]
        """Load and return the records of a data set."""
        if name not in self:
            raise KeyError(f"data set {name!r} is not registered; known are: {', '.join(sorted(self)) or 'none'}")
        return self[name]()

    def list(self) -> list[str]:
        """All names."""
        return [*self.data]

    def remove(self, name: str) -> None:
        """Forget a data set."""
        del self[name]


class _MetadataTable(UserDict):
    """Name -> Metadata, made empty at the first question."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """The metadata of a data set: always the same object."""
        return self.data.setdefault(name, Metadata(name=name))

    def list(self) -> list[str]:
        """All names that were asked for."""
        return [*self.data]

    def remove(self, name: str) -> None:
        """Forget what is known of a data set."""
        del self[name]


DatasetCatalog = _DatasetTable()
MetadataCatalog = _MetadataTable()
