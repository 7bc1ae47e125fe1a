"""A target that writes a text."""

from dataclasses import dataclass

from toolkit.export import Target, Written
from toolkit.export.capabilities import Capabilities
from toolkit.isolated import NativeLibrary
from toolkit.section import Section


class Settings(Section):
    ending: str = ".txt"
    """Ending of the file's name."""


@dataclass(frozen=True)
class Text(Target):
    settings: Settings = Settings()

    flag, help, runtime, needs = "plain-text", "Write a text.", "constant", ("yaml",)

    def capabilities(self):
        return Capabilities(("fp32",), (17, 23), 20, ("decomposed",))

    def native_library(self, hint):
        return NativeLibrary("text", hint)

    def write(self, prepared, options, out, progress):
        (out / f"model{self.settings.ending}").write_text(str(prepared.info))
        return Written(f"model{self.settings.ending}")


PLUGIN = Text()
