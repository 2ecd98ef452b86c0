"""Any life of bytes against a model: kept, shared, held, ended, aged, swept, brought back. After each sweep, exactly what the
model says is there, and never is an object missing that a row names."""

from dataclasses import dataclass, field
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.artifacts.verify import verify
from tests.retention.house import LARGE, House

DAYS = {"public": None, "internal": 1095, "confidential": 365, "restricted": 90}
number = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), number),
        st.tuples(st.just("read"), number, number),
        st.tuples(st.just("end"), number, st.sampled_from([0, 89, 91, 366, 1096])),
        st.tuples(st.just("hold"), number),
        st.tuples(st.just("hold all"), number),
        st.tuples(st.just("lift"), number),
        st.tuples(st.just("use"), number),
        st.tuples(st.just("drop"), number),
        st.tuples(st.just("sweep"), number),
    ),
    min_size=4,
    max_size=25,
)


@dataclass
class Model:
    """What should be: by number, missions with their class, and sources."""

    klass: list[str]
    ended: dict[int, int] = field(default_factory=dict)  # mission: days ago
    read: set[tuple[int, int]] = field(default_factory=set)
    holds: dict[int, list[str]] = field(default_factory=dict)  # mission (-1: all): names
    used: set[int] = field(default_factory=set)  # sources of current documents
    kept: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)  # missions

    def held(self, mission: int) -> bool:
        return bool(self.holds.get(mission) or self.holds.get(-1))

    def sweep(self) -> None:
        for mission, ago in self.ended.items():
            days = DAYS[self.klass[mission]]
            if days is not None and ago >= days and not self.held(mission):
                self.removed.add(mission)
        for source in set(self.kept):
            readers = {mission for mission, one in self.read if one == source}
            needed = any(mission not in self.removed or self.held(mission) for mission in readers)
            if readers and not needed and source not in self.used and not self.holds.get(-1):
                self.kept.discard(source)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_bytes_live_as_the_model_says(house: House, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    model = Model(["restricted", "confidential", "internal", "public"])
    data = [bytes([65 + one]) * (LARGE if one % 2 else 20) + UUID(int=id(steps)).bytes for one in range(4)]
    missions = [await house.mission(klass) for klass in model.klass]
    sources: dict[int, bytes] = {}
    names = 0
    try:
        for what, first, *rest in [*steps, ("sweep", 0)]:
            if what == "keep":
                sources[first] = await house.keep(data[first])
                model.kept.add(first)
            elif what == "read" and rest[0] in model.kept and first not in model.ended:
                await house.read(missions[first], sources[rest[0]])
                model.read.add((first, rest[0]))
            elif what == "end" and first not in model.ended:
                await house.end(missions[first], rest[0])
                model.ended[first] = rest[0]
            elif what in ("hold", "hold all"):
                names += 1
                name, mission = f"h{missions[0]}-{names}", -1 if what == "hold all" else first
                scope = "tenant" if mission == -1 else "mission"
                assert await house.hold(name, scope, None if mission == -1 else missions[first]) == "placed"
                model.holds.setdefault(mission, []).append(name)
            elif what == "lift":
                for mission in (first, -1):
                    while model.holds.get(mission):
                        assert await house.lift(model.holds[mission].pop()) == "lifted"
            elif what == "use" and first in model.kept and first not in model.used:
                await house.document(sources[first], len(data[first]), path=f"{missions[0]}-{first}-{names}")
                names += 1
                model.used.add(first)
            elif what == "drop" and first in model.used:
                await house.ground.run(
                    "api", "UPDATE document SET state = 'removed', retired_at = now() - interval '31 days' "
                    "WHERE source_sha256 = $1 AND state = 'current'", sources[first],
                )  # fmt: skip
                model.used.discard(first)
            elif what == "sweep":
                for one in model.kept:
                    await house.age(sources[one])
                await house.sweep()
                model.sweep()
                assert {n for n, m in enumerate(missions) if not all(await house.said(m))} == model.removed
                assert {n for n, s in sources.items() if await house.state(s) == "kept"} == model.kept
                assert (await verify(house.api, house.objects, house.tenant)).findings == []
    finally:
        for names_of in model.holds.values():
            for name in names_of:
                await house.lift(name)
