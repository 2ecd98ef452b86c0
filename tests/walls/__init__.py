"""The walls tested one guard at a time, as the database roles an attacker could hold, on a real Postgres.

Every test takes a `Ground`: a fresh tenant in a shared database. `mutate.py` runs the same tests against copies of the
schema that each lack one guard, and tells which guards nobody would miss.
"""
