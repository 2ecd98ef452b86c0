"""A small CRM that stands for a real one: leads and activities, optimistic versions, idempotent changes, receipts.

It is a separate service with its own file, tokens and process; nothing of the root or the colony is imported here.
"""
