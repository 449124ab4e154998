"""README.md and docs/: every command in them runs, every link leads somewhere, every table is complete.

What stands in a fence is done from top to bottom, as a reader would: `sh` (or no language) in bash with a real server,
`python` in one namespace per document, `js` in Node.js where there is one. The tables below say what is shortened, what
is only read by the script's own argument parser, and what is not run, each with its reason. A command that is in none
of them is run as it stands.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from service_process import ROOT, Server, environment, start

from benchmarks.common import free_port
from service import errors
from service.errors import Problem
from training.boxes import write_dataset

DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

AFTER = {"docs/export.md": ["docs/your-own-data.md"]}
"""Documents that go on from what others have made."""

FILES = {
    **{"room.jpg": "kitchen", "a.jpg": "bathroom", "b.jpg": "office", "b.png": "office"},
    **{"photos/kitchen.jpg": "kitchen", "photos/office.jpg": "office"},
}
"""What a reader has: photos. Besides them, `mine` is a data set of twenty pictures."""

ALL = "*"
"""In the tables: any document."""

REPLACED = [
    (ALL, r"(?m)^make serve MODEL=(\S+).*$", r"segdepth serve --model \1"),
    (ALL, r"(?m)^make serve\b.*$", r"segdepth serve"),
    (ALL, r"(?m)(\bsegdepth serve\b.*?) &( *#.*)?$", r"\1"),  # Here it returns when it is ready.
    ("docs/your-own-data.md", r"--epochs \d+", "--epochs 1 --workers 0"),
    ("docs/your-own-data.md", r"--warmup \d+", "--warmup 1"),
    ("docs/your-own-data.md", r"--size \d+x\d+", "--size 48x64"),
    (ALL, r"--sizes [\dx,]+", "--sizes 48x64,64x48"),
    # Of sixteen pictures, and after one epoch int8 may lose what it likes.
    ("docs/export.md", r"--calibration mine", "--calibration mine --calibration-pictures 16"),
    ("docs/export.md", r"--precision int8", "--precision int8 --max-miou-loss 1 --max-rmse-loss 9"),
    ("docs/kubernetes.md", r"http://\$HOST/", "http://localhost:8000/"),
]
"""Document, pattern and what it is replaced with, in the commands that are run. Besides, localhost:8000 is the address
of the test's server."""

PARSED = [
    (ALL, r"data/nyud|nyu_depth_v2_labeled|--root DIR", "wants official files; tests/test_prepare.py makes some"),
    (ALL, r"data/rooms|training\.rooms|runs/rooms", "renders for hours; tests/test_rooms_*.py"),
    ("docs/research.md", r"runs/(ssw|seg|depth|nddr)/|reproduce\.py", "trains for days; tests/test_train.py, ..."),
    ("docs/operations.md", r"benchmarks/serving\.py", "measures for a minute; tests/test_benchmarks.py"),
    ("docs/gpu.md", r"benchmarks/gpu\.py", "measures for minutes"),
    ("docs/ray.md", r"deploy\.ray_batch", "starts a cluster"),
]
"""Document, pattern and reason: not run, but the script's own parser reads the command line as it is."""

NOT_RUN = [
    (ALL, r"^make (test|train-environment)\b", "installs torch; the target exists"),
    (ALL, r"^(apt-get|pip) install\b", "installs; the extras exist"),
    ("docs/your-own-data.md", r"^for part in \(\"images\"", "tests/test_prepare.py runs it"),
    ("docs/gpu.md", r"--device (cuda|tensorrt)", "wants a GPU"),
    ("docs/deploy.md", r"^docker |docker compose", "wants Docker; tests/compose_trial.py"),
    ("docs/deploy.md", r"^cp new\.onnx", "replaces a model in a container; tests/compose_trial.py"),
    ("docs/deploy.md", r"^deploy/scan\.sh", "installs, and asks PyPI"),
    ("docs/kubernetes.md", r"^(docker|kubectl) ", "wants a cluster"),
    ("docs/predict.md", r"clip\.mp4", "wants a video; tests/test_bulk.py makes one"),
    ("docs/predict.md", r"http://gpu:8000", "wants another machine; tests/test_bulk.py has a server"),
    ("docs/ray.md", r"^serve run ", "starts a cluster"),
]
"""Document, pattern and reason: not run at all. Shell is only checked for its syntax."""

FAILS = [r"^echo 'no picture'"]
"""What shows an error."""

DATA = {"text", "json", "toml", "yaml", "dockerfile"}
"""Fences that are no commands."""


class Fence(NamedTuple):
    language: str
    text: str
    line: int


class Workplace(NamedTuple):
    """A copy of the repository with a reader's files, and the server that is running."""

    folder: Path
    server: Server
    done: set[str]


def fences(name: str) -> list[Fence]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [Fence(one[2], re.sub(rf"(?m)^{one[1]}", "", one[3]), text[: one.start()].count("\n") + 2) for one in found]


