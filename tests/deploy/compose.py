"""docker-compose.yml as compose reads it: variables filled in, and the environment of each service."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docker-compose.yml").read_text()
DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text()
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[?-])([^}]*))?\}")


class Unset(Exception):
    """What compose stops with."""


def filled_in(given: dict[str, str]) -> dict[str, Any]:
    """The file with its variables replaced. Raises Unset with the file's own message."""

    def value(found: re.Match[str]) -> str:
        name, operator, rest = found[1], found[2], found[3]
        if given.get(name):
            return given[name]
        if operator == ":?":
            raise Unset(rest)
        return rest or ""

    return dict(yaml.safe_load(VARIABLE.sub(value, TEXT)))


def made_up_secrets() -> dict[str, str]:
    """What deploy/secrets_for_compose.py makes."""
    spec = importlib.util.spec_from_file_location(
        "secrets_for_compose", REPOSITORY / "deploy" / "secrets_for_compose.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.made_up())


def image_environment() -> dict[str, str]:
    """What the image sets for every process (final stage)."""
    final = DOCKERFILE.rpartition("\nFROM ")[2].replace("\\\n", " ")
    return dict(re.findall(r"(\w+)=(\S+)", re.findall(r"^ENV (.*)$", final, re.MULTILINE)[0]))
