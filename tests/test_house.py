"""The rules of the house: the layout, the sizes, the directions of imports, and what the wheel holds."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("agents", "cluster", "envs", "experiments", "platform")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGE_FILES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))

LONGEST_FILE = 300
LONGEST_FUNCTION = 40
ALLOWED: frozenset[str] = frozenset()
"""`file` or `file:function` that may be longer, each with its reason beside it."""


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Each module that a file imports by an absolute name, with its line."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or "", node.lineno


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | environment, text=True, capture_output=True, check=False
    )


def _copy_of_the_project(folder: Path) -> Path:
    """What a clone holds, under the package's name."""
    left_out = shutil.ignore_patterns(".*", "build", "dist", "runs", "mlruns", "*.db", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT, folder / "concertrl", ignore=left_out))


def test_platform_has_no_init_and_leaves_pythons_own_platform_module_alone() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    result = _run(sys.executable, "-c", "import platform; print(platform.python_version())", cwd=ROOT)
    assert result.stdout.strip() == ".".join(map(str, sys.version_info[:3])), result.stderr


def test_the_public_face_loads_neither_ray_nor_mlflow() -> None:
    look = "import sys, concertrl; concertrl.load_experiment; print(*({'ray', 'mlflow', 'torch'} & set(sys.modules)))"
    result = _run(sys.executable, "-c", look, cwd=ROOT.parent)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_every_folder_of_code_is_in_the_package_list() -> None:
    folders = {".".join(("concertrl", *path.relative_to(ROOT).parent.parts)) for path in PACKAGE_FILES}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_every_folder_but_platform_has_an_init() -> None:
    missing = {path.parent.name for path in PACKAGE_FILES if not (path.parent / "__init__.py").exists()}
    assert missing <= {"platform"}


@pytest.mark.parametrize("path", PACKAGE_FILES + TEST_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    lines = path.read_text("utf-8").count("\n")
    assert lines <= LONGEST_FILE or name in ALLOWED, f"{name}: {lines} lines"
    long = [
        f"{name}:{node.name}"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _body_lines(node) > LONGEST_FUNCTION
    ]
    assert set(long) <= ALLOWED


def test_imports_inside_the_package_are_relative() -> None:
    """All but in the file that MLflow copies into a model and runs by itself, where there is no package around it."""
    own = {"concertrl", *ROOMS} - {"platform"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in PACKAGE_FILES
        if path != ROOT / "agents" / "serving.py"
        for module, line in _imports(path)
        if module.partition(".")[0] in own or module.startswith("platform.")
    ]
    assert not wrong


def test_only_cluster_imports_ray() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in PACKAGE_FILES
        for module, line in _imports(path)
        if module.partition(".")[0] == "ray" and path.parent != ROOT / "cluster"
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("platform", "from ..agents import tower"),
        ("platform", "import ray"),
        ("platform", "import mlflow"),
        ("agents", "from ..envs import world"),
        ("envs", "import ray"),
        ("cluster", "from .. import experiments"),
        ("experiments", "import ray"),
    ],
)
def test_the_import_contract_breaks_on_a_forbidden_import(tmp_path: Path, room: str, line: str) -> None:
    copy = _copy_of_the_project(tmp_path)
    (copy / room / "intruder.py").write_text(f"{line}\n")
    lint = Path(sys.executable).with_name("lint-imports")
    broken = _run(lint, "--no-cache", cwd=copy, PYTHONPATH=str(tmp_path))
    assert broken.returncode == 1
    assert f"concertrl.{room}.intruder -> " in broken.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    copy = _copy_of_the_project(folder)
    built = _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=copy)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    configs = [path for folder in ("configs", "sweeps") for path in (ROOT / "experiments" / folder).glob("*.yaml")]
    configs += [path for path in (ROOT / "cluster" / "manifests").iterdir() if path.suffix in (".yaml", ".json")]
    expected = {f"concertrl/{path.relative_to(ROOT).as_posix()}" for path in [*PACKAGE_FILES, *configs]}
    assert held == expected | {"concertrl/py.typed"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_trains_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Needs a package index. The command is far from the checkout, so that only the wheel can answer it."""
    environment = tmp_path / "venv"
    assert _run(sys.executable, "-m", "venv", environment, cwd=tmp_path).returncode == 0
    pins = ROOT / "constraints.txt"
    installed = _run(environment / "bin" / "pip", "install", "--quiet", "-c", pins, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    concertrl = environment / "bin" / "concertrl"
    assert _run(concertrl, "--help", cwd=tmp_path).returncode == 0
    smallest = ("train.iterations=1", "env.sessions=32", "evaluate.sessions=16")
    trained = _run(concertrl, "train", "builtin", *smallest, "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    answer = json.loads(trained.stdout.splitlines()[-1])
    assert {row["policy"] for row in answer["table"]} >= {"random", "best_static", "team", "greedy_oracle"}
