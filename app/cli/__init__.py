"""The command `mission-root`: one machine's instance, the single processes, and a client for everything people do.

Modules here import only light things at their top, so that `--help` answers at once; what a command needs beyond
that it imports when it runs.
"""
