"""Real answers made into examples for the pages about the API: short, and without anybody's secret."""

import json
import re
from pathlib import Path
from typing import Any

import httpx

LONG, MANY = 160, 2
HIDDEN = {"secret": "mr_…", "public_key": "…"}
# what is another each time: ids, times, places in the ledger, ports, hashes, keys, signatures
VARIES = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]*(Z|\+00:00)?|\b\d+-\d+(?=\"|$)|(?<=127\.0\.0\.1:)\d+|\b[0-9a-f]{16,}|mr_[0-9a-f]{8}"
    r"|[A-Za-z0-9+/_-]{40,}=*"
)
MEASURED = ("took_ms", "calls_ms", "oldest_due_s", "oldest_waiting_s", "time_ms.used")  # how long something took


def note(examples: dict[str, Any], operation: str, answer: httpx.Response) -> None:
    """Keeps the first good answer of each operation, with what was asked."""
    if operation in examples or not answer.is_success:
        return
    kind = answer.headers.get("content-type", "").partition(";")[0]
    url = httpx.URL(str(answer.request.url))
    found: dict[str, Any] = {"path": url.raw_path.decode()}
    content = answer.request.content
    if content and "json" in answer.request.headers.get("content-type", ""):
        found["request"] = shortened(json.loads(content))
    body = shortened(answer.json()) if kind == "application/json" else lines(answer.text)
    examples[operation] = found | {"status": answer.status_code, "body": body}


def shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN.get(name, shortened(one)) if one is not None else None for name, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in value[:MANY]]
    if isinstance(value, str) and len(value) > LONG:
        return value[: LONG - 1] + "…"
    return value


def lines(text: str) -> str:
    return "\n".join(line[:LONG] for line in text.splitlines()[:4])


def write(examples: dict[str, Any], file: Path) -> None:
    """Of an operation whose answer differs in nothing but what is another each time, the old example stays."""
    old = json.loads(file.read_text()) if file.exists() else {}
    kept = {name: old[name] if same(old.get(name), one) else one for name, one in sorted(examples.items())}
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def same(old: Any, new: Any) -> bool:
    return alike(old) == alike(new)


def alike(value: Any, name: str = "") -> Any:
    """An example without what is another each time. Every other number, a status or a limit, is what the answer says."""
    if isinstance(value, dict):
        return {VARIES.sub("~", of): alike(one, f"{name}.{of}") for of, one in value.items()}
    if isinstance(value, list):
        return [alike(one, name) for one in value]
    if isinstance(value, str):
        return VARIES.sub("~", value)
    return "~" if name.endswith(tuple(f".{one}" for one in MEASURED)) and value is not None else value
