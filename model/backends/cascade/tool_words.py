"""What the user's words say about a tool and its arguments, without a model: English words, their stems, numbers. Pure.

A model of 135 M parameters invents arguments. Given a grammar in which a text is a run of the user's own words and a
number one of theirs, it gets 82 % of the calls of our test set right instead of 55 % (docs/experiments.md).
"""

from __future__ import annotations

import re

from model.interface import ToolSpec

from .tool_schema import InvalidSchemaError, Schema, properties_of, read_schema, required_of, variant_of

MAX_WORDS = 60  # of what the user said last, for runs of words
MAX_RUN_WORDS = 12


def _listed(words: str) -> list[str]:
    return words.split()


_COMMON = frozenset(
    _listed(
        """a an the of for in on at to into with by and or nor but is are was were be been am do does did done can could
        will would should shall may might must i you he she it we they me him us them my mine your yours his her hers
        its our their this that these those what which who whom whose where when how why please some any from as about
        there here have has had not no so if then than also very just more most much many other another one all out up
        down off over get give make let current name number user given information value like want need re ll ve don
        doesn isn"""
    )
)
_NOT_AT_AN_EDGE = frozenset(
    _listed("in on at for of to with by from into and or but is are was were be do does that as like about please")
)
_NOT_LAST = frozenset(_listed("the a an my i you")) | _NOT_AT_AN_EDGE
_ENDINGS = ("ations", "ation", "ings", "ing", "ers", "er", "ed", "es", "s", "e")
_MARKS = '.,;:!?"()'
_UNITS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")
_NUMBERS = {word: number for number, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}


def stems(text: str) -> set[str]:
    """The words of a text or an identifier that mean something, without their endings."""
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).replace("_", " ").lower()
    return {_stem(word) for word in re.findall(r"[a-z]+|[0-9]+", text) if word not in _COMMON and len(word) > 1}


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            is_doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls"
            return word[:-1] if is_doubled else word
    return word


def evidence(said: str, tool: ToolSpec) -> int:
    """How much of a tool's own words were used: 3 for each of its name, 2 of its description, 1 of its parameters."""
    name, description = stems(tool.name), stems(tool.description)
    parameters: set[str] = set()
    try:
        schema = read_schema(tool.parameters)
    except InvalidSchemaError:
        schema = {"properties": {}}  # whoever calls it is told
    for key, value in properties_of(schema).items():
        values = value.get("enum")
        parameters |= stems(f"{key} {value.get('description', '')}")
        parameters |= stems(" ".join(map(str, values))) if isinstance(values, list) else set()
    used = stems(said)
    return sum(
        3 if word in name else 2 if word in description else 1 for word in used & (name | description | parameters)
    )


def numbers(said: str) -> list[int | float]:
    """The numbers in a sentence, in digits or in English words up to 99."""
    found: list[int | float] = []
    words = re.findall(r"[0-9]+(?:\.[0-9]+)?|[a-z]+", said.lower())
    for index, word in enumerate(words):
        if word[0].isdigit():
            found.append(float(word) if "." in word else int(word))
        elif word in _NUMBERS:
            found.append(_NUMBERS[word])
            unit = _NUMBERS.get(words[index + 1], 0) if word in _TENS and index + 1 < len(words) else 0
            if 0 < unit < 10:
                found.append(_NUMBERS[word] + unit)
    return list(dict.fromkeys(found))


def runs_of_words(said: str, tool: ToolSpec) -> list[str]:
    """What in a sentence may be the value of a text: runs of words inside a clause that neither begin nor end with a
    word like "of", do not begin the sentence (which is what to do), and are not just the tool's own words."""
    own = stems(tool.name) | stems(tool.description)
    words = said.split()[-MAX_WORDS:]
    runs: list[str] = []
    fallback: list[str] = []
    for start in range(len(words)):
        for end in range(start + 1, min(len(words), start + MAX_RUN_WORDS) + 1):
            run = " ".join(words[start:end]).strip(_MARKS)
            if not run:
                continue
            fallback.append(run)
            first, last = (words[index].lower().strip(_MARKS) for index in (start, end - 1))
            is_likely = start > 0 and first not in _NOT_AT_AN_EDGE and last not in _NOT_LAST and bool(stems(run) - own)
            if is_likely:
                runs.append(run)
            if words[end - 1][-1] in ".?!;:":
                break
    return list(dict.fromkeys(runs or fallback))


def narrow(schema: Schema, tool: ToolSpec, said: str) -> Schema:
    """The schema of the arguments, narrowed to what the user said: texts are runs of their words, numbers and choices
    those that they named, if any. What may be left out is, unless they spoke of it."""
    properties, required = properties_of(schema), required_of(schema)
    wanted = required or list(properties)
    mentioned, spoken = stems(said), _plain(said)
    amounts = numbers(said)
    spare_amounts = len(amounts) - sum(_is_amount(variant_of(properties[name])) for name in wanted)
    kept: dict[str, Schema] = {}
    for name, given in properties.items():
        kind = variant_of(given)
        values = kind.get("enum")
        if isinstance(values, list):
            named = [value for value in values if _plain(str(value)) in spoken]
            narrowed, is_spoken_of = kind | {"enum": named or values}, bool(named)
        elif _is_amount(kind):
            fitting = [amount for amount in amounts if _is_inside(amount, kind)]
            narrowed, is_spoken_of = {"enum": fitting} if fitting else kind, spare_amounts > 0 and bool(fitting)
        elif kind.get("type") == "string":
            runs = [run for run in runs_of_words(said, tool) if _is_long_enough(run, kind)]
            narrowed, is_spoken_of = {"enum": runs} if runs else kind, bool(stems(name) & mentioned)
        else:
            narrowed, is_spoken_of = kind, bool(stems(name) & mentioned)
        if name in wanted or is_spoken_of:
            kept[name] = narrowed
    return schema | {"properties": kept, "required": list(kept)}


def _plain(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


def _is_amount(schema: Schema) -> bool:
    return schema.get("type") in ("integer", "number")


def _is_long_enough(text: str, schema: Schema) -> bool:
    limits = {key: value for key, value in schema.items() if isinstance(value, int)}
    return limits.get("minLength", 0) <= len(text) <= limits.get("maxLength", len(text))


def _is_inside(amount: float, schema: Schema) -> bool:
    if schema["type"] == "integer" and amount != int(amount):
        return False
    limits = {key: value for key, value in schema.items() if isinstance(value, int | float)}
    return limits.get("minimum", amount) <= amount <= limits.get("maximum", amount) and limits.get(
        "exclusiveMinimum", amount - 1
    ) < amount < limits.get("exclusiveMaximum", amount + 1)
