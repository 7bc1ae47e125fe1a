"""Detailed tables of the page: sizes of every block, and how the model was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from toolkit.characters import counted
from toolkit.dg.summary import DataSummary
from toolkit.records import Artifact, BlockSummary, Environment, HeadLayout, PrunePlan, TensorSpec, TrainingHistory
from toolkit.report import artifact_text, numbers, plan_text
from toolkit.report.contents import Page
from toolkit.report.summary import NOT_RUN

Facts = tuple[tuple[str, str], ...]
"""Pairs of a term and its description."""


@dataclass(frozen=True)
class BlockRow:
    """One block before and after pruning, or the whole model."""

    block: int | None
    """Index in the dense model; None for the whole model."""
    cells: tuple[tuple[str, str], ...]
    """(dense, slim) per entry of BLOCK_COLUMNS."""
    shapes: str
    """Remaining heads by shape, or the embedding widths of the whole model."""


@dataclass(frozen=True)
class Training:
    """How one model was trained."""

    name: str
    facts: dict[str, str] | None
    """None: not run."""


def block_rows(page: Page) -> tuple[BlockRow, ...]:
    """One row per block of the dense model."""
    slim = {block.block: block for block in page.slim.blocks} if page.slim else {}
    rows = []
    for dense in page.dense.blocks:
        remaining = slim.get(dense.block)
        shapes = head_shapes((remaining or dense).layout) if remaining or not page.slim else "block removed"
        absent = "\u2013" if page.slim else NOT_RUN
        cells = tuple((cell(dense), cell(remaining) if remaining else absent) for _, cell in BLOCK_COLUMNS)
        rows.append(BlockRow(dense.block, cells, shapes))
    return tuple(rows)


def whole_model(page: Page) -> BlockRow:
    """Totals including embedding and classifier; the widths are left empty."""
    dense, slim = page.dense, page.slim
    heads = [
        str(sum(len(block.layout.heads) for block in model.blocks)) if model else NOT_RUN for model in (dense, slim)
    ]
    parameters = [numbers.scaled(model.parameters) if model else NOT_RUN for model in (dense, slim)]
    macs = [numbers.scaled(model.macs) if model else NOT_RUN for model in (dense, slim)]
    empty = ("", "")
    embedding = f"embedding {dense.embed_width}" + (f" \u2192 {slim.embed_width}" if slim else "")
    cells = ((heads[0], heads[1]), empty, empty, empty, (parameters[0], parameters[1]), (macs[0], macs[1]))
    return BlockRow(None, cells, embedding)


def head_shapes(layout: HeadLayout) -> str:
    """ "2 x 64/64 + 1 x 32/48": number of heads x query and key width / value width."""
    return " + ".join(f"{count}\u202f\u00d7\u202f{qk}/{v}" for count, qk, v in layout.buckets)


def data_facts(data: DataSummary) -> Facts:
    """Images by domain, and the files that were left out."""
    note = {data.held_out: " (never trained on)"}
    domains = (f"{name} {count:,}{note.get(name, '')}" for name, count in data.domains.items())
    left_out = "; ".join(f"{len(names):,} {reason}" for reason, names in data.left_out.items())
    return (
        ("Images", f"{sum(data.domains.values()):,}: {', '.join(domains)}"),
        ("Classes", f"{len(data.classes):,}"),
        ("Files and folders left out", left_out or "none"),
        *(("Images read as", f"{count:,}: {remark}") for remark, count in data.remarks.items()),
        *(("Note", text) for text in data.notes),
    )


def plan_facts(plan: PrunePlan, tokens: int | None = None) -> Facts:
    """How units were selected, and what a plan removes. `tokens` is the number at the first block, if it is known."""
    units: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for cut in plan.cuts:
        units[cut.axis] += len(cut.units)
        places[cut.axis] += 1
    removed = (f"{axis}: {units[axis]} at {places[axis]} place{'s' if places[axis] != 1 else ''}" for axis in units)
    return (
        ("Method", plan.method),
        ("Criterion", plan.criterion),
        ("Scope", plan.scope),
        ("Requested budget", _requested_budget(plan.budget)),
        ("Achieved budget", _achieved_budget(plan)),
        ("Units removed", "; ".join(removed) or "none"),
        *(("Tokens merged", line.replace("->", "\u2192")) for line in plan_text.merges(plan, tokens)),
        *([("Last block", plan_text.LAST_BLOCK)] if plan.trim_last_block else []),
        ("Basis", plan.basis),
        ("Compensation", plan.compensation),
        *([("Latency", plan_text.latency(plan.latency))] if plan.latency else []),
        ("Seed", str(plan.seed)),
    )


def trainings(page: Page) -> tuple[Training, ...]:
    pairs = (("Dense model", page.training), ("Slim model", page.finetuning))
    return tuple(Training(name, _training_facts(history) if history else None) for name, history in pairs)


def environment_facts(environment: Environment) -> Facts:
    unknown = "unknown"
    clocks = ", ".join(f"{clock:.0f}" for clock in sorted(set(environment.clocks_mhz)))
    return (
        ("Toolkit", environment.toolkit),
        ("Python", environment.python),
        ("Platform", environment.platform),
        ("CPU", f"{environment.processor}, {environment.cores} core{'s' if environment.cores != 1 else ''}"),
        ("Memory", numbers.scaled(environment.memory_bytes, "B")),
        ("GPU", environment.gpu or "none"),
        ("Driver", environment.driver or "none"),
        ("Power mode", environment.power_mode or unknown),
        ("Clocks", f"{clocks}{numbers.SPACE}MHz" if clocks else unknown),
    )


def artifact_facts(artifact: Artifact) -> Facts:
    lowered = artifact.lowered
    return (
        ("Target", ", ".join((artifact.target, artifact.precision, *artifact.facts()))),
        ("Runs on", artifact_text.made_for(artifact)),
        ("Inputs", "; ".join(_tensor(spec) for spec in artifact.inputs)),
        ("Outputs", "; ".join(_tensor(spec) for spec in artifact.outputs)),
        ("Classes", ", ".join(artifact.model.classes)),
        ("Correctness", artifact_text.difference(artifact)),
        *(("Attention", line) for line in artifact_text.fusion_lines(artifact)),
        ("Exact rewrites", artifact_text.rewrites(artifact)),
        *([("Not in lower precision", artifact_text.kept_in_float32(lowered))] if lowered else []),
        *([("Accuracy on a sample", artifact_text.accuracy_changes(lowered))] if lowered else []),
        *(("Note", note) for note in artifact.notes),
        ("Built with", ", ".join(f"{name} {version}" for name, version in sorted(artifact.built_with.items()))),
        ("SHA-256, file", artifact.sha256),
        ("SHA-256, model's weights", artifact.model.weights_sha256),
    )


BLOCK_COLUMNS: tuple[tuple[str, Callable[[BlockSummary], str]], ...] = (
    ("Heads", lambda block: str(len(block.layout.heads))),
    ("Query/key", lambda block: str(block.layout.qk_width)),
    ("Value", lambda block: str(block.layout.v_width)),
    ("MLP", lambda block: str(block.mlp_width)),
    ("Parameters", lambda block: numbers.scaled(block.parameters)),
    ("MACs", lambda block: numbers.scaled(block.macs)),
)


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} [{', '.join(str(size) for size in spec.shape)}]"


def _requested_budget(budget: str) -> str:
    kind, _, value = budget.partition("=")
    try:
        amount = numbers.percent(float(value))
    except ValueError:
        return budget
    texts = {
        "ratio": "of the units removed",
        "macs": "of the MACs left",
        "params": "of the parameters left",
    }
    return f"{amount} {texts[kind]} ({budget})" if kind in texts else budget


def _achieved_budget(plan: PrunePlan) -> str:
    kind = plan.budget.partition("=")[0]
    texts = {"ratio": "of the units removed", "macs": "of the MACs left", "params": "of the parameters left"}
    return f"{numbers.percent(plan.achieved)} {texts.get(kind, '')}".rstrip()


def _training_facts(history: TrainingHistory) -> dict[str, str]:
    if history.steps == 0:
        return {"Objective": "none, used without training", "Steps": "0"}
    facts = {
        "Objective": history.objective,
        "Steps": str(history.steps),
        "Time": numbers.duration(history.seconds),
        "Selected checkpoint": f"step {history.selected_step}",
    }
    selected = next((one for one in history.evaluations if one.step == history.selected_step), None)
    if selected is None:
        return facts | {"Accuracy, validation images": NOT_RUN}
    facts["Training loss at selection"] = numbers.significant(selected.train_loss)
    if selected.accuracy:
        mean = sum(selected.accuracy.values()) / len(selected.accuracy)
        facts["Accuracy, validation images"] = (
            f"{numbers.percent(mean)}, mean of {counted(len(selected.accuracy), 'source domain')}"
        )
    return facts
