"""Pruning without training or labels: fewer tokens, and narrower layers with repaired weights.

Our own combination of published parts. The last block computes only the tokens that the classifier reads, which is
exact. Query/key and value units are removed in the basis `svd`; MLP units by optimal brain surgeon, with weights
repaired by least squares (as in ZipLM, 2023); similar tokens are merged in a few blocks (as in ToMe, 2023). How much of
each, block by block, is searched within the budget: see `toolkit.prune.search`.

Half of the calibration images fit the weights, the other half judge whole models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from toolkit.errors import BudgetError, RecipeError
from toolkit.models.model import Model
from toolkit.models.tokens import can_merge, tokens_of
from toolkit.prune.cost_table import CostTable
from toolkit.prune.ladders import Ladder, ladders
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.rungs import LadderSettings
from toolkit.prune.search.judge import Judge
from toolkit.prune.search.random_search import RandomSearch, Trial
from toolkit.prune.search.schedule import Tokens
from toolkit.prune.search.sensitivity import sensitivities
from toolkit.prune.search.space import AXES, Choice, Space
from toolkit.prune.search.stitching import Stitcher
from toolkit.prune.least_squares import Aggregate
from toolkit.models.groups import Key
from toolkit.models.tokens import block_indices
from toolkit.records import Matching, PrunePlan
from toolkit.section import Section
from toolkit.setting_types import Positive


class Settings(Section):
    trials: Positive = 150
    """Number of models that the search judges."""
    merges: Annotated[int, Field(ge=0)] = 4
    """Maximum number of blocks that merge tokens."""
    matching: Matching = "bipartite"
    """Which tokens are merged: the most similar ones of every second token (bipartite), or all but an even grid of
    tokens (grid)."""
    tokens_multiple: Positive = 1
    """Numbers of tokens after a merge are multiples of this: 8 suits tensor cores."""
    trim_last_block: bool = True
    """Let the last block compute only the tokens that the classifier reads, which changes no prediction."""
    aggregate: Aggregate = "mean"
    """Divergence from the dense model over the source domains: their mean, or the worst."""


@dataclass(frozen=True)
class Oneshot(Method):
    """Search over merges and widths."""

    settings: Settings = Settings()
