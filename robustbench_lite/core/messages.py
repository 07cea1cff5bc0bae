"""Messages as one line of bounded length, whatever is named in them."""

from __future__ import annotations

import logging

LONGEST = 300  # characters of a line that a user reads
_LONGEST_WORD = 80
_ELLIPSIS = "..."


def one_line(text: str) -> str:
    """The text in one line, with `?` for what a terminal would not show as it is.

    Args:
        text: anything, such as an exception's own words.
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def shortened(text: str, most: int = LONGEST) -> str:
    """A text in one line of at most `most` characters.

    Long words, such as paths and values, lose their middle first: the end of a path is the name of
    the file. Then the text loses its middle: it begins with what is wrong, and ends with what to
    do.

    Args:
        text: to be shown; one that is short enough stays as it is, apart from `one_line`.
        most: characters, at least 20.
    """
    line = one_line(text)
    if len(line) <= most:
        return line
    word = min(_LONGEST_WORD, most // 2)
    line = " ".join(_without_middle(each, word, start=word // 4) for each in line.split(" "))
    return _without_middle(line, most, start=most * 3 // 5)


def _without_middle(text: str, most: int, *, start: int) -> str:
    """At most `most` characters of a text, of which `start` are its first."""
    if len(text) <= most:
        return text
    return text[:start] + _ELLIPSIS + text[len(text) - (most - start - len(_ELLIPSIS)) :]


def described(error: BaseException, most: int = 160) -> str:
    """Type and words of an exception that anybody's code may have raised, in one short line."""
    try:
        text = str(error)
    except (Exception, SystemExit, GeneratorExit):  # the user's may fail even at this
        text = ""
    return shortened(": ".join(filter(None, (type(error).__name__, one_line(text)))), most)


class OneLine(logging.Formatter):
    """Log messages as lines of bounded length; a traceback that was asked for stays whole."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shortened(super().formatMessage(record))
