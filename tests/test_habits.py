"""What a public project promises beside its code, held to the tree: workflows, templates, changelog, tags, types."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import sglang_nemotron
from sglang_nemotron import cli
from sglang_nemotron.sglang_api.release import SUPPORTED_SGLANG
from support import children
from support.waiting import NET_S

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLASSIFIERS = PYPROJECT["project"]["classifiers"]
VERSION = r"\d+\.\d+\.\d+"
# what later steps call is what `make venv` made
USE_VENV = 'echo "$PWD/.venv/bin" >> "$GITHUB_PATH"'
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict), path
    # YAML 1.1 reads the key `on` as true
    return {("on" if key is True else key): value for key, value in found.items()}


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    yield from read(path)["jobs"].values()


def commands(path: Path) -> list[str]:
    """Every command line of a workflow."""
    return [line for job in jobs(path) for step in job["steps"] for line in step.get("run", "").splitlines()]


def is_there(command: str) -> bool:
    """Whether anybody can run this: a target of the Makefile, a script of this repository, or a command of ours."""
    program, *words = command.split()
    if program == "sglang-nemotron":
        return bool(words) and words[0] in cli.COMMANDS
    if program == "make":
        targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
        return bool(words) and set(words) <= targets
    return program == "sh" and bool(words) and (ROOT / words[0]).is_file()


def pythons(path: Path) -> set[str]:
    """The Python versions that a workflow sets up, as strings."""
    found: set[str] = set()
    for job in jobs(path):
        matrix = job.get("strategy", {}).get("matrix", {}).get("python-version", [])
        for step in job["steps"]:
            version = step.get("with", {}).get("python-version")
            if version == "${{ matrix.python-version }}":
                found |= set(matrix)
            elif version is not None:
                found.add(version)
    return found


def supported_pythons() -> set[str]:
    """As the classifiers say."""
    return set(re.findall(r"^Programming Language :: Python :: (3\.\d+)$", "\n".join(CLASSIFIERS), re.M))


# ---- workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_anybody_can(path: Path) -> None:
    flow = read(path)
    assert flow["name"] and flow["on"] and flow["permissions"] == {"contents": "read"}
    assert commands(path)
    assert [line for line in commands(path) if line != USE_VENV and not is_there(line)] == []
    for job in jobs(path):
        assert re.fullmatch(r"ubuntu-\d+\.\d+", job["runs-on"]) and 0 < job["timeout-minutes"] <= 360
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert used[0].startswith("actions/checkout@") and all(re.fullmatch(r"actions/[a-z-]+@v\d+", u) for u in used)


def test_the_six_workflows_are_there() -> None:
    assert {path.stem: commands(path) for path in WORKFLOWS} == {
        "parity": [
            *("make venv", USE_VENV),
            *("sglang-nemotron make-checkpoint toy", "sglang-nemotron parity toy --json parity.json"),
        ],
        "lint": ["make lint"],
        "site": ["make site"],
        "tests": ["make test"],
        "contract": ["sh .ci/contract"],
        "release": ["sh .ci/release"],
    }
    assert read(GITHUB / "workflows" / "release.yml")["on"]["push"] == {"tags": ["v*"]}
    for name in ("lint", "site", "tests", "parity"):
        assert set(read(GITHUB / "workflows" / f"{name}.yml")["on"]) == {"push", "pull_request"}
    ((schedule,),) = (read(GITHUB / "workflows" / "contract.yml")["on"]["schedule"],)
    # minute, hour, any day of a month, any month, one day of the week
    assert re.fullmatch(r"\d{1,2} \d{1,2} \* \* [0-6]", schedule["cron"])


def test_pythons_are_those_of_the_package() -> None:
    wanted = supported_pythons()
    names = [re.fullmatch(r"lock-py(\d)(\d+)\.txt", name) for name in os.listdir(ROOT / "requirements")]
    locks = {f"{match[1]}.{match[2]}" for match in names if match}
    assert wanted == locks == pythons(GITHUB / "workflows" / "tests.yml") and len(wanted) >= 2
    first, last = sorted(wanted, key=lambda version: int(version.split(".")[1]))[:: len(wanted) - 1]
    assert PYPROJECT["project"]["requires-python"] == f">={first},<3.{int(last.split('.')[1]) + 1}"
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == first
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + first.replace(".", "")
    for path in WORKFLOWS:
        assert pythons(path) and pythons(path) <= wanted


def test_docs_list_the_workflows() -> None:
    text = (ROOT / "docs" / "development.md").read_text()
    rows = dict(re.findall(r"^\| `\.github/workflows/(\w+)\.yml` \| `([^`]+)`", text, re.M))
    assert rows == {path.stem: commands(path)[0] for path in WORKFLOWS}


def snippet_for_forks() -> dict[str, Any]:
    """The workflow that docs give to forks."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "forks.md").read_text(), re.M | re.S)
    found = yaml.safe_load(text)
    return {("on" if key is True else key): value for key, value in found.items()}


