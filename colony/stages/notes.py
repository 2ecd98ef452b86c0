"""What the stages of a document mission hand on to each other besides their artifacts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from colony.reading.choosing import Excerpt
from colony.reading.evidence import Window
from colony.reading.question import Question
from colony.reading.ranking import Found, Rarity
from colony_client.artifacts import AggregationPacket, ArtifactBase, Claim, Task, WritebackProposal


@dataclass(frozen=True)
class Produced:
    """What a stage leaves: artifacts in order, and proposals (CRM missions only)."""

    artifacts: Sequence[ArtifactBase] = ()
    proposals: Sequence[WritebackProposal] = ()


@dataclass(frozen=True)
class Formulation:
    """How one task is looked for: whole queries, and one search for each term alone (key, words)."""

    question: Question
    queries: tuple[str, ...]
    probes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gathered:
    """What the searches for one task brought."""

    by_query: Mapping[str, Sequence[Found]]
    by_term: Mapping[str, Sequence[Found]]


@dataclass(frozen=True)
class Studied:
    """The stretches of text worth reading for one task, best first, and how rare its terms are."""

    rare: Rarity
    windows: Sequence[Window]


@dataclass(frozen=True)
class Outcome:
    """What a worker made of one task; without claims `not_found` says what is missing."""

    claims: Sequence[Claim]
    not_found: Sequence[str] = ()
    excerpts: Sequence[Excerpt] = ()


@dataclass
class Notes:
    tasks: Sequence[Task] = ()
    formulations: dict[str, Formulation] = field(default_factory=dict)
    gathered: dict[str, Gathered] = field(default_factory=dict)
    passages: int = 0  # about how many there are in the workspace
    studied: dict[str, Studied] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    packet: AggregationPacket | None = None
