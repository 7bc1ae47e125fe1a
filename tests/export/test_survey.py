"""docs/models.md is what the command finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

from toolkit.export.survey import run_all_stages, kind, page, refusal
from toolkit.models.timm_model import known_models

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
THROUGH = ("vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_rpn_224")
"""Of kinds that no other test exports: a norm before the blocks, norms behind the layers."""
REFUSED = ("test_vit3", "test_vit4", "beit3_base_patch16_224", "vit_small_patch16_18x2_224")


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str]]:
    """Each name's result, and what it is or why it is refused."""
    text = PAGE.read_text(encoding="utf-8")
    if f"timm {timm.__version__}:" not in text:
        pytest.skip(f"{PAGE} is about another timm than {timm.__version__}")
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        for name in re.findall(r"`([^`]+)`", cells[0]) if len(cells) == 4 else ():
            assert name not in found, f"{name} stands there twice"
            found[name] = (cells[1], cells[3])
    return found


def test_every_name_has_a_result(rows: dict[str, tuple[str, str]]) -> None:
    assert sorted(rows) == known_models()


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason_in_the_table(rows: dict[str, tuple[str, str]], name: str) -> None:
    assert rows[name] == ("refused", refusal(name))


@pytest.mark.parametrize("name", THROUGH)
def test_goes_through(rows: dict[str, tuple[str, str]], tmp_path: Path, name: str) -> None:
    assert rows[name] == ("goes through", kind(name))
    run_all_stages(name, tmp_path)


@pytest.mark.slow
def test_the_page_is_up_to_date(rows: dict[str, tuple[str, str]]) -> None:
    assert page() == PAGE.read_text(encoding="utf-8")
