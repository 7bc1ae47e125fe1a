"""`toolkit inspect`: contents of a run, a model folder, a plan or an artifact, as a table or as a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Group, RenderableType

from toolkit import records, terminal
from toolkit.errors import BadInput, ToolkitError
from toolkit.records import DENSE, Artifact, ModelInfo, ModelSummary, PrunePlan
from toolkit.report import artifact_text, plan_table, plan_text
from toolkit.report.plan_picture import picture_of
from toolkit.stages import FINETUNED, PRUNED
from toolkit.stages.prune import SOURCE
from toolkit.terminal import Table


def inspect(path: Path, as_json: bool) -> None:
    """Print the contents of `path`: a table on stderr, or the record on stdout."""
    if (path / DENSE / "model.json").is_file():
        before = _summary(path / DENSE)
        after = _slim(path)
        _print([before, after] if after else [before], lambda: _run_view(before, after), as_json)
    elif (path / "model.json").is_file():
        summary = _summary(path)
        _print(summary, lambda: _model_view(summary, _original_of(path)), as_json)
    elif (file := _record_in(path, "plan.json")) is not None:
        plan, folder = records.load(PrunePlan, file), file.parent
        _print(plan, lambda: _plan_view(plan, folder), as_json)
    elif (file := _artifact_of(path)) is not None:
        artifact = records.load(Artifact, file)
        _print(artifact, lambda: _artifact_table(artifact), as_json)
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


def _original_of(folder: Path) -> ModelSummary | None:
    """The model that the one in the folder of a plan was pruned from, if it is there and can be read."""
    if not (folder / "plan.json").is_file():
        return None
    try:
        made_from = records.load(ModelInfo, folder / "model.json").made_from
        for place in (folder / SOURCE, folder.parent / DENSE):
            file = place / "model.json"
            if file.is_file() and records.load(ModelInfo, file).weights_sha256 == made_from:
                return _summary(place)
    except ToolkitError:  # it was not asked for
        pass
    return None


def _tokens_before(folder: Path) -> int | None:
    """Number of tokens at the first block of the model next to a plan, if it is there and can be read."""
    try:
        return _summary(folder).blocks[0].tokens_in if (folder / "model.json").is_file() else None
    except ToolkitError:  # it was not asked for
        return None


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


def _print(record: object, view: Callable[[], RenderableType], as_json: bool) -> None:
    if as_json:
        print(records.dumps(record), end="")
    else:
        terminal.show(view())


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


def _run_view(before: ModelSummary, after: ModelSummary | None) -> RenderableType:
    """The dense model, or what pruning left of it."""
    if after is None:
        return _model_view(before, None)
    totals = (
        f"{before.parameters:,} -> {after.parameters:,} parameters",
        f"{before.macs / 1e6:,.1f} -> {after.macs / 1e6:,.1f} M MACs",
        f"images: {before.preprocessing}",
    )
    return Group(_picture(before, after), *map(terminal.literal, totals))


def _picture(before: ModelSummary, after: ModelSummary) -> RenderableType:
    title = f"{before.name} at {before.image_size} px: kept by pruning"
    return plan_table.table_of(picture_of(before, after), title)


def _model_view(model: ModelSummary, original: ModelSummary | None) -> RenderableType:
    """Sizes and costs of a model, below what pruning left of its original."""
    title = f"{model.name} at {model.image_size} px"
    table = _table(title, "block", "heads (qk, v)", "MLP", "tokens", "parameters", "M MACs")
    for block in model.blocks:
        tokens = dict.fromkeys((block.tokens_in, block.tokens_out))
        table.add_row(
            str(block.block),
            plan_table.heads(block.layout),
            str(block.mlp_width),
            " -> ".join(map(str, tokens)),
            f"{block.parameters:,}",
            f"{block.macs / 1e6:.1f}",
        )
    table.add_section()
    table.add_row("all", f"residual {model.embed_width}", "", "", f"{model.parameters:,}", f"{model.macs / 1e6:,.1f}")
    picture = [_picture(original, model), ""] if original else []
    return Group(*picture, table, terminal.literal(f"images: {model.preprocessing}"))


def _plan_view(plan: PrunePlan, folder: Path) -> RenderableType:
    title = f"{plan.method}, {plan.criterion}, {plan.scope}: {plan.budget} requested, {plan.achieved:.3f} achieved"
    table = _table(title, "place", "axis", "units removed")
    for cut in plan.cuts:
        table.add_row(cut.place, cut.axis, f"{len(cut.units):,}")
    tokens = _tokens_before(folder) if plan.merges else None
    return Group(table, *map(terminal.literal, plan_text.lines(plan, tokens)))


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
            f"attention {number}",
            f"{plan_table.heads(layout)}{': ' + artifact_text.fusion_of(fusion) if fusion else ''}",
        )
    return table
