"""Missions once more."""
