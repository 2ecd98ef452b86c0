-- The rows of limit.sql for 32 missions in one statement and one transaction: what batching alone is worth.
\set t random(1, 50)
WITH made AS (
  INSERT INTO mission (id, tenant, body) SELECT gen_random_uuid(), :t,
    '{"mission_type": "oracle_advisory", "user_goal": "What has to be true before a writeback is executed, and who may decide it?", "inputs": {"workspace": "default"}, "mode": "assisted", "origin_surface": "bench", "risk_level": "low", "sensitivity_class": "internal", "budget": {"time_ms": 600000, "tokens": 200000}, "labels": {"project": "4711", "surface": "bench"}, "tools": ["workspace.search", "workspace.read", "workspace.outline"]}'
    FROM generate_series(1, 32)
  RETURNING id),
told AS (INSERT INTO fact (mission, seq, type, body) SELECT id, 1, 'mission.accepted', '{"from": null, "to": "accepted"}' FROM made),
seen AS (INSERT INTO audit (mission, actor, action, detail) SELECT id, 'principal', 'missions.create', '{"ip": "127.0.0.1"}' FROM made)
INSERT INTO work (mission, kind) SELECT id, 'dispatch' FROM made;
