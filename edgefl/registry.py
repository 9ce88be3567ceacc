"""One mechanism for everything that is chosen by a name: a file of a package, or an entry point of a user's own.

    AGGREGATORS = Registry("aggregator", "edgefl.aggregators", "AGGREGATOR", group="edgefl.aggregators")
    AGGREGATORS.load("weighted_mean")      # edgefl/aggregators/weighted_mean.py, its AGGREGATOR

Invariants:

- the name of the file is the name in task files, and adding to a registry takes that file alone; a file whose name
  starts with ``_`` is a part of others and has no name;
- nothing is imported but what is asked for;
- installed packages are looked at only when no file has the name: reading their metadata takes some 20 ms and 4 MB,
  which an agent that uses what EdgeFL has never pays. So nobody can replace a file by a package of the same name.

An entry point names a *module* (``mine = "my_package.mine"``), which defines what a file of the package would.
docs/extending.md goes through it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgefl.errors import ConfigError
from edgefl.wording import near_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclass(frozen=True)
class Registry:
    """``what``       one of these, in errors: "aggregator".
    ``package``    the package whose files are registered.
    ``attribute``  what each file defines.
    ``group``      the group of entry points by which other packages add to it; "" for none.
    """

    what: str
    package: str
    attribute: str
    group: str = ""

    def names(self) -> tuple[str, ...]:
        """The names of the files, sorted: what every installation of this version has."""
        return _files(self.package)

    def installed(self) -> tuple[str, ...]:
        """The names that other installed packages add, sorted; slow, see above."""
        found = {point.name for point in _entry_points(self.group)}
        return tuple(sorted(found - set(self.names())))

    def load(self, name: str) -> Any:
        """What the module of that name defines as ``attribute``. Raises as ``module``."""
        return getattr(self.module(name), self.attribute)

    def build(self, name: str, options: Mapping[str, Any], **given: Any) -> Any:
        """Make the dataclass of that name: ``given`` are fields that each has, ``options`` those of a task file.

        Raises ``ConfigError`` as ``module``, for options that it does not have or lacks, and for what it refuses.
        """
        kind = self.load(name)
        fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in given}
        for key in options:
            if key not in fields:
                raise ConfigError(
                    f"{self.what} {name!r} has no {key!r}; "
                    + (f"expected of {', '.join(fields)}" if fields else "it has no options: leave it out")
                )
        for key, field in fields.items():
            if key not in options and field.default is dataclasses.MISSING:
                raise ConfigError(f"{self.what} {name!r} needs {key!r}, which has no default")
        return kind(**given, **options)

    def module(self, name: str) -> ModuleType:
        """The module of that name.

        Raises ``ConfigError`` when there is none, when several packages have the name, and when another package's
        module cannot be imported or lacks ``attribute``.
        """
        if name in self.names():
            return importlib.import_module(f"{self.package}.{name}")
        points = [point for point in _entry_points(self.group) if point.name == name]
        if not points:
            raise ConfigError(self._unknown(name))
        if len(points) > 1:
            where = ", ".join(sorted(point.value for point in points))
            raise ConfigError(f"{self.what} {name!r} is in several installed packages ({where}); expected it in one")
        return self._foreign(points[0])

    def _foreign(self, point: EntryPoint) -> ModuleType:
        try:
            module = point.load()
        except Exception as error:  # it is another's code: whatever it raises ends no server
            raise ConfigError(f"{self.what} {point.name!r} is {point.value!r}, which does not load: {error}") from error
        if not isinstance(module, ModuleType) or not hasattr(module, self.attribute):
            raise ConfigError(
                f"{self.what} {point.name!r} is {point.value!r}; expected a module that defines {self.attribute}"
            )
        return module

    def _unknown(self, name: str) -> str:
        known = sorted({*self.names(), *self.installed()})
        return f"{self.what} is {name!r}; expected one of {', '.join(known)}{near_name(name, known)}"


@functools.cache
def _files(package: str) -> tuple[str, ...]:
    found = (module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Not remembered: names are looked up when a task begins, and a package may come between two tasks."""
    if not group:
        return ()
    from importlib import metadata  # slow and large: for names that no file has

    # A distribution that stands twice on the path (an editable install beside another) gives equal points.
    return tuple(dict.fromkeys(metadata.entry_points(group=group)))