def differences_of_parity(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where a fork's workflow and ours part, which they may in when they run and in what the step `install` runs."""
    ((ours_name, ours_job),), ((theirs_name, theirs_job),) = ours["jobs"].items(), theirs["jobs"].items()
    found = [key for key in ("permissions",) if ours[key] != theirs[key]]
    found += ["the job's name"] * (ours_name != theirs_name)
    keys = {*ours_job, *theirs_job} - {"steps"}
    found += [key for key in sorted(keys) if ours_job.get(key) != theirs_job.get(key)]
    steps = [
        [{**step, "run": ""} if step.get("name") == "install" else step for step in job["steps"]]
        for job in (ours_job, theirs_job)
    ]
    found += ["the steps"] * (steps[0] != steps[1])
    found += ["no step `install`"] * (not any(step.get("name") == "install" for step in steps[1]))
    return found


def test_what_forks_paste_is_what_runs_here() -> None:
    ours, theirs = read(GITHUB / "workflows" / "parity.yml"), snippet_for_forks()
    assert differences_of_parity(ours, theirs) == []
    assert theirs["name"] and theirs["on"] == ["push", "pull_request"]
    (install,) = (step for step in theirs["jobs"]["parity"]["steps"] if step.get("name") == "install")
    assert "pip install sglang-nemotron" in install["run"]
    # a step that drifts, a permission that grows and a job that waits longer are seen
    drifted = snippet_for_forks()
    drifted["jobs"]["parity"]["steps"][3]["run"] += "true\n"
    assert differences_of_parity(ours, drifted) == ["the steps"]
    drifted = snippet_for_forks()
    drifted["permissions"] = {"contents": "write"}
    drifted["jobs"]["parity"]["timeout-minutes"] = 61
    assert differences_of_parity(ours, drifted) == ["permissions", "timeout-minutes"]


@pytest.mark.server
@pytest.mark.matrix
def test_the_step_of_forks_does_what_docs_say(tmp_path: Path) -> None:
    (step,) = (step for step in snippet_for_forks()["jobs"]["parity"]["steps"] if step.get("name") == "parity")
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    # as GitHub runs a step
    done = children.run(["bash", "-eo", "pipefail", "-c", step["run"]], env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("PASS")
    assert json.loads((tmp_path / "parity.json").read_text())["passed"] is True


@pytest.mark.matrix
def test_contract_is_checked_with_the_installed_sglang() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG")}
    command = ["sh", str(ROOT / ".ci" / "contract"), sys.executable]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=NET_S)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert re.match(rf"SGLang {VERSION}\S* in the tested window\n", run.stdout)
    assert run.stdout.rstrip().endswith("a server of Nemotron 3 Nano starts here")
    broken = subprocess.run(
        command, env={**env, "SGLANG_NEMOTRON_DISABLE": "1"}, capture_output=True, text=True, timeout=NET_S
    )
    assert broken.returncode == 1


def test_wrong_workflows_are_seen(tmp_path: Path) -> None:
    assert not is_there("make nonsense") and not is_there("sh .ci/nothing") and not is_there("pip install .")
    assert not is_there("sglang-nemotron nonsense") and not is_there("sglang-nemotron")
    assert is_there("make lint test") and is_there("sglang-nemotron parity toy")
    setup = {"uses": "a", "with": {"python-version": "${{ matrix.python-version }}"}}
    job = {
        "strategy": {"matrix": {"python-version": ["3.9"]}},
        "steps": [{"run": "make lint\ncurl x"}, setup],
    }
    flow = tmp_path / "flow.yml"
    flow.write_text(yaml.safe_dump({"on": {"push": None}, "jobs": {"one": job}}))
    assert commands(flow) == ["make lint", "curl x"] and pythons(flow) == {"3.9"}


# ---- templates


@pytest.mark.parametrize("path", [path for path in FORMS if path.name != "config.yml"], ids=lambda path: path.name)
def test_issue_forms_are_well_formed(path: Path) -> None:
    form = read(path)
    assert form["name"] and form["description"] and set(form) == {"name", "description", "body"}
    fields = form["body"]
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in fields)
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_a_bug_asks_for_all_that_the_doctor_says() -> None:
    fields = {field["id"]: field for field in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert set(fields) >= {"happened", "again", "checkpoint", "doctor", "log"}
    asked = fields["doctor"]
    assert asked["validations"]["required"] and "sglang-nemotron doctor" in asked["attributes"]["label"]
    # switched off, it says the same without looking at every door
    env = {**os.environ, "SGLANG_NEMOTRON_DISABLE": "1"}
    command = [sys.executable, "-m", "sglang_nemotron", "doctor", "--json"]
    report = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, timeout=NET_S).stdout)
    text = asked["attributes"]["description"]
    assert len(report["versions"]) >= 7
    assert [name for name in report["versions"] if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)] == []
    assert {"door", "reason", "remedy"} <= set(report["refused"][0])
    assert all(word in text for word in ("device", "doors", "refused", "reason", "remedy"))


