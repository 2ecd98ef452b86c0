"""${message}"""

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
oldest = None  # the oldest head whose code runs on this schema: the one before says it, unless this one takes something away


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
