"""Labels as callers write them: each can be asked for, and held, as one line that says name:value."""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

UNSEEN = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"  # line breaks and other control characters, as in a pattern
NAME_AND_VALUE = rf"^[^:{UNSEEN}]{{1,100}}:[^{UNSEEN}]{{0,200}}$"
LONGEST = 301
_UNSEEN = re.compile(f"[{UNSEEN}]")


def in_one_line(said: str) -> str:
    if _UNSEEN.search(said):
        raise ValueError("a label is one line, without line breaks and control characters: leave them out")
    return said


def without_colon(name: str) -> str:
    if ":" in name:
        raise ValueError("a label's name has no colon: labels are asked for, and held, as name:value")
    return in_one_line(name)


LabelName = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(without_colon)]
LabelValue = Annotated[str, StringConstraints(max_length=200), AfterValidator(in_one_line)]
