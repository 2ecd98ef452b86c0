"""The image: locked versions, everything the code needs and nothing to build with, nobody's rights."""

import re
import tomllib

from tests.deploy.compose import DOCKERFILE, REPOSITORY

STAGES = re.split(r"^FROM ", DOCKERFILE.replace("\\\n", " "), flags=re.MULTILINE)[1:]
FINAL = STAGES[-1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_dependencies_come_in_the_locked_versions_with_the_makefiles_uv() -> None:
    installs = re.findall(r"uv pip install [^&\n]*", STAGES[0])
    assert len(installs) == 2
    assert "--constraint requirements.lock" in installs[0] and "--build-constraint requirements.lock" in installs[1]
    version = re.search(r"^UV_VERSION := (\S+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert version and f"uv=={version[1]}" in STAGES[0]


def test_every_locked_package_has_hashes_and_no_address() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", lock)[1:]
    assert len(blocks) > 50
    assert all("--hash=sha256:" in block for block in blocks)
    assert "http" not in re.sub(r"^[a-z0-9-]+.*|# via.*|#   .*", "", lock, flags=re.MULTILINE)


def test_it_copies_the_packages_of_the_wheel_and_the_context_holds_nothing_else() -> None:
    copied = set(re.findall(r"^COPY (\S+) \S+$", STAGES[0], re.MULTILINE))
    files = set(re.findall(r"^COPY (.+) \./$", STAGES[0], re.MULTILINE)[0].split())
    assert copied == set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignore[1] == "*" and {line[1:] for line in ignore if line.startswith("!")} == copied | files


def test_the_final_stage_holds_nothing_to_build_with_and_runs_as_nobody() -> None:
    assert not re.search(r"apt-get|gcc|build-essential|pip install|uv ", FINAL)
    assert re.findall(r"^COPY (.*)$", FINAL, re.MULTILINE) == ["--from=build /opt/mission-root /opt/mission-root"]
    [user] = re.findall(r"^USER (\d+):(\d+)$", FINAL, re.MULTILINE)
    assert int(user[0]) > 1000 and f"--uid {user[0]}" in FINAL
    assert re.search(r"^HEALTHCHECK .*CMD \[\"python\", \"-c\", ", FINAL, re.MULTILINE)
