"""Text from outside without anything that steers a terminal, reorders a line or starts a formula.

Names of networks, flags, attacks and files come from stored files that others wrote.
"""

from __future__ import annotations

import unicodedata

JOINERS = "\u200c\u200d"  # format characters that scripts and emoji need
REPLACEMENT = "\ufffd"
FORMULA_STARTS = "=+-@＝＋－＠"  # spreadsheets take the wide ones for the others


def plain(text: str) -> str:
    """Text from outside without anything invisible: one line, no control or bidi characters.

    Each control, format (apart from the joiners), surrogate, private-use and line-separator
    character becomes U+FFFD, so that a name can neither steer a terminal nor reorder a line.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(REPLACEMENT if _hidden(character) else character for character in text)


def _hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return (category[0] == "C" and character not in JOINERS) or category in ("Zl", "Zp")


def csv_cell(value: object) -> object:
    """A value for a CSV file that people open with a spreadsheet.

    Text is made `plain`, and text that a spreadsheet would take for a formula gets an apostrophe
    before it. Numbers stay numbers.
    """
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text[:1] and text[:1] in FORMULA_STARTS else text
