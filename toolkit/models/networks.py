"""Which tensors of a file are the network that is wanted.

Whoever saves a model puts words before its names: an entry of a checkpoint (`state_dict`), a wrapper (`module.`,
`_orig_mod.`), the attribute that held it (`model.`, `backbone.`). No list of such words is kept: a network is wherever
names of the model follow one and the same prefix. A file may hold several.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from toolkit.characters import listed
from toolkit.errors import WeightsError

AVERAGES = frozenset(("ema", "swa", "averaged", "shadow"))
"""Words that mark a running average of the weights beside the weights themselves."""
USUAL = ("", "state_dict/", "model/")
"""Entries that hold the weights themselves."""


@dataclass(frozen=True)
class Network:
    """Tensors by the model's names, what stood before those names, and what else the file holds."""

    tensors: Mapping[str, Tensor]
    prefix: str
    others: tuple[str, ...]
    """Other networks in the file, by the names that `model.weights_key` takes."""
    left_out: tuple[str, ...]
    """Tensors of the same entry that belong to no network."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the choice."""
        said = []
        if self.prefix not in USUAL:
            said.append(f"the weights are the {len(self.tensors)} tensors below {label(self.prefix)!r}")
        if self.left_out:
            said.append(f"left out beside them: {listed(self.left_out)}")
        if self.others:
            said.append(f"also there: {', '.join(self.others)} (--weights-key {self.others[0]} takes that)")
        return tuple(said)


def choose(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], key: str | None, file: Path) -> Network:
    """The network in `tensors` for a model whose state is `own`; WeightsError where `key` is needed, or names none.

    Where no tensor has a name of the model's, the usual entry is taken whole: timm may know the names.
    """
    there = _networks(tensors, own)
    found = there if key is None else [prefix for prefix in there if _begins(prefix, label(key))]
    if key is not None and not found:
        raise WeightsError(f"{file} holds no network {key!r} for this model", f"there are: {', '.join(_keys(tensors))}")
    prefix = _preferred(found) if found else _usual_entry(tensors)
    if prefix is None:
        names = [_shortest(name, found) for name in found]
        raise WeightsError(
            f"{file} holds several networks: {', '.join(names)}", f"choose one, as in --weights-key {names[0]}"
        )
    return _taken(tensors, prefix, there)


def label(prefix: str) -> str:
    """A prefix as `model.weights_key` has it: "state_dict/module." is state_dict.module."""
    return prefix.replace("/", ".").rstrip(".")


def _begins(prefix: str, key: str) -> bool:
    return f"{label(prefix)}.".startswith(f"{key}.")


def _shortest(prefix: str, there: Collection[str]) -> str:
    """The fewest words of a prefix that `model.weights_key` needs to tell it from the others."""
    words = label(prefix).split(".")
    keys = (".".join(words[:count]) for count in range(1, len(words)))
    return next((key for key in keys if sum(_begins(other, key) for other in there) == 1), label(prefix))


def _networks(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Prefixes below which there is a network with the model's names; only those of its shapes where there are any."""
    named: Counter[str] = Counter()
    fitting: Counter[str] = Counter()
    for name, tensor in tensors.items():
        for start in _starts(name):
            if name[start:] in own:
                named[name[:start]] += 1
                fitting[name[:start]] += tensor.shape == own[name[start:]].shape
    most = max(named.values(), default=0)
    if most < len(own) / 4:
        return []
    found = [prefix for prefix, count in named.items() if count >= most / 2]
    return [prefix for prefix in found if fitting[prefix] >= most / 2] or found


def _starts(name: str) -> Iterable[int]:
    """Where a model's own name may begin inside a name."""
    return 0, *(mark.end() for mark in re.finditer(r"[./]", name))


def _preferred(found: list[str]) -> str | None:
    """Names without prefix; else the weights, not running averages of them; else a usual entry; None: it is open."""
    if "" in found:
        return ""
    once = [prefix for prefix in found if not AVERAGES.intersection(re.split(r"[./_]", prefix.lower()))]
    usual = [prefix for prefix in once if prefix.startswith(USUAL[1:])]
    for few in (found, once, usual):
        if len(few) == 1:
            return few[0]
    return None


def _usual_entry(tensors: Mapping[str, Tensor]) -> str:
    return next((entry for entry in reversed(USUAL) if entry and any(name.startswith(entry) for name in tensors)), "")


def _taken(tensors: Mapping[str, Tensor], prefix: str, found: list[str]) -> Network:
    others = [other for other in found if other != prefix]
    inside = [name for name in tensors if name.startswith(prefix)]
    below = tuple(other for other in others if other.startswith(prefix))
    entry = prefix[: prefix.rfind("/") + 1]
    return Network(
        {name.removeprefix(prefix): tensors[name] for name in inside if not (below and name.startswith(below))},
        prefix,
        tuple(_shortest(other, found) for other in others),
        tuple(
            name.removeprefix(entry)
            for name in tensors
            if name.startswith(entry) and "/" not in name.removeprefix(entry) and not name.startswith((prefix, *others))
        ),
    )


def _keys(tensors: Mapping[str, Tensor]) -> list[str]:
    """Entries and first words of names, the most frequent first."""
    firsts = Counter(re.split(r"[./]", name)[0] for name in tensors)
    return [name for name, _ in firsts.most_common(8)]
