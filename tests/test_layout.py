"""The shape of the repository: links, what a wheel and a source archive hold, what the image is built from."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
LINKED = ("kernels", "export", "bench")
CODE = ("toolkit", *LINKED)
DATA = ("*.j2", "*.yaml", "tuned/*.json", "py.typed")


def files_of_the_package() -> set[str]:
    """Every module and data file, by the path that it has once installed: toolkit/..."""
    found = set()
    for folder in CODE:
        for pattern in ("*.py", *DATA):
            # rglob does not go through the links, so that each file is seen once, in its own folder.
            for path in (ROOT / folder).rglob(pattern):
                inside = path.relative_to(ROOT).as_posix()
                found.add(inside if folder == "toolkit" else f"toolkit/{inside}")
    return found


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive of this tree, and the wheel built from that archive, without a network."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in (*CODE, "tests"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree / file)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.mark.parametrize("name", LINKED)
def test_link_is_relative_and_resolves(name: str) -> None:
    link = ROOT / "toolkit" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert (link / "__init__.py").samefile(ROOT / name / "__init__.py")


@pytest.mark.parametrize("name", LINKED)
def test_git_tracks_the_link_as_a_link(name: str) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--stage", f"toolkit/{name}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert listed.stdout.startswith("120000 "), "mode 120000 is a symlink"


def test_wheel_holds_every_file_and_nothing_else(archives: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == files_of_the_package()


def test_wheel_installs_the_command(archives: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "toolkit = toolkit.cli:main" in archive.read(points).decode()


def test_source_archive_holds_every_file(archives: Path) -> None:
    (sdist,) = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert files_of_the_package() | {"pyproject.toml", "README.md", "LICENSE"} <= held


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for folder in CODE for path in (ROOT / folder).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    "module", ["toolkit", "toolkit.errors", "toolkit.plugins", "toolkit.records", "toolkit.recipe"]
)
def test_import_does_not_bring_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'timm'}} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_files_are_short_enough_to_hold_one_idea() -> None:
    lines = {
        path: len(path.read_text().splitlines())
        for folder in (*CODE, "tests")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {str(path): count for path, count in lines.items() if count > 300} == {}


def sources_of_the_image() -> list[str]:
    """What the Dockerfile copies from the repository."""
    copies = re.findall(r"^COPY (.+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [source for copy in copies for source in copy.split()[:-1]]


def test_image_is_built_from_what_is_there() -> None:
    sources = sources_of_the_image()
    assert {*CODE, "pyproject.toml", "constraints.txt"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_dockerignore_leaves_the_image_its_sources() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    needed = [*sources_of_the_image(), *(f"toolkit/{name}" for name in LINKED), *files_of_the_package()]
    # A rule without **/ in front is anchored at the top; fnmatch's * also crosses "/", so this errs on the strict side.
    anywhere = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    assert [path for path in needed if any(fnmatch.fnmatch(path, rule) for rule in rules)] == []
    assert [
        path for path in needed if any(fnmatch.fnmatch(part, rule) for rule in anywhere for part in Path(path).parts)
    ] == []


def test_constraints_pin_one_exact_version_each() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = [re.fullmatch(r"([\w.-]+)==[\w.]+( ; python_version >= \"3\.\d+\")?", line) for line in lines]
    assert all(pinned), lines
    names = [found[1].lower() for found in pinned if found]
    assert len(names) == len(set(names))
    assert {"torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxruntime-gpu"} <= set(names)


def test_no_import_is_circular() -> None:
    """Includes imports for type checkers, except those of the API's functions in the package."""
    graph = grimp.build_graph("toolkit", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    imports["toolkit"] = imports["toolkit"] - {"toolkit.api"}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()


def test_the_architecture_page_names_every_module() -> None:
    """Plug-ins are named without their suffix."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = [Path(file) for file in files_of_the_package() if file.endswith(".py")]
    missing = [
        str(module)
        for module in modules
        if not module.stem.startswith("__")
        and not re.search(rf"\b{module.name}|`{module.stem.rstrip('_').replace('_', '[-_]')}`", text)
    ]
    assert missing == []
