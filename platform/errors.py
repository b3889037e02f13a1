"""Errors a person is meant to read: what is wrong, where, and what to do. The command line prints one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConcertError(Exception):
    """A run that failed for a reason it can name. Exit status 1."""

    exit_status = 1


class InputError(ConcertError):
    """Input that cannot be used: a file, a row, a key, a value. Exit status 2."""

    exit_status = 2


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the nearest known word, or an empty string when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
