"""The seven stages of a mission that is answered from documents."""

from colony.stages import aggregator, librarian, planner, prompt_master, researcher, reviewer, workers

LINE = {
    "planner": planner.run,
    "prompt_master": prompt_master.run,
    "librarian": librarian.run,
    "researcher": researcher.run,
    "workers": workers.run,
    "aggregator": aggregator.run,
    "reviewer": reviewer.run,
}
