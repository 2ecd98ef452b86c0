"""What others wrote, shown as what it is: on pages and in the terminal, by one rule."""

import unicodedata

INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")  # controls, formats, private use, surrogates, line and paragraph ends


def visible(text: str) -> str:
    """Control, direction and other invisible characters as their names: evidence is shown as what it is."""
    if text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if hidden(c) else c for c in text)


def hidden(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in INVISIBLE