def test_the_pull_request_template_has_the_house_rules() -> None:
    text = (GITHUB / "pull_request_template.md").read_text()
    boxes = re.findall(r"^- \[ \] (.+)$", text, re.M)
    assert all(any(word in box for box in boxes) for word in ("make lint", "make test", "upstream.md", "CHANGELOG.md"))
    assert all((ROOT / name).is_file() for name in ("docs/upstream.md", "CHANGELOG.md", "CONTRIBUTING.md"))


# ---- types


def test_types_are_for_users_too() -> None:
    assert importlib.resources.files(sglang_nemotron).joinpath("py.typed").is_file()
    assert "Typing :: Typed" in CLASSIFIERS
    # hatchling takes every file of a package that git does not ignore and no pattern leaves out
    assert PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["src/sglang_nemotron"]}
    assert set(PYPROJECT["tool"]["hatch"]["build"]["targets"]) == {"wheel", "sdist"}
    ignored = ["git", "check-ignore", "--no-index", "src/sglang_nemotron/py.typed"]
    assert subprocess.run(ignored, cwd=ROOT, capture_output=True, timeout=NET_S).returncode == 1


def test_the_index_page_is_filled() -> None:
    project = PYPROJECT["project"]
    assert project["authors"] and all(author["name"] for author in project["authors"])
    assert project["urls"] and all(url.startswith("https://") for url in project["urls"].values())
    wanted = (
        "Development Status",
        "Environment",
        "Intended Audience",
        "Operating System",
        "Programming Language",
        "Topic",
    )
    assert [kind for kind in wanted if not any(line.startswith(f"{kind} :: ") for line in CLASSIFIERS)] == []
    # the licence is said once, as an expression; the index refuses a classifier beside it
    assert project["license"] == "Apache-2.0" and not any(line.startswith("License") for line in CLASSIFIERS)
    assert sorted(CLASSIFIERS) == CLASSIFIERS
    # one place has the version, and the sdist what its wheel is built from
    assert project["dynamic"] == ["version"] and PYPROJECT["tool"]["hatch"]["version"]["path"].endswith("__init__.py")
    assert {"/src", "/*.md", "/LICENSE"} <= set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])


def test_what_we_import_is_declared() -> None:
    """What the package imports by itself comes with it, or with SGLang, whose own choice it is."""
    source = "".join(file.read_text() for file in (ROOT / "src" / "sglang_nemotron" / "cli").rglob("*.py"))
    assert "from rich" in source and any(word.startswith("rich") for word in PYPROJECT["project"]["dependencies"])
    for lock in (ROOT / "requirements").glob("lock-*.txt"):
        assert re.search(r"^rich==", lock.read_text(), re.M)


# ---- changelog, versions and tags


def faults_of_changelog(text: str, version: str) -> list[str]:
    """What is wrong with a changelog of a package of this version."""
    faults = []
    headings = re.findall(r"^## (.+)$", text, re.M)
    form = re.compile(rf"Unreleased|\[Unreleased\]|\[?({VERSION})\]? - \d{{4}}-\d{{2}}-\d{{2}}")
    faults += [f"no heading of a version: {heading}" for heading in headings if not form.fullmatch(heading)]
    kinds = re.findall(r"^### (.+)$", text, re.M)
    faults += [f"no kind of change: {kind}" for kind in kinds if kind not in KINDS]
    sections = re.split(r"^## .+$", text, flags=re.M)[1:]
    for heading, section in zip(headings, sections, strict=True):
        faults += [f"{heading} lists nothing"] * (not re.search(r"^- ", section, re.M))
    released = [match[1] for heading in headings if (match := form.fullmatch(heading)) and match[1]]
    numbers = [tuple(map(int, number.split("."))) for number in released]
    faults += ["versions do not fall"] * (numbers != sorted(set(numbers), reverse=True))
    dates = re.findall(r"\d{4}-\d{2}-\d{2}$", "\n".join(headings), re.M)
    faults += ["dates rise"] * (dates != sorted(dates, reverse=True))
    if headings and "Unreleased" in headings[0]:
        current = tuple(map(int, version.split(".")))
        faults += [f"{number} is above {version}" for number in released[:1] if numbers[0] > current]
    elif released[:1] != [version]:
        faults.append(f"the topmost section is neither Unreleased nor {version}")
    defined = set(re.findall(r"^\[([^\]]+)\]: https://\S+$", text, re.M))
    faults += [f"no link for [{name}]" for name in re.findall(r"^## \[([^\]]+)\]", text, re.M) if name not in defined]
    links = re.findall(r"\]\(([^)]*)\)", text)
    faults += [f"no address: {link}" for link in links if not (link.startswith("https://") or (ROOT / link).is_file())]
    return faults


