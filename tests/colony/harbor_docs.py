"""The documentation of a job runner that does not exist, in three markups: small enough to know what it does not say."""

from memory_workspace import MemoryWorkspace

GUIDE = """# Harbor guide

Harbor runs jobs on a fleet of machines. Every job belongs to a berth.

## Berths

A berth is a named queue with its own concurrency limit. Berths are created with the `harbor berth add` command:

```console
$ harbor berth add nightly --slots 4
```

The number of slots defaults to 2. It can be changed while jobs are running.

## Retrying failed jobs

A job that fails is retried when its definition names a policy. Pass `retry=Retry(times=3)` to the decorator:

```python
@job(retry=Retry(times=3))
def import_orders():
    ...
```

This doubles the pause between two tries. To retry only on certain errors, list them in `Retry(on=[...])`.

> Jobs that were cancelled by a person are never retried.

## Limits

| limit | value |
|---|---|
| longest job name | 80 characters |
| largest payload | 256 KiB |
"""

SETTINGS = """Settings
========

Every setting is read from the environment.

.. setting:: HARBOR_HEARTBEAT

   How often a machine reports that it is alive, in seconds. A machine that is silent for three
   heartbeats is declared lost and its jobs are given to another one.

   Default: ``15``

.. setting:: HARBOR_LOG_FORMAT

   Either ``json`` or ``text``.

   Default: ``json``

Security
--------

The signing key protects the messages between machines, because anybody who can write into the
message bus could otherwise start jobs. Rotate it with :command:`harbor key rotate`.

.. versionadded:: 2.1
   Key rotation without a restart.
"""

MANUAL = """harbor-drain(1)
===============

NAME
----
harbor-drain - Take a machine out of service

OPTIONS
-------
-f::
--force::
\tDo not wait for running jobs. They are interrupted and
\tstarted again elsewhere.

--timeout=<seconds>::
\tWait at most this long for running jobs to finish.
+
The machine is left in service when the time runs out, unless
`--force` is given as well.
"""


def harbor() -> MemoryWorkspace:
    workspace = MemoryWorkspace()
    for name, text in (("guide.md", GUIDE), ("settings.rst", SETTINGS), ("harbor-drain.txt", MANUAL)):
        workspace.add(name, text)
    # Enough other text for word statistics to mean something.
    for number in range(40):
        workspace.add(
            f"notes/{number:02}.md", f"# Note {number}\n\n{NOTES[number % len(NOTES)]} Entry {number} of the log.\n"
        )
    return workspace


NOTES = (
    "The Harbor team met on Tuesday and looked at open tickets for machines.",
    "A job was moved to another machine after the disk was replaced.",
    "Harbor machines in the north were updated and all jobs went on.",
    "The message bus was slow for an hour, no job was lost.",
    "Somebody asked how many machines there are, and we counted them.",
)
