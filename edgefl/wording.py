"""Pieces of sentences that several messages share: the near name, a span of time.

Pure; texts are for people, in the plain English of docs and errors.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_LISTED = 10
"""So many known names are listed after a wrong one: more do not help, and an error is one line."""

_SPANS = ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"))


def near_name(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'walk'?" for a name that nearly is one of ``known``, else ''."""
    near = suggestion(name, known)
    return near and f"; {near}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'walk'?" for a name that nearly is one of ``known``, else ''."""
    import difflib  # for an error alone: the agent reads its configuration, and finds its codecs, with this module

    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def name_hint(name: str, known: Iterable[str]) -> str:
    """What follows an unknown ``name`` in an error: "; did you mean 'walk'?", else which names there are."""
    names = sorted(set(known))
    if near := near_name(name, names):
        return near
    if not names:
        return "; there is none yet"
    more = f" and {len(names) - MAX_LISTED} others" if len(names) > MAX_LISTED else ""
    return f"; expected one of {', '.join(names[:MAX_LISTED])}{more}"


def span(seconds: float) -> str:
    """A span of time in its largest fitting unit: "40 s", "3 min", "5 h", "2 days"."""
    for size, unit in _SPANS:
        if seconds >= 2 * size or (seconds >= size and unit != "days"):
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
