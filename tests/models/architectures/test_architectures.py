from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.models.architectures import source_of
from toolkit.models.architectures.timm import Timm


def test_an_architecture_that_cannot_be_imported_is_reported_and_the_others_work(
    install: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    install(
        {"broken": "1 / 0", "other": OTHER}, [("architecture", "broken", "broken"), ("architecture", "other", "other")]
    )
    assert isinstance(source_of("deit_tiny_patch16_224"), Timm)
    assert "architecture 'broken'" in caplog.text
    assert type(source_of("other/model")).__name__ == "Other"


OTHER = """
class Other:
    def accepts(self, name):
        return name.startswith("other/")
PLUGIN = Other()
"""
