"""The command line. A command parses, calls one function, and prints: records on stdout, words on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

LOG = logging.getLogger(__name__)


class _Commands(TyperGroup):
    """Commands of which the one that is called gets its flags: `toolkit --help` does without the recipe's."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _with_flags(name) if name in FLAGGED else command, rest


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
    "train": "Train a dense model on the source domains, or take a trained one as it is (--epochs 0).",
    "prune": "Make the dense model structurally smaller.",
    "finetune": "Train the smaller model, by default with the dense one as its teacher.",
    "export": "Write the slim model as a file that runtimes open.",
    "parity": "Compare dense, slim and exported model on the same images, domain by domain.",
    "bench": "Measure dense and slim side by side.",
    "report": "Put everything on one page, report.html.",
}
FLAGGED = {
    "run": "Every stage that is not up to date. With no toolkit.yaml: the built-in model and images.",
    **STAGE_HELP,
}
"""Commands that have flags for settings of the recipe, and their help."""
TARGETS = {
    "onnx": ("onnx", "Write ONNX (the default)."),
    "trt": ("tensorrt", "Build a TensorRT engine, on the machine whose GPU will run it."),
    "rtx": ("rtx", "Build a TensorRT for RTX engine, for RTX GPUs, on any machine."),
    "openvino": ("openvino", "Write OpenVINO's IR, for processors."),
    "torch": ("torch", "Write a torch.export program, compiled where there is a compiler."),
}
"""Flag of `export` to the target it chooses, and its help."""
FORMER_FLAGS = {"target": "gpu"}
"""Flags of `export` that have another name now."""
OWN_FLAGS = {
    "train": ("model", "data", "train"),
    "prune": ("model", "data", "prune"),
    "run": ("model", "data"),
    "report": (),
}
"""Sections whose settings are flags of a command, where it is not the one of its own name."""


def main() -> None:
    """Entry point of the `toolkit` command. What libraries warn of is shown where they are asked for it."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(?!toolkit\b)")
    try:
        app()
    except Exception as error:
        _report_fault(error)
        raise SystemExit(1) from None


def _report_fault(error: Exception) -> None:
    """What nobody has foreseen ends a command with two lines, and a file for whoever mends it."""
    import tempfile
    import traceback

    file = Path(tempfile.mkdtemp(prefix="toolkit-")) / "traceback.txt"
    file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    print(f"error: this is a fault of the toolkit: {type(error).__name__}: {plainly(error)}", file=sys.stderr)
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
    """Run the stages up to the one that is named."""
    until = values.pop("until") or "report"
    from toolkit.pipeline import STAGES

    if until not in STAGES:
        with _errors_reported():
            raise UnknownName("stage", until, STAGES)
    names = list(STAGES)[: list(STAGES).index(until) + 1]
    _work(names, values, OWN_FLAGS["run"])


def _work(names: list[str], values: dict[str, Any], sections: tuple[str, ...]) -> None:
    """Run the stages of these names with the flags of a command."""
    from toolkit import options, resolve

    with _errors_reported():
        _set_loudness(values)
        flags = options.flags_in(values, sections)
        given = {name: options.flag_of(name) for name in flags}
        for name, value in map(resolve.parse_assignment, values["assignments"] or []):
            flags[name], given[name] = value, f"--set {name}"
        if values["seed"] is not None:
            flags["seed"], given["seed"] = values["seed"], "--seed"
        if chosen := [target for flag, (target, _) in TARGETS.items() if values.get(flag)]:
            flags["export.targets"] = chosen
        _carry_out(names, resolve.resolve(values["recipe"], values["run"], flags, given), values)


def _carry_out(names: list[str], settings: Resolved, values: dict[str, Any]) -> None:
    from toolkit import pipeline, progress, records, runfolder
    from toolkit.stages import Run

    tell, shown = (_silent, progress.hidden) if values["quiet"] else (_tell, progress.shown)
    for line in settings.told():
        tell(line)
    path = Path(settings.recipe.run)
    if values["dry_run"]:
        run = Run(settings.recipe, runfolder.RunFolder(path), shown, dry=True, tell=tell)
        for step in pipeline.plan(run, names, values["force"]):
            tell(f"{step.stage}: {step.result}: {step.reason or 'up to date'}")
        return
    with runfolder.opened(path) as folder:
        run = Run(settings.recipe, folder, shown, tell=tell)
        failure = pipeline.execute(
            run, settings, names, force=values["force"], allow_invalid=values.get("allow_invalid", False), tell=tell
        )
        if names[-1] == "report" and not values["quiet"]:
            _show_report(run)
        if values["as_json"]:
            print(records.dumps(pipeline.STAGES[names[-1]].record(run)), end="")
    if failure is not None:
        raise failure


def _show_report(run: Any) -> None:
    from toolkit import terminal
    from toolkit.report.text import summary_table
    from toolkit.stages.report import FILE, page_of

    terminal.show(summary_table(page_of(run)))
    _tell(f"report: {run.folder.path / FILE}")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("toolkit.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a commented toolkit.yaml with every setting at its default."""
    from toolkit.template import commented

    with _errors_reported():
        if path.exists() and not force:
            raise RecipeError(f"{path} is there already", "--force writes over it")
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
    """Show heads, widths, MLP, parameters and MACs of every block; for a run, before and after."""
    with _errors_reported():
        from toolkit.inspection import inspect

        inspect(path, as_json)


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what to install for the rest."""
    with _errors_reported():
        from toolkit.diagnosis import diagnose

        diagnose()


@contextmanager
def _errors_reported() -> Iterator[None]:
    """An error of ours ends the command with its message, its hint and its exit code."""
    try:
        yield
    except ToolkitError as error:
        _tell(f"error: {error.message}".replace("\n", "\n       "))
        if error.hint:
            _tell(f"       {error.hint}")
        if error.__cause__ is not None:
            LOG.info("what a library said", exc_info=error.__cause__)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        _tell("interrupted; what is finished is kept, and the same command goes on from there")
        raise typer.Exit(130) from None


class _Printable(logging.Formatter):
    """What is logged may hold names from outside, too."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable_lines(super().format(record)))


