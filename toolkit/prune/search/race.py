"""Judgements of one search: models that are clearly worse than the best one see a part of the images only.

Judgements are kept in a file, from which a killed search goes on: with the same seed it asks for the same models again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from toolkit import hashing
from toolkit.prune.search.judge import Judge, Judgement
from toolkit.prune.search.space import Choice


class Judgements:
    """Judgements by choice, of all searches of one model; in a file as well, if there is one."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known: dict[str, Judgement] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file and file.exists() else ():
            try:
                entry = json.loads(line)
                by_domain = {domain: tuple(values) for domain, values in entry["by_domain"].items()}
            except (ValueError, KeyError):  # an empty line, or one that a kill cut off
                continue
            self._known[entry["choice"]] = Judgement(by_domain, entry["complete"])

    def get(self, choice: Choice) -> Judgement | None:
        """The judgement of a choice, if it is known."""
        return self._known.get(_key(choice))

    def add(self, choice: Choice, judgement: Judgement) -> None:
        """Keep a judgement."""
        self._known[_key(choice)] = judgement
        if self._file is not None:
            entry = {"choice": _key(choice), **asdict(judgement)}
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps(entry))  # a line that a kill cut off stays alone


@dataclass
class Race:
    """Judges the choices of one search, each against the best one so far."""

    judge: Judge
    judgements: Judgements
    module: Callable[[Choice], nn.Module]
    """The model of a choice."""
    best: Judgement | None = None

    def divergence(self, choice: Choice) -> float:
        """The divergence of a choice in nats, an estimate if it is clearly worse than the best one."""
        known = self.judgements.get(choice)
        if known is None:
            known = self.judge.judge(self.module(choice), self.best)
            self.judgements.add(choice, known)
        divergence = self.judge.divergence(known, self.best)
        if known.complete and (self.best is None or divergence < self.judge.divergence(self.best)):
            self.best = known
        return divergence


def _key(choice: Choice) -> str:
    return hashing.digest(asdict(choice))
