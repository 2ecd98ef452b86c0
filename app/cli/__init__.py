"""The command `mission-root`: one machine's instance, the single processes, and a client for everything people do.

`main` imports a command's module when that command is asked for. Modules here import only light things at their top; what
a command needs beyond that, `rich` too, it imports when it runs.
"""