def test_the_changelog_is_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert faults_of_changelog(text, sglang_nemotron.__version__) == []


def test_what_the_changelog_names_is_there() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    source = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    variables = set(re.findall(r"SGLANG_NEMOTRON_[A-Z_]+", text))
    assert variables and [name for name in variables if name not in source] == []
    flags = {flag.removeprefix("--").replace("-", "_") for flag in re.findall(r"`(--[a-z-]+)", text)}
    assert flags and [flag for flag in flags if flag not in source] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("## Unreleased\n- x\n## 9.9.9\n- x\n", "no heading of a version: 9.9.9"),
        ("## Unreleased\n### Improved\n- x\n", "no kind of change: Improved"),
        ("## Unreleased\n### Added\n", "Unreleased lists nothing"),
        ("## 0.0.9 - 2026-01-01\n- x\n", "the topmost section is neither Unreleased nor 0.1.0"),
        ("## Unreleased\n- x\n## 0.2.0 - 2026-01-01\n- x\n", "0.2.0 is above 0.1.0"),
        ("## 0.1.0 - 2026-01-01\n- x\n## 0.2.0 - 2025-01-01\n- x\n", "versions do not fall"),
        ("## 0.1.0 - 2026-01-01\n- x\n## 0.0.2 - 2026-02-01\n- x\n", "dates rise"),
        ("## [Unreleased]\n- x\n", "no link for [Unreleased]"),
        ("## Unreleased\n- [x](nowhere.md)\n", "no address: nowhere.md"),
    ],
)
def test_wrong_changelogs_are_seen(text: str, fault: str) -> None:
    assert faults_of_changelog(text, "0.1.0") == [fault]


def test_right_changelogs_pass() -> None:
    released = (
        "## [0.1.0] - 2026-02-01\n### Fixed\n- x\n## 0.0.2 - 2026-01-01\n- x\n[0.1.0]: https://example.org/0.1.0\n"
    )
    assert faults_of_changelog(released, "0.1.0") == []
    assert faults_of_changelog("## Unreleased\n- y\n" + released, "0.1.0") == []


def test_tags_are_those_of_the_scheme() -> None:
    assert re.fullmatch(VERSION, sglang_nemotron.__version__)
    text = (ROOT / "docs" / "development.md").read_text()
    assert "A tag is `vX.Y.Z`" in text and "`__version__` in `src/sglang_nemotron/__init__.py` is the version" in text
    listed = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True, timeout=NET_S)
    log = (ROOT / "CHANGELOG.md").read_text()
    tags = listed.stdout.split()
    assert [tag for tag in tags if not re.search(rf"^## \[?{re.escape(tag[1:])}\]? - ", log, re.M)] == []


def test_what_may_be_tagged(tmp_path: Path) -> None:
    """`.ci/tag-ready` on a repository of its own: no section, a change, all well, a tag that is there."""

    def git(*words: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, timeout=NET_S)

    def ready() -> tuple[int, str]:
        run = subprocess.run(["sh", ".ci/tag-ready"], cwd=tmp_path, capture_output=True, text=True, timeout=NET_S)
        return run.returncode, run.stdout + run.stderr

    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "tag-ready", tmp_path / ".ci")
    (tmp_path / "src" / "sglang_nemotron").mkdir(parents=True)
    (tmp_path / "src" / "sglang_nemotron" / "__init__.py").write_text('__version__ = "0.3.0"\n')
    log = tmp_path / "CHANGELOG.md"
    log.write_text("# Changelog\n\n## Unreleased\n\n- x\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    assert ready() == (1, "the topmost section of CHANGELOG.md is 'Unreleased', the version is 0.3.0\n")
    log.write_text("# Changelog\n\n## [0.3.0] - 2026-01-01\n\n- x\n")
    assert ready() == (1, "there are changes that no commit has\n")
    git("commit", "-qam", "y")
    assert ready() == (0, "v0.3.0\n")
    git("tag", "v0.3.0")
    assert ready() == (1, "v0.3.0 is a tag already; raise __version__\n")


def test_readme_says_the_tested_window() -> None:
    first, last = SUPPORTED_SGLANG
    window = first if first == last else f"{first} to {last}"
    text = (ROOT / "README.md").read_text()
    assert f"Needs Python 3.11 or 3.12 on Linux and SGLang {window};" in text
    text = (ROOT / "docs" / "numbers.md").read_text()
    assert ("One SGLang release was tested: " + first in text) == (first == last)
    (least,) = (word for word in PYPROJECT["project"]["dependencies"] if word.startswith("sglang"))
    assert least == f"sglang>={first}"