def _set_loudness(values: dict[str, Any]) -> None:
    level = logging.INFO if values["verbose"] else logging.ERROR if values["quiet"] else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    logging.getLogger("toolkit").setLevel(level)


def _tell(text: str) -> None:
    """Print on stderr what may hold names from outside."""
    for line in printable_lines(text):
        print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    """For --quiet."""


def _with_flags(name: str) -> Any:
    """The command of this name, with a flag for every setting of its sections."""
    from toolkit import options

    sections = OWN_FLAGS.get(name, (name,))
    extra: dict[str, Any] = {}
    if name == "export":
        for flag, (_, text) in TARGETS.items():
            extra[flag] = Annotated[bool, typer.Option(f"--{flag}", help=text, rich_help_panel="Stage")]
        for flag, current in FORMER_FLAGS.items():
            extra[flag] = Annotated[str | None, typer.Option(f"--{flag}", callback=_renamed(current), hidden=True)]
    if name == "run":
        extra["until"] = Annotated[
            str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run.", rich_help_panel="Run")
        ]
    if name in ("run", "bench", "report"):
        extra["allow_invalid"] = _ALLOW_INVALID

    def stage(values: dict[str, Any]) -> None:
        _work([name], values, sections)

    one = typer.Typer(add_completion=False, rich_markup_mode="rich")
    called = _run if name == "run" else stage
    one.command(name, help=FLAGGED[name])(options.with_options(called, sections, extra))
    return get_command(one)


def _renamed(current: str) -> Callable[[str | None], None]:
    """Refuses a flag under its former name."""

    def refuse(value: str | None) -> None:
        if value is not None:
            raise typer.BadParameter(f"it is now called --{current}")

    return refuse


_ALLOW_INVALID = Annotated[
    bool,
    typer.Option(
        "--allow-invalid",
        help="A measurement that is INVALID is shown as such, and does not decide the exit code.",
        rich_help_panel="Run",
    ),
]
for _name, _help in FLAGGED.items():
    app.command(_name, help=_help)(lambda: None)
