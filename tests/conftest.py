"""Fixtures for all packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from torch import nn

    from toolkit.models.model import Model

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported: its kernels are interpreted on the CPU
# Built-in images are generated once for all test processes, outside of the user's home.
os.environ.setdefault("VIT_TOOLKIT_CACHE", str(Path(tempfile.gettempdir()) / "vit-toolkit-tests"))
with suppress(ModuleNotFoundError):  # `make gpu` runs without it
    from hypothesis import HealthCheck, settings

    settings.register_profile(  # no time limits, reproducible examples
        "toolkit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("toolkit")
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread: small tensors are no faster on several, and test processes run in parallel."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"  # for subprocesses
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of images and weights next to the repository; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist")
    return SHARED


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)`: a folder filled by `make(folder)` once for all test processes."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, complete = root / name, root / f"{name}.complete"
        with FileLock(root / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a failed attempt
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def measured() -> Callable[[str, str], dict[str, float]]:
    """`measured(program, argument)`: the JSON output of a Python program, run on two threads."""

    def run(program: str, argument: str) -> dict[str, float]:
        ended = subprocess.run(
            [sys.executable, "-c", program, argument],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        values: dict[str, float] = json.loads(ended.stdout)
        print(argument, values)
        return values

    return run


@pytest.fixture(scope="session")
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Randomises every parameter, even those initialised near zero (biases, layer scales, position tables)."""
    import torch

    def fill(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in module.parameters():
                centre = 1.0 if parameter.dim() == 1 else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
        return module

    return fill


@pytest.fixture(scope="session")
def small(randomised: Callable[[nn.Module], nn.Module]) -> Callable[..., Model]:
    """`small(name, depth, image_size)`: a canonical model of 3 heads with patches of 8 pixels and 3 classes, never
    saved."""
    from toolkit import recipe
    from toolkit.models.build import build
    from toolkit.records import Setting

    def make(name: str = "vit_tiny_patch16_224", depth: int = 2, image_size: int = 16, **more: Setting) -> Model:
        args = {"patch_size": 8, "depth": depth, "embed_dim": 24, "num_heads": 3, "mlp_ratio": 2.0, **more}
        settings = recipe.Model(name=name, weights="none", image_size=image_size, args=args)
        model = build(settings, ("cat", "dog", "emu"), seed=0)
        randomised(model.module)
        return model

    return make


@pytest.fixture(scope="session")
def uneven(small: Callable[..., Model]) -> Callable[..., Model]:
    """`uneven(name, depth)`: a `small` model pruned so that heads and layers differ in width."""
    from toolkit.models.surgery import remove
    from toolkit.records import Cut, Setting

    def build(name: str = "vit_tiny_patch16_224", depth: int = 2, image_size: int = 16, **more: Setting) -> Model:
        model = small(name, depth, image_size, **more)
        cuts = (
            Cut("blocks.0.attn", "qk", (0, 3, 9, 10, 11)),
            Cut("blocks.0.attn", "v", (0, 1, 2, 3, 4, 5, 6, 20)),
            Cut("blocks.1.attn", "head", (1,)),
            Cut("blocks.1.attn", "qk", (2,)),
            Cut("blocks.1.mlp", "mlp", tuple(range(0, 20, 2))),
            Cut("residual", "embed", (5, 6)),
        )
        return remove(model, cuts).model

    return build


@dataclass(frozen=True)
class Ended:
    """Result of a command."""

    code: int
    out: str
    err: str

    @property
    def made(self) -> list[str]:
        """Names of the results that the command produced, in order."""
        return re.findall(r"^\w+: making (\S+)", self.err, re.MULTILINE)


@pytest.fixture(scope="session")
def command() -> Callable[..., Ended]:
    """`command("prune", "--ratio", "0.5")`: the command line in this process; unexpected exceptions propagate."""
    from typer.testing import CliRunner

    from toolkit.cli import app

    def call(*words: str | Path) -> Ended:
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        return Ended(result.exit_code, result.stdout, result.stderr)

    return call


TINY_RECIPE = """\
model:
  name: deit_tiny_patch16_224
  weights: none
  image_size: 32
  args: {patch_size: 8, embed_dim: 64, depth: 2, num_heads: 4}
data: {path: path/to/photos, hold_out: sketch, workers: 0}
train: {epochs: 4, batch_size: 12, evaluations: 4}
prune: {samples: 8, axes: [head, mlp]}
finetune: {epochs: 1, batch_size: 12}
parity: {margin: 0.9}
bench: {seconds: 0.05, samples: 30, batch_size: [1], threads: 1}
"""


@pytest.fixture(scope="session")
def finished(
    made_once: Callable[[str, Callable[[Path], None]], Path], command: Callable[..., Ended]
) -> tuple[Path, Ended]:
    """A folder with a tiny toolkit.yaml and its images (3 domains, 3 classes) after `toolkit run`, and that command's
    result. Read-only: copy it."""

    def make(folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        (work / "toolkit.yaml").write_text(TINY_RECIPE)
        _draw_photos(work / "path" / "to" / "photos")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(work)
            ended = command("run")
        (folder / "ended.json").write_text(json.dumps([ended.code, ended.out, ended.err]))

    folder = made_once("finished", make)
    return folder / "work", Ended(*json.loads((folder / "ended.json").read_text()))


def _draw_photos(root: Path) -> None:
    from toolkit.dg.digits import draw_digits

    classes, domains = draw_digits()
    for domain, name in zip(domains[:3], ("ink", "photo", "sketch"), strict=True):
        for label in range(3):
            place = root / name / f"class{classes[label]}"
            place.mkdir(parents=True)
            images = [image for image in domain.images if image.label == label][:10]
            for number, image in enumerate(images):
                image.decode().save(place / f"{number}.png")


def _check_images_at(file: Path, former: Path, folder: Path) -> None:
    """Write a copy's paths and times of change into its stored check of images."""
    from toolkit import records
    from toolkit.dg.image_check import CheckedImages

    check = records.load(CheckedImages, file)
    paths = {path: Path(path.replace(str(former), str(folder))) for path in check.files}
    files = {
        str(paths[path]): replace(checked, changed_ns=paths[path].stat().st_ctime_ns)
        for path, checked in check.files.items()
    }
    records.save(replace(check, files=files), file)


@pytest.fixture
def here(finished: tuple[Path, Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of `finished`, with its run in runs/default."""
    folder = tmp_path / "work"
    shutil.copytree(finished[0], folder)
    from toolkit.stages import IMAGE_CHECK

    run = folder / "runs" / "default"
    flags = run / "flags.yaml"
    flags.write_text(flags.read_text().replace(str(finished[0]), str(folder)))
    _check_images_at(run / IMAGE_CHECK, finished[0], folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def snapshot() -> Callable[..., dict[str, str]]:
    """`snapshot(folder, "log.jsonl")`: hash of every file in it, except for the named ones."""
    from toolkit import hashing

    def hashes(folder: Path, *excluded: str) -> dict[str, str]:
        paths = {path.relative_to(folder): path for path in folder.rglob("*")}
        return {
            str(name): hashing.sha256(path) if path.is_file() else "folder"
            for name, path in paths.items()
            if not any(name.match(part) or any(up.match(part) for up in name.parents) for part in excluded)
        }

    return hashes


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """`install({module: text}, [(kind, name, module)])`: a package of these modules, importable and with these plug-ins
    as entry points, also for subprocesses."""
    modules: set[str] = set()

    def write(files: dict[str, str], points: list[tuple[str, str, str]], package: str = "more_plugins") -> Path:
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        groups = (f"[vit_toolkit.{kind}]\n{name} = {module}:PLUGIN\n" for kind, name, module in points)
        (info / "entry_points.txt").write_text("\n".join(groups))
        for module, text in files.items():
            (folder / f"{module}.py").write_text(text)
        modules.update(files)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        return folder

    yield write
    for module in modules:
        sys.modules.pop(module, None)
