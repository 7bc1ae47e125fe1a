"""A method that is `grouped` under another name."""

from dataclasses import dataclass, replace

from toolkit.prune.methods import Method, method
from toolkit.section import Section


class Settings(Section):
    name: str = "nothing"
    """Name in the plan."""


@dataclass(frozen=True)
class Renamed(Method):
    settings: Settings = Settings()

    def prune(self, model, job):
        outcome = method("grouped").prune(model, job)
        return replace(outcome, plan=replace(outcome.plan, method=self.settings.name))


PLUGIN = Renamed()
