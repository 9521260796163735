"""What a client's function returned, in words: for the prompt, and to check what a small model makes of it. Pure."""

from __future__ import annotations

import json
import re

MAX_CHARS = 400
"""Of a result in a prompt or read out."""
MAX_DEPTH = 6
PROSE_WORDS = 7
"""A result of one text this long is a sentence already, and is read out as it is."""
DONE = "It is done."


def in_words(output: str) -> str:
    """A result as one line: JSON as "temperature c: 18, sky: sunny", other text as it is; at most MAX_CHARS."""
    return _clip(" ".join(_words(_parse(output), "", 0).split()))


def prose(output: str) -> str | None:
    """The result if it is a sentence or more of text, else None."""
    value = _parse(output)
    values = [value] if not isinstance(value, dict) else list(value.values())
    if len(values) != 1 or not isinstance(values[0], str) or len(values[0].split()) < PROSE_WORDS:
        return None
    return _sentence(_clip(" ".join(values[0].split())))


def is_told(reply: str, question: str, output: str) -> bool:
    """Whether a reply tells a result: it has one of its values, if there are any, and no number from elsewhere."""
    known = set(_numbers(f"{question} {output}"))
    if not set(_numbers(reply)) <= known or not reply.strip():
        return False
    values = _values(_parse(output), 0)
    said, told = set(_numbers(reply)), reply.casefold()
    return not values or any(set(_numbers(v)) & said if _numbers(v) else v.casefold() in told for v in values)


def read_out(output: str) -> str:
    """The result itself as something to say, for when the model does not tell it."""
    return _sentence(in_words(output)) if _values(_parse(output), 0) else DONE


def _parse(output: str) -> object:
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return output


def _words(value: object, key: str, depth: int) -> str:
    if depth > MAX_DEPTH:
        return ""
    if isinstance(value, dict):
        return ", ".join(filter(None, (_words(item, str(name), depth + 1) for name, item in value.items())))
    if isinstance(value, list):
        return ", ".join(filter(None, (_words(item, key, depth + 1) for item in value)))
    text = (
        {True: "yes", False: "no", None: "nothing"}[value] if value is None or isinstance(value, bool) else str(value)
    )
    return f"{key.replace('_', ' ')}: {text}" if key else text


def _values(value: object, depth: int) -> list[str]:
    """The numbers and texts in a result."""
    if depth > MAX_DEPTH or value is None or isinstance(value, bool):
        return []
    if isinstance(value, dict):
        return [each for item in value.values() for each in _values(item, depth + 1)]
    if isinstance(value, list):
        return [each for item in value for each in _values(item, depth + 1)]
    return [str(value).strip()] if str(value).strip() else []


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _clip(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS].rsplit(" ", 1)[0]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
