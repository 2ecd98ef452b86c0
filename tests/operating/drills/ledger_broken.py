"""The database's superuser edits a fact, and puts it back in the end, as a restore would."""

from tests.operating.scene import Scene


def drill(scene: Scene) -> None:
    mission = scene.ask()
    scene.becomes(mission, "completed")
    where = "subject = $1::uuid AND seq = 1"
    [(before,)] = scene.sql(f"SELECT body FROM ledger WHERE {where}", mission)
    rewrite(
        scene, f"UPDATE ledger SET body = $2 WHERE {where}", mission, before.replace(b"accepted", b"ACCEPTED") + b" "
    )
    try:
        seen = scene.see()
        assert mission in seen, seen
        scene.fires("LedgerBroken")
        scene.do("ledger export", person="auditor")
        scene.do("cp -a .data/anchors")
        assert "mission." in scene.do("FROM ledger")
    finally:
        rewrite(scene, f"UPDATE ledger SET body = $2 WHERE {where}", mission, before)
    scene.over("ledger verify")


def rewrite(scene: Scene, statement: str, *values: object) -> None:
    scene.sql("ALTER TABLE ledger DISABLE TRIGGER ledger_keep")
    scene.sql(statement, *values)
    scene.sql("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_keep")
