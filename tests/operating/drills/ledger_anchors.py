"""The store of anchors is not where it was."""

from tests.operating.scene import Scene
from tests.walks.conftest import until

LOOK_NOW = "UPDATE work SET next_at = now(), lease_until = NULL WHERE kind = 'anchor'"  # or within a minute, by itself


def drill(scene: Scene) -> None:
    anchors = scene.instance.data_dir / "anchors"
    kept = anchors.with_name("anchors.moved")
    anchors.rename(kept)
    anchors.write_text("not a folder")
    try:
        scene.becomes(scene.ask(), "completed")
        scene.sql(LOOK_NOW)
        scene.fires("LedgerNotAnchored", threshold=1)
        scene.sees(lambda seen: "mission_root_ledger_unanchored_seconds" in seen and "work failed" in seen)
    finally:
        anchors.unlink()
        kept.rename(anchors)
    scene.sql(LOOK_NOW)
    scene.rests("LedgerNotAnchored", threshold=1)
    until(lambda: "anchor" in scene.over("ledger verify"), "it verifies")