def commands(fence: Fence) -> list[str]:
    """The logical lines of a fence of commands, without comments; of `console` those after a prompt."""
    lines = fence.text.replace("\\\n", " ").splitlines()
    if fence.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [re.sub(r"\s+", " ", line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def reason(table: list[tuple[str, str, str]], name: str, command: str) -> str | None:
    return next((why for where, what, why in table if where in (ALL, name) and re.search(what, command)), None)


def shortened(name: str, text: str) -> str:
    for where, pattern, replacement in REPLACED:
        if where in (ALL, name):
            text = re.sub(pattern, replacement, text)
    return text


class _ParsedError(Exception):
    """The command line was read without a complaint."""


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script of a command read its command line, and stop it then."""
    words = shlex.split(command, comments=True)
    words = words[: next((k for k, word in enumerate(words) if word in (">", "|", "&&", "&")), len(words))]
    first = next(k for k, word in enumerate(words) if word == "-m" or word.endswith(".py"))
    is_module = words[first] == "-m"
    arguments = words[first + 1 + is_module :]
    read = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **options: Any) -> Any:
        read(self, *args, **options)
        raise _ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [words[first], *arguments])
        script = ROOT / words[first]
        run = (
            partial(runpy.run_module, words[first + 1], None, "__main__")
            if is_module
            else partial(runpy.run_path, str(script), None, "__main__")
        )
        patch.syspath_prepend(ROOT if is_module else script.parent)
        with pytest.raises(_ParsedError):
            run()


PROGRAMS = {
    "python": 'exec {python} "$@"',
    "segdepth": 'exec {python} -m service.cli "$@"',
    "curl": 'exec {curl} --silent --show-error --fail-with-body "$@"',
}
"""What a reader's commands find."""

PRELUDE = """\
segdepth() {
    if [ "${1-}" != serve ]; then command segdepth "$@"; return; fi
    command segdepth "$@" --port $PORT >> served.log 2>&1 &
    for _ in $(seq 600); do
        curl --output /dev/null 127.0.0.1:$PORT/health/ready 2> /dev/null && return
        sleep 0.2
    done
    cat served.log
    return 1
}
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
"""
"""Serving returns when pictures are answered, and ends with the fence."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("reader")
    unused = shutil.ignore_patterns("__pycache__", "tests", ".*", "build", "data", "runs")
    shutil.copytree(ROOT, folder, ignore=unused, dirs_exist_ok=True)
    for name, picture in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "examples" / "images" / f"{picture}.jpg", folder / name)
    write_dataset(folder / "mine", count=20, seed=0, size=(64, 48), workers=1)
    for name, text in PROGRAMS.items():
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        curl = shutil.which("curl") or "curl"
        program.write_text("#!/bin/bash\n" + text.format(python=shlex.quote(sys.executable), curl=curl))
        program.chmod(0o755)
    with start() as server:
        server.wait_ready()
        yield Workplace(folder, server, set())


def run_shell(fence: Fence, name: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workplace.folder
    script = fence.text
    if fence.language == "console":
        script = "\n".join(commands(fence)) + "\n"
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    lines = []
    for line in script.replace("\\\n", " ").splitlines():
        if reason(NOT_RUN, name, line):
            line = ":"
        elif reason(PARSED, name, line):
            parse(line, monkeypatch)
            line = ":"
        elif any(re.search(pattern, line) for pattern in FAILS):
            line = f"if {line}; then exit 1; fi"
        lines.append(line)
    script = shortened(name, "\n".join(lines))
    own = re.search(r"\bsegdepth serve\b", script)
    port = free_port() if own else workplace.server.port
    script = re.sub(r"\b(localhost|127\.0\.0\.1):8000\b", f"127.0.0.1:{port}", script)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", PRELUDE + script],
        cwd=folder,
        env=environment(PATH=path, PYTHONPATH=str(folder), PORT=str(port)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=500)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # With all that it has started.
        raise
    finally:
        process.wait()
        assert process.stdout
        process.stdout.close()
    assert process.returncode == 0, f"{name} line {fence.line}:\n{script}\n{output.decode(errors='replace')[-3000:]}"


def run_node(node: str, fence: Fence, name: str, workplace: Workplace) -> None:
    text = fence.text.replace("localhost:8000", f"127.0.0.1:{workplace.server.port}")
    command = [node, "--input-type=module", "--eval", text]
    done = subprocess.run(command, cwd=workplace.folder, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0 and "NaN" not in done.stdout, f"{name} line {fence.line}:\n{done.stdout}{done.stderr}"


def follow(name: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a document says."""
    for earlier in AFTER.get(name, []):
        if earlier not in workplace.done:
            follow(earlier, workplace, monkeypatch)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    monkeypatch.chdir(workplace.folder)
    for fence in fences(name):
        if fence.language in ("", "sh", "bash", "console"):
            run_shell(fence, name, workplace, monkeypatch)
        elif fence.language == "python" and not any(reason(NOT_RUN, name, line) for line in fence.text.splitlines()):
            text = re.sub(r"\b(localhost|127\.0\.0\.1):8000\b", f"127.0.0.1:{workplace.server.port}", fence.text)
            exec(compile("\n" * (fence.line - 1) + text, name, "exec"), namespace)
        elif fence.language == "js" and (node := shutil.which("node")):
            run_node(node, fence, name, workplace)
    workplace.done.add(name)
    namespace.clear()
    gc.collect()  # What a short script may leave open until its end is closed here, not in another test.


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_does_what_it_should(
    name: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(fence.text for fence in fences(name))
    for program in ("curl", "openssl"):
        if re.search(rf"\b{program} ", text) and shutil.which(program) is None:
            pytest.skip(f"{program}, which {name} uses, is not installed")
    if name not in workplace.done:
        follow(name, workplace, monkeypatch)


def test_every_exception_is_needed() -> None:
    """The tables have nothing that no document has any more; documents that are yet to come may wait for theirs."""
    lines = {
        name: [
            line
            for fence in fences(name)
            if fence.language not in DATA
            for line in (*commands(fence), *fence.text.splitlines())
        ]
        for name in DOCUMENTS
    }
    tables = [(where, pattern) for where, pattern, _ in (*REPLACED, *PARSED, *NOT_RUN)] + [(ALL, one) for one in FAILS]
    for where, pattern in tables:
        own = lines[where] if where != ALL else [line for some in lines.values() for line in some]
        assert any(re.search(pattern, line) for line in own), f"{where}: {pattern}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_fences_say_what_they_hold(name: str) -> None:
    for fence in fences(name):
        assert fence.language in {"", "sh", "bash", "console", "python", "js", *DATA}, f"{name} line {fence.line}"
        if fence.language == "json":
            json.loads(fence.text)
        elif fence.language == "toml":
            tomllib.loads(fence.text)
    # Indented code would be seen by nobody: neither by the tests nor as a command.
    without = re.sub(r"(?ms)^ *```.*?^ *```$", "", (ROOT / name).read_text(encoding="utf-8"))
    assert re.findall(r"(?m)(?<=\n\n) {4}\S.*$", without) == []


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "name",
    [
        *DOCUMENTS,
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "examples/README.md",
        "benchmarks/RESULTS.md",
        "benchmarks/reproduce/README.md",
    ],
)
def test_every_link_leads_somewhere(name: str) -> None:
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", (ROOT / name).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", path.read_text(encoding="utf-8"))
            assert anchor in map(slug, headings), f"{name}: {target}"


def test_make_targets_and_extras_exist() -> None:
    """Also those that are named in a sentence only."""
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in (*DOCUMENTS, "CONTRIBUTING.md"))
    targets = set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", text))
    assert {"serve", "test", "check", "train-environment"} <= targets
    rules = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert targets <= rules
    extras = {one for found in re.findall(r"(?:segdepth|'\.)\[([a-z,]+)\]", text) for one in found.split(",")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras and extras <= set(project["optional-dependencies"])


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_serve_serves_the_model_that_it_is_given() -> None:
    """What is not given is left to the settings; some shells have a HOST of their own."""
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "serve", "MODEL=mine.onnx", "PORT=9"],
        cwd=ROOT,
        env={**os.environ, "HOST": "x86_64-conda-linux-gnu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].split()[1:] == shlex.split("serve --port 9 --model mine.onnx")


@pytest.mark.parametrize(
    ("runtime", "chosen", "device"),
    [("cpu", None, "cpu"), ("gpu", None, "cuda"), ("cpu", "openvino", "openvino"), ("gpu", "cuda:1", "cuda:1")],
)
def test_make_serve_asks_for_the_device_of_its_runtime(
    tmp_path: Path, runtime: str, chosen: str | None, device: str
) -> None:
    """Where the settings do not say which. The command is one that prints it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "service").mkdir()
    needed = ("pyproject.toml", "constraints.txt", "hatch_build.py", "service/kernels.c", ".venv/bin/python")
    for name in (*needed, f".venv/installed-{runtime}"):
        (tmp_path / name).touch()
    command = tmp_path / ".venv" / "bin" / "segdepth"
    command.write_text('#!/bin/sh\necho "$@" on $SEGDEPTH_DEVICE\n')
    command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEGDEPTH_")}
    done = subprocess.run(
        ["make", "--silent", "serve", f"RUNTIME={runtime}"],
        cwd=tmp_path,
        env=environment if chosen is None else {**environment, "SEGDEPTH_DEVICE": chosen},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["serve", "on", device]


def test_every_problem_is_documented() -> None:
    """Status and type in docs/api.md, both ways."""
    kinds, found = [Problem], set()
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind not in (Problem, errors.Unavailable) and kind.__module__.startswith("service."):
            found.add((str(kind.status), kind.kind))
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^\| (\d{3}) \| `([a-z-]+)` \|", text)) == found


def test_the_pictures_can_be_made_again(workplace: Workplace, tmp_path: Path) -> None:
    """By the command of docs/pictures.py, and there are no others."""
    command = [sys.executable, str(ROOT / "docs" / "pictures.py"), "--url", workplace.server.url]
    subprocess.run([*command, "--out", str(tmp_path)], env=environment(), check=True, timeout=120)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    there = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs" / "pictures").iterdir()}
    assert made == {*there, Path("example.jpg")}
    assert sum((ROOT / "docs" / path).stat().st_size for path in made) < 600_000
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    assert [path for path in made if path.name not in text] == []
