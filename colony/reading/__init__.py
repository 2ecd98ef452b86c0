"""How the colony reads without a model: words, questions, units of text, ranking, choosing. Pure functions only."""
