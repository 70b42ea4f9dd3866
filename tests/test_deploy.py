"""Dockerfile, Compose file, Prometheus and Grafana: well formed, and of one mind about files, ports and names.

There is no Docker here, so this is what can be seen without: schemas of what we use, and what one file says of another.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support.hub import TEXT_IDS

ROOT = Path(__file__).parents[1]
DURATION = {"type": "string", "pattern": r"^(\d+[smh])+$"}
TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}

COMPOSE = {
    "type": "object",
    "required": ["services", "volumes"],
    "additionalProperties": False,
    "properties": {
        "volumes": {"type": "object"},
        "services": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["image", "ports"],
                "additionalProperties": False,
                "properties": {
                    "build": {"type": "string"},
                    "profiles": TEXTS,
                    # a tag of its own, unless it is built here
                    "image": {"type": "string", "pattern": r"^(sglang-nemotron|[\w/-]+:v?\d+\.\d+\.\d+)$"},
                    "command": TEXTS,
                    "environment": {"type": "object", "additionalProperties": {"type": "string"}},
                    # of this machine alone: nothing of it asks who calls
                    "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}},
                    "volumes": TEXTS,
                    "shm_size": {"type": "string", "pattern": r"^\d+gb$"},
                    "deploy": {"type": "object"},
                    "depends_on": TEXTS,
                },
            },
        },
    },
}
PROMETHEUS = {
    "type": "object",
    "required": ["scrape_configs"],
    "additionalProperties": False,
    "properties": {
        "global": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"scrape_interval": DURATION, "scrape_timeout": DURATION},
        },
        "scrape_configs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["job_name", "static_configs"],
                "additionalProperties": False,
                "properties": {
                    "job_name": {"type": "string"},
                    "metrics_path": {"type": "string", "pattern": "^/"},
                    "static_configs": {
                        "type": "array",
                        "items": {"type": "object", "required": ["targets"], "properties": {"targets": TEXTS}},
                    },
                },
            },
        },
    },
}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, its words) of a Dockerfile, lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def faults_of_dockerfile(text: str, ignored: str) -> list[str]:
    """What a linter would say, as far as it concerns us, and what would not be there to copy."""
    found = instructions(text)
    faults = [f"no instruction: {name}" for name, _ in found if name not in KNOWN]
    faults += [
        f"no tag: {rest}" for name, rest in found if name == "ARG" and not re.search(r"=\S+:\d+\.\d+\.\d+", rest)
    ]
    for name, rest in found:
        if name in ("CMD", "ENTRYPOINT"):
            faults += [f"{name} goes through a shell"] * (not isinstance(_words(rest), list))
        if name == "RUN" and "apt-get install" in rest:
            kept = [
                part for part in ("--yes", "--no-install-recommends", "rm -rf /var/lib/apt/lists") if part not in rest
            ]
            faults += [f"apt-get without {part}" for part in kept]
        if name == "RUN" and rest.startswith("pip"):
            faults += [f"pip without {part}" for part in ("--no-cache-dir", "--no-deps") if part not in rest]
        if name == "COPY":
            sources = rest.split()[:-1]
            faults += [f"nothing to copy: {source}" for source in sources if not (ROOT / source).exists()]
            faults += [f"{source} is ignored" for source in sources if not _is_sent(source, ignored)]
    users = [rest for name, rest in found if name == "USER"]
    return faults + ["runs as root"] * (not users or users[-1] in ("root", "0"))


KNOWN = ("ARG", "FROM", "RUN", "ENV", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")


def _words(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _is_sent(source: str, ignored: str) -> bool:
    """Whether .dockerignore lets a path into the build; its last line that fits decides."""
    sent = True
    for line in ignored.splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(source, line.removeprefix("!")):
            sent = line.startswith("!")
    return sent


def port_of(service: dict[str, Any]) -> str:
    """The port inside the container."""
    (port,) = service["ports"]
    return port.rpartition(":")[2]


def test_the_dockerfile_is_sound() -> None:
    assert faults_of_dockerfile((ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text()) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ARG X=nvidia/cuda:latest\nUSER serve\n", "no tag: X=nvidia/cuda:latest"),
        ("RUN pip install --no-cache-dir x\nUSER serve\n", "pip without --no-deps"),
        ("COPY nowhere /build/\nUSER serve\n", "nothing to copy: nowhere"),
        ("COPY tests /build/\nUSER serve\n", "tests is ignored"),
        ("CMD sglang serve\nUSER serve\n", "CMD goes through a shell"),
        ("RUN x\n", "runs as root"),
        ("RAN x\nUSER serve\n", "no instruction: RAN"),
    ],
)
def test_unsound_dockerfiles_are_seen(text: str, fault: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text() + "!nowhere\n"
    assert faults_of_dockerfile(text, ignored) == [fault]


def test_the_image_has_the_locked_packages_and_the_published_command() -> None:
    found = instructions((ROOT / "Dockerfile").read_text())
    runs = [rest for name, rest in found if name == "RUN"]
    assert [run.split()[-1] for run in runs if run.startswith("pip ")] == [
        "/build/requirements/lock-py312.txt",
        "/build",
    ]
    # the interpreter that the lock is for, from the image's own distribution
    assert any("python3.12 -m venv" in run for run in runs) and dict(found)["ARG"].endswith("ubuntu24.04")
    command = json.loads(dict(found)["ENTRYPOINT"]) + json.loads(dict(found)["CMD"])
    assert command[:2] == ["sglang", "serve"] and command[command.index("--model-path") + 1] in TEXT_IDS
    assert command[command.index("--port") + 1] == dict(found)["EXPOSE"]
    readme = (ROOT / "README.md").read_text()
    assert [word for word in json.loads(dict(found)["CMD"]) if word not in readme] == []


def test_the_torch_of_the_lock_is_of_the_images_cuda() -> None:
    (cuda,) = re.findall(r"nvidia/cuda:(\d+\.\d+)\.", (ROOT / "Dockerfile").read_text())
    lock = (ROOT / "requirements" / "lock-py312.txt").read_text()
    (runtime,) = re.findall(r"^nvidia-cuda-runtime==(\d+\.\d+)\.", lock, re.M)
    assert cuda == runtime


def test_compose_is_well_formed_and_names_what_is_there() -> None:
    compose = read("compose.yaml")
    jsonschema.validate(compose, COMPOSE)
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", [])) <= set(compose["services"]) - {name}
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert target.startswith("/")
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], volume
    # a server alone by default; what watches it together
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {"server": None, "prometheus": ["watch"], "grafana": ["watch"]}
    server = compose["services"]["server"]
    found = dict(instructions((ROOT / "Dockerfile").read_text()))
    assert server["build"] == "." and port_of(server) == found["EXPOSE"] and "models:/models" in server["volumes"]
    assert found["VOLUME"] == "/models" and "--enable-metrics" in server["command"]
    (model,) = re.findall(r"^--model-path=\$\{MODEL:-(.+)\}$", "\n".join(server["command"]), re.M)
    assert model in TEXT_IDS
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_prometheus_scrapes_the_server() -> None:
    config, services = read("deploy/prometheus.yaml"), read("compose.yaml")["services"]
    jsonschema.validate(config, PROMETHEUS)
    ((target,),) = (entry["targets"] for entry in config["scrape_configs"][0]["static_configs"])
    assert target == f"server:{port_of(services['server'])}"
    (file,) = (volume for volume in services["prometheus"]["volumes"] if volume.startswith("./"))
    assert file.startswith("./deploy/prometheus.yaml:")
    assert f"--config.file={file.split(':')[1]}" in services["prometheus"]["command"]


def test_grafana_is_given_prometheus_and_a_folder() -> None:
    services = read("compose.yaml")["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    provisioning = "deploy/grafana/provisioning"
    assert mounts[f"./{provisioning}"] == "/etc/grafana/provisioning"
    (source,) = read(f"{provisioning}/datasources/prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus" and source["url"] == f"http://prometheus:{port_of(services['prometheus'])}"
    (provider,) = read(f"{provisioning}/dashboards/files.yaml")["providers"]
    assert provider["type"] == "file" and provider["options"]["path"] == mounts["./deploy/grafana/dashboards"]
    for dashboard in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"):
        assert json.loads(dashboard.read_text())["panels"], dashboard


def test_wrong_shapes_are_seen() -> None:
    compose = read("compose.yaml")
    compose["services"]["grafana"]["ports"] = ["3000:3000"]
    with pytest.raises(jsonschema.ValidationError, match="3000:3000"):
        jsonschema.validate(compose, COMPOSE)
    compose = read("compose.yaml")
    compose["services"]["grafana"]["image"] = "grafana/grafana:latest"
    with pytest.raises(jsonschema.ValidationError, match="latest"):
        jsonschema.validate(compose, COMPOSE)
    config = read("deploy/prometheus.yaml")
    config["scrape_configs"][0]["static_config"] = config["scrape_configs"][0].pop("static_configs")
    with pytest.raises(jsonschema.ValidationError, match="static_config"):
        jsonschema.validate(config, PROMETHEUS)


def test_docs_say_the_commands() -> None:
    text = (ROOT / "docs" / "docker.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    assert [shlex.split(line)[:2] for line in lines[:2]] == [["docker", "build"], ["docker", "run"]]
    assert lines[2].endswith("docker compose --profile watch up") and "Not run:" in text
