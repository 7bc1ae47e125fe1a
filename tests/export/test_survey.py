"""docs/models.md is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

from toolkit.export.survey import SUPPORTED, examine, page, run_all_stages
from toolkit.models.architectures.timm_vit.create import known_models

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
ACCEPTED = ("vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_rpn_224")
"""Models of kinds that no other test exports: a norm before the blocks, norms after the layers."""
REFUSED = ("beit3_base_patch16_224", "vit_small_patch16_18x2_224")


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str]]:
    """Model name to its result, and its description or the reason of its refusal."""
    text = PAGE.read_text(encoding="utf-8")
    if f"timm {timm.__version__}:" not in text:
        pytest.skip(f"{PAGE} is for another version of timm than {timm.__version__}")
    results: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        for name in re.findall(r"`([^`]+)`", cells[0]) if len(cells) == 4 else ():
            assert name not in results, f"{name} is listed twice"
            results[name] = (cells[1], cells[3])
    return results


def test_every_name_has_a_result(rows: dict[str, tuple[str, str]]) -> None:
    assert sorted(rows) == known_models()


@pytest.mark.parametrize("name", REFUSED)
def test_models_are_refused_with_the_reason_in_the_table(rows: dict[str, tuple[str, str]], name: str) -> None:
    assert rows[name] == examine(name)
    assert rows[name][0] == "refused"


@pytest.mark.parametrize("name", ACCEPTED)
def test_supported_models_pass_all_stages(rows: dict[str, tuple[str, str]], tmp_path: Path, name: str) -> None:
    assert rows[name] == examine(name)
    assert rows[name][0] == SUPPORTED
    run_all_stages(name, tmp_path)


@pytest.mark.slow
def test_the_page_is_up_to_date(rows: dict[str, tuple[str, str]]) -> None:
    assert page() == PAGE.read_text(encoding="utf-8")
