"""Select the model's network among the tensors of a file.

Saved names have prefixes: an entry of a checkpoint (`state_dict`), a wrapper (`module.`, `_orig_mod.`), an attribute
(`model.`, `backbone.`). There is no list of known prefixes: tensors that have the model's names after a common prefix
are a network. A file may contain several.
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
"""Words in prefixes that mark a running average of the weights."""
COMMON_ENTRIES = ("", "state_dict/", "model/")
"""Prefixes under which checkpoints commonly store the weights."""


@dataclass(frozen=True)
class Network:
    """Tensors by the model's names, the prefix that was removed, and what else the file contains."""

    tensors: Mapping[str, Tensor]
    prefix: str
    others: tuple[str, ...]
    """Other networks in the file, as values of `model.weights_key`."""
    left_out: tuple[str, ...]
    """Tensors of the same checkpoint entry that belong to no network."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user about the selection."""
        messages = []
        if self.prefix not in COMMON_ENTRIES:
            messages.append(f"using the {len(self.tensors)} tensors with the prefix {key_of(self.prefix)!r}")
        if self.left_out:
            messages.append(f"ignoring {listed(self.left_out)}")
        if self.others:
            messages.append(f"the file also contains {', '.join(self.others)} (use --weights-key {self.others[0]})")
        return tuple(messages)


def select(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], key: str | None, file: Path) -> Network:
    """The network in `tensors` for a model with the state dict `own`.

    Raises WeightsError if `key` matches no network, or is needed to choose among several. If no tensor has one of the
    model's names, all tensors of the common entry are taken, since timm may convert their names.
    """
    networks = _networks(tensors, own)
    matches = networks if key is None else [prefix for prefix in networks if _has_key(prefix, key_of(key))]
    if key is not None and not matches:
        raise WeightsError(f"{file} has no network {key!r} for this model", f"it contains {', '.join(_keys(tensors))}")
    prefix = _preferred(matches) if matches else _common_entry(tensors)
    if prefix is None:
        keys = [_shortest_key(match, matches) for match in matches]
        raise WeightsError(
            f"{file} contains several networks: {', '.join(keys)}", f"choose one, for example --weights-key {keys[0]}"
        )
    return _network(tensors, prefix, networks)


def key_of(prefix: str) -> str:
    """A prefix in the form of `model.weights_key`: "state_dict/module." becomes "state_dict.module"."""
    return prefix.replace("/", ".").rstrip(".")


def _has_key(prefix: str, key: str) -> bool:
    return f"{key_of(prefix)}.".startswith(f"{key}.")


def _shortest_key(prefix: str, prefixes: Collection[str]) -> str:
    """The shortest `model.weights_key` that matches only this one of the prefixes."""
    words = key_of(prefix).split(".")
    keys = (".".join(words[:count]) for count in range(1, len(words)))
    return next((key for key in keys if sum(_has_key(other, key) for other in prefixes) == 1), key_of(prefix))


def _networks(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of networks with the model's names; if some also have the model's shapes, only those."""
    same_name: Counter[str] = Counter()
    same_shape: Counter[str] = Counter()
    for name, tensor in tensors.items():
        for start in _word_starts(name):
            if name[start:] in own:
                same_name[name[:start]] += 1
                same_shape[name[:start]] += tensor.shape == own[name[start:]].shape
    most = max(same_name.values(), default=0)
    if most < len(own) / 4:
        return []
    prefixes = [prefix for prefix, count in same_name.items() if count >= most / 2]
    return [prefix for prefix in prefixes if same_shape[prefix] >= most / 2] or prefixes


def _word_starts(name: str) -> Iterable[int]:
    """Positions after the prefixes that a tensor's name may have."""
    return 0, *(mark.end() for mark in re.finditer(r"[./]", name))


def _preferred(prefixes: list[str]) -> str | None:
    """The empty prefix, else the only one, the only one that is not an average, or the only one in a common entry."""
    if "" in prefixes:
        return ""
    weights = [prefix for prefix in prefixes if not AVERAGES.intersection(re.split(r"[./_]", prefix.lower()))]
    common = [prefix for prefix in weights if prefix.startswith(COMMON_ENTRIES[1:])]
    for candidates in (prefixes, weights, common):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _common_entry(tensors: Mapping[str, Tensor]) -> str:
    entries = (entry for entry in reversed(COMMON_ENTRIES) if entry)
    return next((entry for entry in entries if any(name.startswith(entry) for name in tensors)), "")


def _network(tensors: Mapping[str, Tensor], prefix: str, prefixes: list[str]) -> Network:
    others = [other for other in prefixes if other != prefix]
    inside = [name for name in tensors if name.startswith(prefix)]
    below = tuple(other for other in others if other.startswith(prefix))
    entry = prefix[: prefix.rfind("/") + 1]
    return Network(
        {name.removeprefix(prefix): tensors[name] for name in inside if not (below and name.startswith(below))},
        prefix,
        tuple(_shortest_key(other, prefixes) for other in others),
        tuple(
            name.removeprefix(entry)
            for name in tensors
            if name.startswith(entry) and "/" not in name.removeprefix(entry) and not name.startswith((prefix, *others))
        ),
    )


def _keys(tensors: Mapping[str, Tensor]) -> list[str]:
    """First words of the tensors' names, the most frequent first."""
    firsts = Counter(re.split(r"[./]", name)[0] for name in tensors)
    return [name for name, _ in firsts.most_common(8)]
