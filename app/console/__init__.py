"""The operator's console under /console, and what it adds to the API.

Every page is made of answers of the API, asked from within (app/console/inside.py); every form ends in one of its verbs. So
the console can do nothing that a program with the same session could not, and shows nothing that the API would not say.
"""

from app.console.api import router
from app.console.site import Site

__all__ = ["Site", "router"]
