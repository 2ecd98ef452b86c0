"""The API as pages for people: every operation with real examples, every problem with what is behind it.

Rendered here from the OpenAPI document and the table of errors; nothing is fetched from elsewhere, and nothing runs.
"""

from app.reference.pages import install
from app.reference.problems import CAUSES

__all__ = ["CAUSES", "install"]
