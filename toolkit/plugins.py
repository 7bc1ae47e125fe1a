"""Find plug-ins by file name, or by an entry point of an installed package.

A plug-in is one file in a folder: `toolkit/prune/criteria/magnitude_l1.py` is the criterion `magnitude-l1`, and ends
with `PLUGIN: Criterion = ...`. An installed package offers one by an entry point of the group `vit_toolkit.criterion`.
The folder's `__init__.py` names the kind: `KIND = "criterion"`. Listing names reads files and imports none of them.

A plug-in may have three attributes:

- `needs`, the packages that it imports when it is used, by module name. Its file imports them inside functions, so that
  the plug-in can be described where they are missing.
- `defaults`, values for other settings of its section, where the recipe has none.
- `settings`, a `Section` with its default settings. It is then a frozen dataclass, and `load` returns a copy with the
  settings of the recipe.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.errors import MissingDependency, PluginError, ToolkitError, UnknownName, plainly

if TYPE_CHECKING:
    from importlib.abc import Traversable

DISTRIBUTION = "vit-toolkit"
ENTRY_POINTS = "vit_toolkit"
"""Prefix of the groups of entry points."""
_PLUGIN_LINE = re.compile(r"^PLUGIN\b", re.MULTILINE)
"""Matches the definition of PLUGIN; files without it are shared code."""
_KIND_LINE = re.compile(r'^KIND = "([\w-]+)"$', re.MULTILINE)
_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)[^;]*(?:;.*\bextra == ["'](?P<extra>[\w-]+)["'])?""")


class Place(NamedTuple):
    """Where a plug-in is defined."""

    module: str
    attribute: str
    origin: str
    """A path, or an entry point and its package; for messages."""


def ignore(message: str) -> None:
    """Discard a message."""


def names(package: str) -> list[str]:
    """Sorted names of the plug-ins of `package` ("toolkit.prune.criteria"), without importing them."""
    return sorted(places(package))


def places(package: str) -> dict[str, list[Place]]:
    """Where each plug-in of `package` is defined, by name; more than one place is an error once it is used."""
    return _places(package, (*map(_changed, (str(_folder(package)), *sys.path)),))


def _changed(path: str) -> tuple[str, int]:
    """A path with its time of change, which is another one after an installation."""
    try:
        return path, Path(path).stat().st_mtime_ns
    except OSError:  # inside a zip file, or missing
        return path, 0


@lru_cache(maxsize=128)
def _places(package: str, state: object) -> dict[str, list[Place]]:
    """`places`, for this state of the folders that are searched."""
    result: dict[str, list[Place]] = {}
    for file in _folder(package).iterdir():
        if file.name.endswith(".py") and _PLUGIN_LINE.search(file.read_text(encoding="utf-8")):
            stem = file.name.removesuffix(".py")
            name = stem.rstrip("_").replace("_", "-")
            result.setdefault(name, []).append(Place(f"{package}.{stem}", "PLUGIN", str(file)))
    for point in metadata.entry_points(group=f"{ENTRY_POINTS}.{kind_of(package)}"):
        owner = point.dist.name if point.dist else "an unknown package"
        origin = f"{point.value} (entry point of {owner})"
        result.setdefault(point.name, []).append(Place(point.module, point.attr or "PLUGIN", origin))
    return result


def find(package: str, name: str) -> Any:
    """The `PLUGIN` called `name`, with its default settings; the packages that it needs may be missing.

    Raises UnknownName with the closest names, PluginError for a file that cannot be imported and for two plug-ins of
    one name, MissingDependency for a package that the file itself imports.
    """
    known = places(package)
    if name not in known:
        raise UnknownName(kind_of(package), name, known)
    what, origins = f"{kind_of(package)} {name!r}", " and ".join(place.origin for place in known[name])
    if len(known[name]) > 1:
        raise PluginError(f"there is more than one {what}: {origins}", "rename one, or uninstall its package")
    (place,) = known[name]
    try:
        plugin = importlib.import_module(place.module)
        for attribute in place.attribute.split("."):
            plugin = getattr(plugin, attribute)
        return plugin
    except Exception as error:
        missing = _missing(error, place)
        if missing:
            raise MissingDependency(_needs(what, missing), install_hint(missing)) from error
        reason = f"{type(error).__name__}: {plainly(error)}"
        raise PluginError(f"{what} ({origins}) cannot be imported: {reason}", "repair or remove this file") from error


