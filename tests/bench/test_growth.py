"""What was loaded for a benchmark is only measured as what it is."""

import json
from pathlib import Path

import pytest

from bench.growth import Grown


def test_a_folder_of_another_size_is_refused(tmp_path: Path) -> None:
    kept = {"missions": 1000, "pending": 60, "samples": {"rare": "x"}}
    (tmp_path / "grown.json").write_text(json.dumps(kept))
    assert Grown(tmp_path, 1000, "http://127.0.0.1:9").kept == kept
    for missions, pending in ((2000, 60), (1000, 500)):
        with pytest.raises(SystemExit, match=r"holds {'missions': 1000, 'pending': 60}, and .* name another folder"):
            Grown(tmp_path, missions, "http://127.0.0.1:9", pending)
    (tmp_path / "grown.json").write_text(json.dumps(kept["samples"]))
    with pytest.raises(SystemExit):
        Grown(tmp_path, 1000, "http://127.0.0.1:9")
    assert Grown(tmp_path / "new", 1000, "http://127.0.0.1:9").kept is None
