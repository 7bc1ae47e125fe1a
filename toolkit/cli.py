"""The command line. A command parses, calls one function, and prints: records on stdout, words on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit import __version__, options, resolve
from toolkit.characters import printable_lines
from toolkit.errors import RecipeError, StorageError, ToolkitError, UnknownName

app = typer.Typer(
    name="toolkit",
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
TARGETS = {
    "onnx": ("onnx", "Write ONNX (the default)."),
    "trt": ("tensorrt", "Build a TensorRT engine, on the machine whose GPU will run it."),
    "rtx": ("rtx", "Build a TensorRT for RTX engine, for RTX GPUs, on any machine."),
    "openvino": ("openvino", "Write OpenVINO's IR, for processors."),
    "torch": ("torch", "Write a torch.export program, compiled where there is a compiler."),
}
"""Flag of `export` to the target it chooses, and its help."""
OWN_FLAGS = {
    "train": ("model", "data", "train"),
    "prune": ("model", "data", "prune"),
    "run": ("model", "data"),
    "report": (),
}
"""Sections whose settings are flags of a command, where it is not the one of its own name."""


def main() -> None:
    """Entry point of the `toolkit` command."""
    app()


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make a vision transformer structurally smaller, ship it, and prove that it is faster and still right."""
    if version:
        print(f"toolkit {__version__}")
        raise typer.Exit


def _run(values: dict[str, Any]) -> None:
    """Every stage that is not up to date. With no toolkit.yaml: the built-in model and images."""
    until = values.pop("until") or "report"
    from toolkit.pipeline import STAGES

    if until not in STAGES:
        with _errors_reported():
            raise UnknownName("stage", until, STAGES)
    names = list(STAGES)[: list(STAGES).index(until) + 1]
    _work(names, values, OWN_FLAGS["run"])


def _work(names: list[str], values: dict[str, Any], sections: tuple[str, ...]) -> None:
    """Run the stages of these names with the flags of a command."""
    with _errors_reported():
        _set_loudness(values)
        flags = options.flags_in(values, sections)
        flags |= dict(resolve.parse_assignment(text) for text in values["assignments"] or [])
        if values["seed"] is not None:
            flags["seed"] = values["seed"]
        if chosen := [target for flag, (target, _) in TARGETS.items() if values.get(flag)]:
            flags["export.targets"] = chosen
        _carry_out(names, resolve.resolve(values["recipe"], values["run"], flags), values)


def _carry_out(names: list[str], settings: resolve.Resolved, values: dict[str, Any]) -> None:
    from toolkit import pipeline, progress, records, runfolder
    from toolkit.stages import Run

    tell, shown = (_silent, progress.hidden) if values["quiet"] else (_tell, progress.shown)
    if settings.kept:
        kept = ", ".join(f"{name}={value}" for name, value in settings.kept.items())
        tell(f"still in force from earlier commands on this run: {kept}")
    path = Path(settings.recipe.run)
    if values["dry_run"]:
        run = Run(settings.recipe, runfolder.RunFolder(path), shown, dry=True)
        for step in pipeline.plan(run, names, values["force"]):
            tell(f"{step.stage}: {step.result}: {step.reason or 'up to date'}")
        return
    with runfolder.opened(path) as folder:
        run = Run(settings.recipe, folder, shown)
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
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path(resolve.DEFAULT_FILE),
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
        _tell(f"error: {error.message}")
        if error.hint:
            _tell(f"       {error.hint}")
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


def _add_stage(name: str) -> None:
    sections = OWN_FLAGS.get(name, (name,))
    extra: dict[str, Any] = {}
    if name == "export":
        for flag, (_, text) in TARGETS.items():
            extra[flag] = Annotated[bool, typer.Option(f"--{flag}", help=text, rich_help_panel="Stage")]
    if name in ("bench", "report"):
        extra["allow_invalid"] = _ALLOW_INVALID

    def stage(values: dict[str, Any]) -> None:
        _work([name], values, sections)

    stage.__doc__ = STAGE_HELP[name]
    app.command(name)(options.with_options(stage, sections, extra))


_UNTIL = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run.", rich_help_panel="Run")
]
_ALLOW_INVALID = Annotated[
    bool,
    typer.Option(
        "--allow-invalid",
        help="A measurement that is INVALID is shown as such, and does not decide the exit code.",
        rich_help_panel="Run",
    ),
]
app.command("run")(options.with_options(_run, OWN_FLAGS["run"], {"until": _UNTIL, "allow_invalid": _ALLOW_INVALID}))
for _name in STAGE_HELP:
    _add_stage(_name)