def load(package: str, name: str, settings: object | None = None) -> Any:
    """The `PLUGIN` called `name` with these settings (None: its defaults), ready to be used.

    Raises the errors of `find`, and MissingDependency for a package that it needs and that is not installed.
    """
    plugin = find(package, name)
    for need in needs_of(plugin):
        if not installed(need):
            raise MissingDependency(_needs(f"{kind_of(package)} {name!r}", need), install_hint(need))
    own = getattr(plugin, "settings", None)
    # The settings may belong to a plug-in of another kind with the same name.
    return replace(plugin, settings=settings) if own is not None and isinstance(settings, type(own)) else plugin


def load_with_json(package: str, name: str, settings: str) -> Any:
    """The `PLUGIN` called `name` with settings as JSON (empty: its defaults), which validates them."""
    plugin = load(package, name)
    own = getattr(plugin, "settings", None)
    return plugin if own is None or not settings else replace(plugin, settings=type(own).model_validate_json(settings))


def importable(package: str, tell: Callable[[str], None] = ignore) -> Iterator[tuple[str, Any]]:
    """The plug-ins of `package` by name, without those that cannot be imported; `tell` is called with a message about
    each."""
    for name in names(package):
        try:
            yield name, find(package, name)
        except ToolkitError as error:
            tell(error.message)


def needs_of(plugin: Any) -> tuple[str, ...]:
    """Packages that a plug-in needs, by module name."""
    needs: tuple[str, ...] = getattr(plugin, "needs", ())
    return needs


def defaults_of(plugin: Any) -> dict[str, object]:
    """Defaults of other settings of the section while this plug-in is chosen; see the module's docstring."""
    return dict(getattr(plugin, "defaults", {}))


def installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False
    except ValueError:  # already imported, without a spec
        return True


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the installed packages that hold these modules, by the package's name."""
    found: dict[str, str] = {}
    for module in modules:
        for name in _distributions(module):
            found[name] = metadata.version(name)
    return found


def requirements() -> list[str]:
    """Names of the packages that the toolkit itself requires, without its extras."""
    return [name for name, extra in _requirements() if extra is None]


def install_hint(module: str) -> str:
    """Installation hint for a module: the extra of the toolkit that contains its package, else the package."""
    package = _normalised(module)
    extras = [extra for name, extra in _requirements() if _normalised(name) == package and extra]
    return f"pip install '{DISTRIBUTION}[{extras[0]}]'" if extras else f"pip install {package}"


def kind_of(package: str) -> str:
    """What a plug-in in this package is called: toolkit.prune.criteria -> criterion."""
    text = _folder(package).joinpath("__init__.py").read_text(encoding="utf-8")
    match = _KIND_LINE.search(text)
    if match is None:
        raise ValueError(f'{package} has no line KIND = "..."')
    return match[1]


def _folder(package: str) -> Traversable:
    """The folder of a package, also inside a zip file; only the outermost package is imported."""
    top, *parts = package.split(".")
    folder = files(top)
    for part in parts:
        folder = folder.joinpath(part)
    if not folder.is_dir():
        raise ValueError(f"{package} is not a package")
    return folder


def _missing(error: Exception, place: Place) -> str:
    """The package that is not installed, if that is why a plug-in cannot be imported; else empty."""
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return "" if name in ("toolkit", place.module.split(".")[0]) else name


def _needs(what: str, module: str) -> str:
    return f"{what} needs the package {module!r}, which is not installed"


def _distributions(module: str) -> list[str]:
    """Names of the installed packages that hold a module: one of its own name, or of a variant such as
    onnxruntime-gpu, else any, which takes about a second to find out."""
    own = _normalised(module)
    variants = (required for required, _ in _requirements() if required.startswith(f"{own}-"))
    for name in (own, *(variants if installed(module) else ())):
        with suppress(metadata.PackageNotFoundError):
            return [metadata.distribution(name).name]
    if not installed(module):
        return []
    return metadata.packages_distributions().get(module.split(".", maxsplit=1)[0], [])


def _requirements() -> list[tuple[str, str | None]]:
    """Packages in the toolkit's metadata and the extra of each; none where the toolkit is not installed."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    matches = [match for line in lines if (match := _REQUIREMENT.match(line))]
    return [(match["name"], match["extra"]) for match in matches]


def _normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
