"""The rules that hold the rooms apart, read from the sources; each is shown to fail on a planted violation."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.waiting import NET_S

REPOSITORY = Path(__file__).parent.parent
PACKAGE = "sglang_nemotron"
MAX_LINES = 400

# the rooms from the ground floor up: each imports what stands before it, and nothing that stands after it
ORDER = (
    *("family", "config", "sglang_api", "ops", "state", "encoders", "decoder", "models"),
    *("prompt", "media", "reader", "processors", "reply", "host", "checkpoint"),
    *("parity", "verify", "bench", "launch", "plan"),
    # the entry points, and the commands
    *("__init__", "cli", "__main__"),
)
# what only the named rooms import; the longest that fits counts
KEPT = {"host": {"__init__", "cli"}, "processors": {"host"}, "models": {"processors"}}
# what imports these alone: the ground floor, the grammar of replies, the launch table, which is data for a browser as
# well, and the refusal, which stands on nothing that could be broken; checkpoints keep lists of their own, so that
# theirs and ours check each other
ALONE = {
    "family": set(),
    "sglang_api": {"family"},
    "reply": set(),
    "checkpoint": set(),
    "launch": set(),
    "host.refusal": {"family"},
}
SAYS_SGLANG = ("sglang_api", "host")
# imported with SGLang and Triton blocked
PURE = ("family", "config", "prompt", "media", "reader", "reply", "state.layout", "state.capacity", "checkpoint") + (
    # sizes of servers that are not there, commands that start them, and what is asked of those that run
    *("state.dtypes", "plan", "launch", "bench"),
    # what the main process checks a checkpoint by, before SGLang has loaded its engine
    *("decoder.kinds", "decoder.tensors", "decoder.weights"),
)


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted module name without the package, file)."""
    base = root / "src" / PACKAGE
    for file in sorted(base.rglob("*.py")):
        parts = list(file.relative_to(base).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        yield ".".join(parts), file


def imports(module: str, file: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of every import in a file, function bodies included."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - (node.level - 1)] if package else []
                base = ".".join(filter(None, [PACKAGE, *parents, base]))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def graph(root: Path) -> dict[str, dict[str, int]]:
    """module -> modules of the package that it imports, and where; whatever stands in a function or under
    TYPE_CHECKING counts too. `from sglang_nemotron.ops import forms` imports forms, `import case` the room."""
    modules = {module for module, _ in sources(root)}
    found: dict[str, dict[str, int]] = {}
    for module, file in sources(root):
        edges = found.setdefault(module, {})
        for line, name in imports(module, file):
            if not _under(name, PACKAGE):
                continue
            target = name.removeprefix(PACKAGE).lstrip(".")
            while target and target not in modules:
                target = target.rpartition(".")[0]
            edges.setdefault(target or "__init__", line)
        edges.pop(module, None)
    return found


def _room(module: str) -> str:
    return module.split(".")[0]


def wrong_directions(root: Path) -> list[str]:
    wrong = []
    for module, edges in graph(root).items():
        if _room(module) not in ORDER:
            wrong.append(f"{module} is in no room; give its room a place in ORDER")
            continue
        alone = next((ALONE[room] for room in sorted(ALONE, key=len, reverse=True) if _under(module, room)), None)
        for target, line in edges.items():
            ours, theirs = _room(module), _room(target)
            if ours != theirs and (theirs not in ORDER or ORDER.index(theirs) > ORDER.index(ours)):
                wrong.append(f"{module}:{line} imports {target}, which stands above it")
            elif ours != theirs and ours not in KEPT.get(theirs, {ours}):
                wrong.append(f"{module}:{line} imports {target}, which is for {sorted(KEPT[theirs])}")
            elif alone is not None and theirs not in alone and (ours != theirs or module == "host.refusal"):
                wrong.append(f"{module}:{line} imports {target}; it imports {sorted(alone) or 'nothing'} alone")
    return wrong


def cycles(root: Path) -> list[str]:
    """Files that import each other, by however many steps, and rooms that do."""
    files = {module: set(edges) for module, edges in graph(root).items()}
    rooms: dict[str, set[str]] = {}
    for module, targets in files.items():
        rooms.setdefault(_room(module), set()).update({_room(target) for target in targets} - {_room(module)})
    return [" -> ".join(cycle) for cycle in (*_cycles(files), *_cycles(rooms))]


def _cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """A way around for every node that reaches itself, one for each set of nodes."""
    found: dict[frozenset[str], list[str]] = {}
    for start in edges:
        came: dict[str, str] = {}
        waiting = [start]
        while waiting and start not in came:
            node = waiting.pop()
            for target in edges.get(node, ()):
                if target not in came:
                    came[target] = node
                    waiting.append(target)
        if start in came:
            way = [start]
            while (node := came[way[-1]]) != start:
                way.append(node)
            found.setdefault(frozenset(way), [start, *reversed(way)])
    return list(found.values())


def sglang_elsewhere(root: Path) -> list[str]:
    return [
        f"{module}:{line} imports {name}"
        for module, file in sources(root)
        for line, name in imports(module, file)
        if _under(name, "sglang") and _room(module) not in SAYS_SGLANG
    ]


def impure(root: Path) -> list[str]:
    """Pure rooms are imported in a fresh interpreter where SGLang and Triton cannot be."""
    names = [
        module
        for module, _ in sources(root)
        if any(_under(module, room) for room in PURE) or re.fullmatch(r"ops\.\w+_reference", module)
    ]
    script = f"""
import importlib, sys
sys.modules.update(dict.fromkeys(("sglang", "sgl_kernel", "triton")))
sys.path.insert(0, {str(root / "src")!r})
for name in {names}:
    try:
        importlib.import_module("{PACKAGE}." + name)
    except ImportError as error:
        print(name, error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=NET_S)
    return [*run.stdout.splitlines(), *([run.stderr] if run.returncode else [])]


def differing_twins(root: Path) -> list[str]:
    wrong, forms = [], {}
    for file in sorted((root / "src" / PACKAGE / "ops").glob("[a-z]*_*.py")):
        op, _, form = file.stem.rpartition("_")
        forms.setdefault(op, {})[form] = _signatures(file)
    for op, by_form in forms.items():
        reference = by_form.get("reference")
        if reference is None or len(by_form) == 1:
            wrong.append(f"{op}: {[f'{op}_{form}' for form in sorted(by_form)]}; a reference and a twin are needed")
            continue
        for form, signatures in by_form.items():
            for name in sorted(reference.keys() | signatures.keys()):
                if reference.get(name) != signatures.get(name):
                    wrong.append(f"{op}_{form}.{name}{signatures.get(name)} is not {reference.get(name)}")
    return wrong


def _signatures(file: Path) -> dict[str, str]:
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    return {f.name: ast.unparse(f.args) for f in functions if not f.name.startswith("_")}


def wrong_files(root: Path) -> list[str]:
    wrong = []
    for module, file in sources(root):
        lines = len(file.read_text().splitlines())
        # a schedule for one GPU may be as long as it needs
        if lines > MAX_LINES and not file.stem.endswith("_triton"):
            wrong.append(f"{module} has {lines} lines; {MAX_LINES} at most")
        if file.stem in ("utils", "util", "helpers", "common", "misc"):
            wrong.append(f"{module}: a file says what it holds")
    return wrong


# paths that a machine's owner knows and a reader does not; spelt in pieces, so that this file passes its own test
_FOREIGN = re.compile("|".join(("/" + "work/", "/" + "root/", r"\." + "library", "/" + "home/")))
_TEXT = {".py", ".md", ".toml", ".json", ".jinja", ".yaml", ".yml", ".txt", ".sh", ".cfg", ""}


def foreign_paths(root: Path) -> list[str]:
    wrong = []
    for inside in _tracked(root):
        file = root / inside
        if file.suffix not in _TEXT or not file.is_file():
            continue
        for number, line in enumerate(file.read_text(errors="ignore").splitlines(), 1):
            if found := _FOREIGN.search(line):
                wrong.append(f"{inside}:{number} holds {found[0]!r}")
    return wrong


def _tracked(root: Path) -> list[Path]:
    """Files that are or would be committed; outside a repository, all."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode or not (root / ".git").exists():
        return [file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_file()]
    return [Path(line) for line in listed.stdout.splitlines()]


@functools.cache
def _now(rule: Callable[[Path], list[str]]) -> list[str]:
    return rule(REPOSITORY)


# rule -> a violation of it: (file, text to append or to hold)
RULES: dict[Callable[[Path], list[str]], list[tuple[str, str]]] = {
    wrong_directions: [
        ("ops/router_torch.py", "from sglang_nemotron.decoder import shards\n"),
        ("state/plan.py", "def f():\n    from sglang_nemotron.models import nemotron_h\n"),
        ("reply/tools.py", "import sglang_nemotron.config\n"),
        ("host/refusal.py", "from sglang_nemotron.host import door\n"),
        ("decoder/stack.py", "from sglang_nemotron.host import doors\n"),
        ("processors/nemotron_omni.py", "if TYPE_CHECKING:\n    from sglang_nemotron.host.http import media\n"),
        ("parity/report.py", "from sglang_nemotron.host import doors\n"),
        ("verify/modes.py", "from sglang_nemotron.cli import console\n"),
        ("launch/table.py", "from sglang_nemotron.family import TEXT\n"),
        ("plan/server.py", "def f():\n    from sglang_nemotron.host import slots\n"),
        ("bench/table.py", "from sglang_nemotron.cli import console\n"),
        ("config/decoder.py", "from .. import ops\n"),
        ("config/faults.py", "from sglang_nemotron import checkpoint\n"),
        ("sglang_api/args.py", "from sglang_nemotron.config import decoder\n"),
        ("attic/old.py", ""),
    ],
    cycles: [
        ("host/door.py", "def f():\n    from sglang_nemotron.host.doors import DOORS\n"),
        ("config/values.py", "from sglang_nemotron.config.omni import OmniSpec\n"),
        ("media/pixels/rows.py", "if TYPE_CHECKING:\n    from sglang_nemotron.media.pixels import resize\n"),
        ("prompt/options.py", "from sglang_nemotron.media.features import Kind\n"),
    ],
    sglang_elsewhere: [
        ("models/nemotron_h.py", "import sglang.srt.layers\n"),
        ("decoder/mamba.py", "def f():\n    from sglang.srt import utils\n"),
    ],
    impure: [
        ("reply/tools.py", "import sglang\n"),
        ("ops/router_reference.py", "import triton\n"),
        ("checkpoint/values.py", "from sglang.srt import utils\n"),
        ("state/layout.py", "from sglang_nemotron.sglang_api import args\n"),
        ("state/capacity.py", "import triton\n"),
        ("plan/make.py", "import sglang\n"),
    ],
    differing_twins: [
        ("ops/router_torch.py", "def extra(x):\n    return x\n"),
        ("ops/lonely_torch.py", "def lonely(x):\n    return x\n"),
        ("ops/track_sglang.py", "def copy_states(conv_LSCW, ssm_LSHPN):\n    pass\n"),
    ],
    wrong_files: [
        ("decoder/utils.py", ""),
        ("decoder/long.py", "x = 1\n" * (MAX_LINES + 1)),
    ],
    foreign_paths: [("config/decoder.py", "# see /" + "work/notes\n")],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Path], list[str]]) -> None:
    assert _now(rule) == []


def _planted(rule: Callable[[Path], list[str]], number: int, file: str, text: str) -> Any:
    # each look for what is imported takes an interpreter of its own
    marks = [pytest.mark.matrix] if rule is impure and number > 1 else []
    return pytest.param(rule, file, text, id=f"{rule.__name__}-{file}", marks=marks)


PLANTED = [_planted(rule, at, *fault) for rule, faults in RULES.items() for at, fault in enumerate(faults)]


@pytest.mark.parametrize(("rule", "file", "text"), PLANTED)
def test_rule_can_fail(rule: Callable[[Path], list[str]], file: str, text: str, tmp_path: Path) -> None:
    source = Path("src") / PACKAGE
    shutil.copytree(REPOSITORY / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path / source / file
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a") as out:
        out.write(text)
    stem = Path(file).stem
    assert [line for line in rule(tmp_path) if stem in line and line not in _now(rule)]
