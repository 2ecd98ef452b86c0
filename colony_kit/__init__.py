"""The conformance kits: one plays the root against any colony, the other a colony against any root.

`report` runs numbered requirements and says what became of each; `evidence`, `line` and `door` are what both kits stand
on. `of_colony` asks a colony, with the root that `played_root` plays; `of_root` asks a root, with the colony that
`played_colony` plays. Nothing here knows an implementation: only the contract in `colony_client`.
"""
