"""Words that were heard wrong."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Lower case, without punctuation; hyphens part words, as the transcripts do."""
    return re.sub(r"[^a-z0-9' ]", "", text.lower().replace("-", " ").replace("mr.", "mister")).split()


def word_errors(reference: str, heard: str) -> int:
    """Substitutions, insertions and deletions; two words written as one count as right."""
    wanted, got = words(reference), words(heard)
    if "".join(wanted) == "".join(got):
        return 0
    row = list(range(len(got) + 1))
    for i, word in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]
