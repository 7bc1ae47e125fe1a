"""`toolkit inspect`: contents of a run, a model folder, a plan or an artifact, as a table or as a record."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType

from toolkit import records, terminal
from toolkit.errors import BadInput
from toolkit.records import (
    DENSE,
    Artifact,
    BlockSummary,
    HeadLayout,
    ModelInfo,
    ModelSummary,
    PrunePlan,
)
from toolkit.report import artifact_text
from toolkit.stages import FINETUNED, PRUNED
from toolkit.terminal import Table


def inspect(path: Path, as_json: bool) -> None:
    """Print the contents of `path`: a table on stderr, or the record on stdout."""
    if (path / DENSE / "model.json").is_file():
        before = _summary(path / DENSE)
        after = _slim(path)
        _print([before, after] if after else [before], _model_table(before, after), as_json)
    elif (path / "model.json").is_file():
        summary = _summary(path)
        _print(summary, _model_table(summary, None), as_json)
    elif (file := _record_in(path, "plan.json")) is not None:
        plan = records.load(PrunePlan, file)
        _print(plan, _plan_table(plan), as_json)
    elif (file := _artifact_of(path)) is not None:
        artifact = records.load(Artifact, file)
        _print(artifact, _artifact_table(artifact), as_json)
    else:
        raise BadInput(
            f"{path} is not a run, model folder, plan or artifact" if path.exists() else f"{path} does not exist",
            "expected a folder with dense/, model.json, plan.json or artifact.json, or one of these files",
        )


def _slim(run: Path) -> ModelSummary | None:
    """The fine-tuned model of a run, or the pruned one if it is newer."""
    infos = {
        name: records.load(ModelInfo, run / name / "model.json")
        for name in (PRUNED, FINETUNED)
        if (run / name).is_dir()
    }
    if len(infos) == 2 and infos[FINETUNED].made_from == infos[PRUNED].weights_sha256:
        return _summary(run / FINETUNED)
    return _summary(run / PRUNED) if PRUNED in infos else None


def _record_in(path: Path, name: str) -> Path | None:
    """The record of this name at `path`: the file itself, or in the folder."""
    place = path if path.name == name else path / name
    return place if place.is_file() else None


def _artifact_of(path: Path) -> Path | None:
    """The record of the artifact at `path`: the file itself, or in the folder, or next to one of the exported files."""
    if (file := _record_in(path, "artifact.json")) is not None:
        return file
    adjacent = path.parent / "artifact.json"
    if not path.is_file() or not adjacent.is_file():
        return None
    artifact = records.load(Artifact, adjacent)
    return adjacent if path.name in (artifact.file, *artifact.extra_files) else None


def _print(record: object, table: RenderableType, as_json: bool) -> None:
    if as_json:
        print(records.dumps(record), end="")
    else:
        terminal.show(table)


def _summary(folder: Path) -> ModelSummary:
    from toolkit.models import store
    from toolkit.models.summary import summarise

    return summarise(store.load(folder))


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title)
    table.title_justify = "left"
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _model_table(before: ModelSummary, after: ModelSummary | None) -> RenderableType:
    title = f"{before.name} at {before.image_size} px" + (", before -> after" if after else "")
    table = _table(title, "block", "heads (qk, v)", "MLP", "parameters", "M MACs")
    slim = {block.block: block for block in after.blocks} if after else {}

    def cells(block: BlockSummary) -> tuple[str, ...]:
        macs = f"{block.macs / 1e6:.1f}"
        return _heads(block.layout), str(block.mlp_width), f"{block.parameters:,}", macs

    for block in before.blocks:
        if after is None:
            table.add_row(str(block.block), *cells(block))
            continue
        left = cells(slim[block.block]) if block.block in slim else ("removed", "0", "0", "0")
        table.add_row(str(block.block), *(f"{old} -> {new}" for old, new in zip(cells(block), left, strict=True)))
    table.add_section()
    totals = [(model.embed_width, model.parameters, model.macs / 1e6) for model in (before, after) if model]
    widths, parameters, macs = ([row[column] for row in totals] for column in range(3))
    table.add_row(
        "all",
        "residual " + " -> ".join(str(width) for width in widths),
        "",
        " -> ".join(f"{number:,}" for number in parameters),
        " -> ".join(f"{number:,.1f}" for number in macs),
    )
    return Group(table, terminal.literal(f"images: {before.preprocessing}"))


def _heads(layout: HeadLayout) -> str:
    return " + ".join(f"{count} x ({qk}, {v})" for count, qk, v in layout.buckets)


def _plan_table(plan: PrunePlan) -> Table:
    title = f"{plan.method}, {plan.criterion}, {plan.scope}: {plan.budget} requested, {plan.achieved:.3f} achieved"
    table = _table(title, "place", "axis", "units removed")
    for cut in plan.cuts:
        table.add_row(cut.place, cut.axis, f"{len(cut.units):,}")
    return table


def _artifact_table(artifact: Artifact) -> Table:
    model = artifact.model
    table = _table(f"{artifact.file}: {artifact.target} {artifact.precision}", "what", "value")
    rows = {
        "sha256": artifact.sha256,
        "inputs": "; ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in artifact.inputs),
        "outputs": "; ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in artifact.outputs),
        "model": f"{model.name}, {len(model.classes)} classes, weights {model.weights_sha256[:12]}",
        "images": str(model.preprocessing),
        "parameters": f"{model.parameters:,}",
        "MACs": f"{model.macs:,}",
        "correctness": artifact_text.difference(artifact),
        "built": ", ".join(artifact.facts()),
        "rewrites": artifact_text.rewrites(artifact),
        "made for": artifact_text.made_for(artifact),
        "notes": "; ".join(artifact.notes) or "none",
        "built with": ", ".join(f"{name} {version}" for name, version in artifact.built_with.items()),
    }
    if lowered := artifact.lowered:
        rows["kept"] = artifact_text.kept_in_float32(lowered)
        rows["accuracy on a sample"] = artifact_text.accuracy_changes(lowered)
    for name, value in rows.items():
        table.add_row(name, value)
    for number, layout in enumerate(model.layouts):
        fusion = next((entry for entry in artifact.fusion if entry.block == number), None)
        table.add_row(
            f"attention {number}", f"{_heads(layout)}{': ' + artifact_text.fusion_of(fusion) if fusion else ''}"
        )
    return table
