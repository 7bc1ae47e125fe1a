"""The command line. A command parses, calls one function, and prints: records on stdout, messages on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from toolkit import __version__
from toolkit.characters import printable_lines
from toolkit.errors import RecipeError, StorageError, ToolkitError, UnknownName, plainly

if TYPE_CHECKING:
    from toolkit.resolve import Resolved
    from toolkit.stages import Run, Stage
    from toolkit.variants import Resolve

LOG = logging.getLogger(__name__)


class _Commands(TyperGroup):
    """Adds flags to the command that is called only, so that `toolkit --help` does not load the recipe."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _with_flags(name, rest) if name in FLAGGED else command, rest


app = typer.Typer(
    name="toolkit",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

STAGE_HELP = {
    "train": "Train a dense model on the source domains, or use a trained one unchanged (--epochs 0).",
    "prune": "Prune the dense model structurally.",
    "finetune": "Fine-tune the slim model, by default with distillation from the dense one.",
    "export": "Export the slim model to a deployable file.",
    "parity": "Compare dense, slim and exported model on the same images, per domain.",
    "bench": "Measure latency of dense and slim model, interleaved.",
    "report": "Write report.html: all results on one page.",
}
FLAGGED = {
    "run": "Run every stage that is not up to date. Without a toolkit.yaml: the built-in model and images.",
    **STAGE_HELP,
}
"""Commands with flags for recipe settings, and their help."""


def main() -> None:
    """Entry point of `toolkit`. Other libraries' warnings are hidden, unless Python is told to show warnings (-W)."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(?!toolkit\b)")
    try:
        app()
    except Exception as error:
        _report_bug(error)
        raise SystemExit(1) from None


def _report_bug(error: Exception) -> None:
    """End the command after an unexpected exception: two lines, and a file with the traceback."""
    import tempfile
    import traceback

    file = Path(tempfile.mkdtemp(prefix="toolkit-")) / "traceback.txt"
    file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    print(f"error: this is a bug in the toolkit: {type(error).__name__}: {plainly(error)}", file=sys.stderr)
    print(f"       please report it, with {file}", file=sys.stderr)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make a vision transformer structurally smaller, ship it, and prove that it is faster and still right."""
    if version:
        print(f"toolkit {__version__}")
        raise typer.Exit


def _run(values: dict[str, Any]) -> None:
    """Run the stages up to --until."""
    until = values.pop("until") or "report"
    from toolkit.pipeline import STAGES

    if until not in STAGES:
        with _reporting_errors():
            raise UnknownName("stage", until, STAGES)
    names = list(STAGES)[: list(STAGES).index(until) + 1]
    _run_stages("run", names, values)


def _run_stages(command: str, names: list[str], values: dict[str, Any]) -> None:
    """Run the named stages with the flags of a command."""
    from toolkit import pipeline, resolve, setting_flags

    with _reporting_errors():
        _configure_logging(values)
        flags, origins = setting_flags.flags_in(values, setting_flags.sections_of(command))
        for name, value in map(resolve.parse_assignment, values["assignments"] or []):
            flags[name], origins[name] = value, f"--set {name}"
        if values["seed"] is not None:
            flags["seed"], origins["seed"] = values["seed"], "--seed"

        def resolved(more: resolve.Flags, written: Mapping[str, str]) -> Resolved:
            given, where = {**flags, **more}, {**origins, **written}
            return resolve.resolve(values["recipe"], values["run"], given, where, forget=values["forget"])

        settings, stages = resolved({}, {}), pipeline.STAGES
        if command == "prune" and _compares(values):
            settings, stages = _comparison(settings, values, origins, resolved)
            names = [name for name in ("prune", "bench", "compare") if name in stages]
        _execute(names, {**pipeline.STAGES, **stages}, settings, values)


def _compares(values: dict[str, Any]) -> bool:
    """Whether a command compares variants; RecipeError for flags that are for a comparison only."""
    if values["compare"]:
        return True
    for flag in ("no_latency", "allow_invalid"):
        if values[flag]:
            raise RecipeError(f"--{flag.replace('_', '-')} is for comparisons", "--compare method=grouped,oneshot")
    return False


def _comparison(
    settings: Resolved, values: dict[str, Any], origins: Mapping[str, str], resolved: Resolve
) -> tuple[Resolved, dict[str, Stage]]:
    """The settings to store, and the stages of `--compare`, which is not stored."""
    from toolkit.stages.compare import stages_of
    from toolkit.variants import variants_of

    variants = variants_of(values["compare"], origins, resolved)
    stages = stages_of(variants, latencies=not values["no_latency"], allow_invalid=values["allow_invalid"])
    return replace(settings, reused=variants[0].resolved.reused), stages


def _execute(names: list[str], stages: Mapping[str, Stage], settings: Resolved, values: dict[str, Any]) -> None:
    """Run the named ones of these stages."""
    from toolkit import pipeline, progress, records, runfolder
    from toolkit.stages import Run

    tell, display = (_silent, progress.no_display) if values["quiet"] else (_tell, progress.display)
    for line in settings.notices():
        tell(line)
    path = Path(settings.recipe.run)
    if values["dry_run"]:
        run = Run(settings.recipe, runfolder.RunFolder(path), display, dry_run=True, tell=tell)
        for step in pipeline.plan(run, names, values["force"], stages):
            tell(f"{step.stage}: {step.result}: {step.reason or 'up to date'}")
        return
    with runfolder.opened(path) as folder:
        run = Run(settings.recipe, folder, display, tell=tell)
        allow_invalid = values.get("allow_invalid", False)
        failure = pipeline.execute(
            run, settings, names, force=values["force"], allow_invalid=allow_invalid, stages=stages
        )
        last = stages[names[-1]]
        if not values["quiet"]:
            _show_table(last, run)
        if values["as_json"]:
            print(records.dumps(last.record(run)), end="")
    if failure is not None:
        raise failure


def _show_table(stage: Stage, run: Run) -> None:
    """Show the table of a stage that has one, and where its page is."""
    from toolkit import terminal

    if (table := stage.table(run)) is not None:
        terminal.show(table)
        _tell(f"{stage.name}: {run.folder.path / stage.page}")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("toolkit.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented toolkit.yaml with every setting at its default."""
    from toolkit.template import commented

    with _reporting_errors():
        if path.exists() and not force:
            raise RecipeError(f"{path} already exists", "--force overwrites it")
        try:
            path.write_text(commented(), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        _tell(f"wrote {path}")


@app.command("inspect")
def inspect_(
    path: Annotated[Path, typer.Argument(help="A run, a model folder, a plan or an artifact.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the record on stdout.")] = False,
) -> None:
    """Show heads, widths, tokens, parameters and MACs of every block; of a run and a pruned model, what is left."""
    with _reporting_errors():
        from toolkit.inspection import inspect

        inspect(path, as_json)


@app.command()
def doctor() -> None:
    """Report what this machine can run, and what to install for the rest."""
    with _reporting_errors():
        from toolkit.diagnosis import diagnose

        diagnose()


@contextmanager
def _reporting_errors() -> Iterator[None]:
    """End the command on a toolkit error with its message, hint and exit code."""
    try:
        yield
    except ToolkitError as error:
        _tell(f"error: {error.message}".replace("\n", "\n       "))
        if error.hint:
            _tell(f"       {error.hint}")
        if error.__cause__ is not None:
            LOG.info("caused by", exc_info=error.__cause__)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        _tell("interrupted: finished stages are kept; run the same command to resume")
        raise typer.Exit(130) from None


class _Printable(logging.Formatter):
    """Escapes control characters: log messages may contain names of the user's files."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable_lines(super().format(record)))


def _configure_logging(values: dict[str, Any]) -> None:
    level = logging.INFO if values["verbose"] else logging.ERROR if values["quiet"] else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    logging.getLogger("toolkit").setLevel(level)


def _tell(text: str) -> None:
    """Print on stderr, with control characters escaped."""
    for line in printable_lines(text):
        print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    """Discard a message (--quiet)."""


def _with_flags(name: str, words: list[str]) -> Any:
    """A command with a flag for every setting of its recipe sections; its help describes the plug-ins selected on the
    command line."""
    from toolkit import options, setting_flags

    sections = setting_flags.sections_of(name)
    with _reporting_errors():
        helped = not {"-h", "--help"}.isdisjoint(words)
        epilog = options.escaped(setting_flags.settings_help(sections, words)) if helped else ""

    def stage(values: dict[str, Any]) -> None:
        _run_stages(name, [name], values)

    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    callback = options.with_options(_run if name == "run" else stage, sections, options.extra_options(name))
    single.command(name, help=FLAGGED[name], epilog=epilog)(callback)
    return get_command(single)


for _name, _help in FLAGGED.items():
    app.command(_name, help=_help)(lambda: None)
