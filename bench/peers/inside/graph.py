"""What LangGraph and Aegra serve: a graph of three nodes that do nothing."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    body: dict
    number: int


async def step(state: State) -> dict:
    return {"number": state["number"] + 1}


drawn = StateGraph(State)
NODES = ("dispatched", "result", "completed")
for one in NODES:
    drawn.add_node(one, step)
for before, after in zip((START, *NODES), (*NODES, END), strict=True):
    drawn.add_edge(before, after)
mission = drawn.compile()
