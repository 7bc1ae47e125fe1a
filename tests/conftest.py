"""What tests of several rooms share: small models with random weights, the data beside the repository, one thread."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

    from toolkit.models.source import LoadedModel

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton: its kernels run on the processor
# Pictures that are drawn once for all processes of tests, and not into anybody's home.
os.environ.setdefault("VIT_TOOLKIT_CACHE", str(Path(tempfile.gettempdir()) / "vit-toolkit-tests"))
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are no faster on many threads, and tests that run side by side would disturb each other."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of images and weights beside the repository; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def measured() -> Callable[[str, str], dict[str, float]]:
    """`measured(program, argument)`: the JSON that a Python program prints, run by itself on two threads."""

    def run(program: str, argument: str) -> dict[str, float]:
        ended = subprocess.run(
            [sys.executable, "-c", program, argument],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found: dict[str, float] = json.loads(ended.stdout)
        print(argument, found)
        return found

    return run


@pytest.fixture(scope="session")
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Gives every parameter a random value: biases, layer scales and position tables start at zero or near it."""
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
def small(randomised: Callable[[nn.Module], nn.Module]) -> Callable[..., LoadedModel]:
    """`small(name, depth)`: a canonical model of 3 heads for images of 16 pixels and 3 classes, never saved."""
    from toolkit import recipe
    from toolkit.models import source
    from toolkit.records import Setting

    def build(name: str = "vit_tiny_patch16_224", depth: int = 2, **more: Setting) -> LoadedModel:
        args = {"patch_size": 8, "depth": depth, "embed_dim": 24, "num_heads": 3, "mlp_ratio": 2.0, **more}
        settings = recipe.Model(name=name, weights="none", image_size=16, args=args)
        model = source.build(settings, ("cat", "dog", "emu"), seed=0)
        randomised(model.module)
        return model

    return build


@pytest.fixture(scope="session")
def uneven(small: Callable[..., LoadedModel]) -> Callable[..., LoadedModel]:
    """`uneven(name, depth)`: the same, cut so that the heads of a layer differ and so do the layers."""
    from dataclasses import replace

    from toolkit.models.source import LoadedModel, layouts_of
    from toolkit.models.surgery import remove
    from toolkit.records import Cut

    def build(name: str = "vit_tiny_patch16_224", depth: int = 2) -> LoadedModel:
        model = small(name, depth)
        cuts = (
            Cut("blocks.0.attn", "qk", (0, 3, 9, 10, 11)),
            Cut("blocks.0.attn", "v", (0, 1, 2, 3, 4, 5, 6, 20)),
            Cut("blocks.1.attn", "head", (1,)),
            Cut("blocks.1.attn", "qk", (2,)),
            Cut("blocks.1.mlp", "mlp", tuple(range(0, 20, 2))),
            Cut("residual", "embed", (5, 6)),
        )
        module = remove(model.module, cuts, model.info.image_size).module
        return LoadedModel(module, replace(model.info, layouts=layouts_of(module)))

    return build


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def made(self) -> list[str]:
        """The results that were made, in order."""
        return re.findall(r"^\w+: making (\S+)", self.err, re.MULTILINE)


@pytest.fixture(scope="session")
def command() -> Callable[..., Ended]:
    """`command("prune", "--ratio", "0.5")`: the command line in this process; other errors than ours are raised."""
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
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toolkit.yaml of the smallest settings, and the images it names: 3 domains, 3 classes."""
    from toolkit.dg.digits import draw_digits

    folder = tmp_path_factory.mktemp("work")
    (folder / "toolkit.yaml").write_text(TINY_RECIPE)
    classes, domains = draw_digits()
    for domain, name in zip(domains[:3], ("ink", "photo", "sketch"), strict=True):
        for label in range(3):
            place = folder / "path" / "to" / "photos" / name / f"class{classes[label]}"
            place.mkdir(parents=True)
            images = [image for image in domain.images if image.label == label][:10]
            for number, image in enumerate(images):
                image.decode().save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def finished(working_folder: Path, command: Callable[..., Ended]) -> tuple[Path, Ended]:
    """The working folder after `toolkit run`, and how that ended. To be copied, not changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working_folder)
        ended = command("run")
    return working_folder, ended


@pytest.fixture
def here(finished: tuple[Path, Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of the working folder with its finished run, runs/default."""
    folder = tmp_path / "work"
    shutil.copytree(finished[0], folder)
    flags = folder / "runs" / "default" / "flags.yaml"
    flags.write_text(flags.read_text().replace(str(finished[0]), str(folder)))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def snapshot() -> Callable[..., dict[str, str]]:
    """`snapshot(folder, "log.jsonl")`: hash of every file below it; the parts named are left out."""
    from toolkit import hashing

    def listed(folder: Path, *but: str) -> dict[str, str]:
        found = {path.relative_to(folder): path for path in folder.rglob("*")}
        return {
            str(name): hashing.sha256(path) if path.is_file() else "folder"
            for name, path in found.items()
            if not any(name.match(part) or any(up.match(part) for up in name.parents) for part in but)
        }

    return listed
