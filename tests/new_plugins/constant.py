"""A runtime with constant logits."""

from dataclasses import dataclass

import numpy as np

from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import read_artifact
from toolkit.errors import BadInput
from toolkit.section import Section


class Settings(Section):
    value: float = 1.0
    """Value of all logits."""


class Logits(Session):
    def __init__(self, spec, value):
        self.spec, self.value = spec, value

    def run(self, images):
        return np.full((len(images), len(self.spec.model.classes)), self.value, dtype=np.float32)

    def close(self):
        pass


@dataclass(frozen=True)
class Constant(Runtime):
    settings: Settings = Settings()

    needs = ("numpy",)
    opens_models = False

    def open(self, folder, threads):
        if self.settings.value != 2:
            raise BadInput("the setting has not arrived")
        spec = Identity.of_artifact(read_artifact(folder, "constant", "text"))
        return Logits(spec, self.settings.value)


PLUGIN = Constant()
