"""Calling a tool: whether and which, with what arguments, and telling what it returned.

The embedded model cannot name the right function (a quarter to a half right, whatever the prompt). It can tell how
likely a sentence is for somebody who wants something done, so it is asked backwards: the tool whose description makes
the user's words likelier than small talk does, by a margin, is called (docs/experiments.md). A larger model decides
itself: it writes one of the names, or that it answers. Arguments are written under a grammar made of the tool's schema.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from model.interface import (
    ConversationItem,
    EngineFault,
    GenerateRequest,
    HistoryItem,
    ToolCallItem,
    ToolResultItem,
    ToolSpec,
)

from .llm import Completion, LanguageModel, Sampling
from .prompt import Message, clean, message
from .tool_results import in_words, is_told, prose, read_out
from .tool_schema import (
    InvalidSchemaError,
    Schema,
    arguments_grammar,
    fits,
    properties_of,
    read_schema,
    variant_of,
)
from .tool_words import evidence, narrow

SCORED_TOKENS = 24
"""Of what the user said: each costs 10 to 18 ms for each tool."""
MAX_SCORED_TOOLS = 8
"""With more tools, those whose own words were used most."""
MIN_MARGIN = 3.5
"""By how much more likely (as a natural logarithm) a sentence must be for a tool than for small talk. The tool's own
words in it count as so much."""
MAX_EVIDENCE = 3
MAX_SAID_TOKENS, MAX_SIGNATURE_TOKENS, MAX_RESULT_TOKENS = 100, 120, 150
"""In a prompt; with its examples (about 220) it fits into the smallest context."""
CHARS_PER_TOKEN = 8
"""No text has fewer tokens than this gives."""
MAX_DESCRIPTION_CHARS = 200
MAX_PARAMETER_CHARS = 80
MAX_SHOWN_VALUES = 12
AMOUNTS = {"integer": "a whole number", "number": "a number"}

SMALL_TALK = "Chat about anything."
WHICH_INTRO = "Given what the assistant can do, write what a user says to it."
WHICH_EXAMPLES = (
    ("Find recipes for a dish.", "Find me a recipe for apple pie."),
    (SMALL_TALK, "I'm so tired today."),
    ("Order a taxi to an address.", "I need a taxi to the airport."),
    (SMALL_TALK, "Why do cats purr?"),
    ("Add an item to the shopping list.", "Put milk on my shopping list, please."),
    (SMALL_TALK, "I like apple pie."),
)
ARGUMENTS_INTRO = "Fill in the values from what the user says, as JSON."
ARGUMENTS_EXAMPLES = (
    (
        "order_taxi(address, passengers: a whole number)\nI need a taxi for two to the airport.",
        '{"address": "the airport", "passengers": 2}',
    ),
    ("find_recipe(dish)\nHow do I make apple pie?", '{"dish": "apple pie"}'),
    (
        "write_note(title, content)\nMake a note called ideas: paint the house blue.",
        '{"title": "ideas", "content": "paint the house blue"}',
    ),
    ("open_door(door, action: open or close)\nPlease close the garage.", '{"door": "garage", "action": "close"}'),
)
RESULT_INTRO = "You are told a request and what came of it. Say it to the user in one sentence."
RESULT_EXAMPLES = (
    ("When does my train leave?\ndeparture: 8:15, platform: 4", "Your train leaves at 8:15 from platform 4."),
    ("Close the garage door.\nok: yes", "Okay, I closed the garage door."),
    ("How tall is the Eiffel Tower?\nheight m: 330", "The Eiffel Tower is 330 meters tall."),
    ("Play some rock.\nerror: no speaker found", "That did not work, because no speaker was found."),
    (
        "Who is at the door?\npeople: Tom, people: Mia, since: 5 minutes",
        "Tom and Mia have been at the door for 5 minutes.",
    ),
    ("Wake me at seven.\nok: yes", "Okay, I will wake you at seven."),
    ("Email Kate that I am ill.\nstatus: sent", "Okay, your email to Kate was sent."),
)


class ToolError(Exception):
    """A response fails because of a tool that the client gave."""

    def __init__(self, tool: ToolSpec, reason: str) -> None:
        super().__init__(reason)
        self.fault = EngineFault(
            "invalid_tool_schema", f"The parameters of tool {tool.name!r} cannot be used: {reason}."
        )


@dataclass(slots=True)
class Work:
    """What one response asks for, and what was spent on it."""

    request: GenerateRequest
    said: str
    """The user's words, or what takes their place."""
    max_tokens: int
    """That the whole response may write, a call's arguments included."""
    max_reply_tokens: int
    """That what is said may be long."""
    is_cancelled: Callable[[], bool]
    on_text: Callable[[str], None]
    on_call: Callable[[str, str, bool], None]
    """Name, piece of the arguments, is last."""
    passes: list[Completion] = field(default_factory=list)

    @property
    def tokens_left(self) -> int:
        return self.max_tokens - sum(each.num_output_tokens for each in self.passes)

    @property
    def reply_tokens_left(self) -> int:
        return min(self.max_reply_tokens, self.tokens_left)

    @property
    def seed(self) -> int:
        return self.request.seed % 2**32


def wants_tools(request: GenerateRequest) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def follows_result(request: GenerateRequest) -> bool:
    """Whether the reply follows a tool's result."""
    return request.audio is None and bool(request.items) and isinstance(request.items[-1], ToolResultItem)


class SmallModelTools:
    """Tools for the embedded model. Its prompts are not those of the conversation: each kind stays in a slot of its own
    as if it were a call, so that it is computed once and the conversation's cache is left alone."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm

    def choose(self, work: Work) -> ToolSpec | None:
        """The tool to call, None to answer."""
        request = work.request
        if request.tool_choice == "required" and len(request.tools) == 1:
            return request.tools[0]
        said = self._end(clean(work.said), MAX_SAID_TOKENS)
        used = {tool.name: min(evidence(said, tool), MAX_EVIDENCE) for tool in request.tools}
        candidates = sorted(request.tools, key=lambda tool: -used[tool.name])[:MAX_SCORED_TOOLS]
        tokens = self._beginning(said)
        chosen, bar = None, -math.inf
        with self._llm.sequence("tools: which") as sequence:

            def likelihood(purpose: str, worth: float) -> float:
                prompt = [*_examples(WHICH_INTRO, WHICH_EXAMPLES), message("user", purpose)]
                likelihood, completion = sequence.score(prompt, tokens, worth, work.is_cancelled)
                work.passes.append(completion)
                return likelihood

            if request.tool_choice == "required":
                chosen = candidates[0]
            else:
                bar = likelihood(SMALL_TALK, bar) + MIN_MARGIN
                if bar == -math.inf:  # nothing to compare with, or cancelled
                    return None
            for tool in candidates:
                worth = likelihood(_purpose(tool), bar - used[tool.name]) + used[tool.name]
                if worth > bar:
                    chosen, bar = tool, worth
        return chosen

    def arguments_prompt(self, work: Work, tool: ToolSpec, schema: Schema) -> tuple[list[Message], Schema]:
        """What to show the model for the arguments, and the schema that they are to follow."""
        said = self._end(clean(work.said), MAX_SAID_TOKENS)
        narrowed = narrow(schema, tool, said)
        shown = self._end(signature(tool, schema, list(properties_of(narrowed))), MAX_SIGNATURE_TOKENS)
        return [*_examples(ARGUMENTS_INTRO, ARGUMENTS_EXAMPLES), message("user", f"{shown}\n{said}")], narrowed

    def tell_result(self, work: Work) -> None:
        """Say what the tools returned since the user spoke. What the model makes of it is checked; where that does not
        hold the result is read out."""
        question, outputs = question_and_results(work.request.items)
        output = outputs[0] if len(outputs) == 1 else json.dumps([in_words(each) for each in outputs])
        text = prose(output)
        if text is None:
            asked = self._end(question, MAX_SAID_TOKENS)
            shown = self._end(clean(in_words(output)), MAX_RESULT_TOKENS)
            prompt = [*_examples(RESULT_INTRO, RESULT_EXAMPLES), message("user", f"{asked}\n{shown}")]
            sampling = Sampling(work.reply_tokens_left, 0.0, 1.0, work.seed, stop=("\n",), repeat_penalty=1.0)
            pieces: list[str] = []
            with self._llm.sequence("tools: results") as sequence:
                work.passes.append(sequence.generate(prompt, sampling, pieces.append, work.is_cancelled))
            if work.passes[-1].reason == "cancelled":
                return
            text = "".join(pieces).strip()
            if is_told(text, question, output):
                work.on_text(text)
                return
            text = read_out(output)
        self._say(text, work)

    def _beginning(self, text: str) -> list[int]:
        """The tokens of the words that are scored, in ASCII: llama.cpp cannot tell likelihoods of half a character."""
        plain = unicodedata.normalize("NFKD", text.replace("’", "'")).encode("ascii", "ignore").decode()
        return self._llm.tokenize(plain[: SCORED_TOKENS * CHARS_PER_TOKEN])[:SCORED_TOKENS]

    def _end(self, text: str, max_tokens: int) -> str:
        """The end of a text that takes at most so many tokens."""
        text = text[-max_tokens * CHARS_PER_TOKEN :]
        while text and len(self._llm.tokenize(text)) > max_tokens:
            text = text[len(text) // 4 + 1 :]
        return text

    def _say(self, text: str, work: Work) -> None:
        """Emit a given text, as much of it as may be written; it takes the place of what the model wrote."""
        limit = work.reply_tokens_left + sum(each.num_output_tokens for each in work.passes[-1:])
        words = text.split()
        is_cut = False
        while (count := len(self._llm.tokenize(" ".join(words)))) > limit and len(words) > 1:
            words, is_cut = words[: len(words) * 3 // 4], True
        written = work.passes.pop() if work.passes else Completion("stop")
        reason: Literal["length", "stop"] = "length" if is_cut else "stop"
        work.passes.append(replace(written, reason=reason, num_output_tokens=min(count, limit)))
        work.on_text(" ".join(words))


class ArgumentWriter:
    """Writes the arguments of one call as the model produces them, and judges them."""

    def __init__(self, work: Work, tool: ToolSpec, schema: Schema, *, is_held: bool) -> None:
        self._work = work
        self._tool = tool
        self._schema = schema
        self._is_held = is_held
        """Nothing is emitted before it is known that the call is not one that was made already."""
        self._text = ""
        self._is_refused = False

    def write(self, llm_generate: Callable[[Sampling, Callable[[str], None], Callable[[], bool]], Completion]) -> bool:
        """Run the model; False when the call was made before and nothing was emitted. Raises ToolError."""
        work = self._work
        sampling = Sampling(work.tokens_left, 0.0, 1.0, work.seed, grammar=arguments_grammar(self._schema))
        if not properties_of(self._schema) and not self._schema["additionalProperties"]:
            self._text = "{}"
            work.passes.append(Completion("stop"))
            if not self._is_held:
                work.on_call(self._tool.name, self._text, False)
        elif sampling.max_tokens < 1:
            work.passes.append(Completion("length"))
            return True
        else:
            work.passes.append(llm_generate(sampling, self._take, lambda: self._is_refused or work.is_cancelled()))
        if work.is_cancelled():
            return True
        return self._finish()

    def _finish(self) -> bool:
        work, last = self._work, self._work.passes[-1]
        arguments = _parse(self._text)
        is_right = arguments is not None and fits(arguments, self._schema)
        if not is_right and last.reason == "length" and not self._is_refused:
            if self._is_held:
                work.on_call(self._tool.name, self._text, False)
            return True  # incomplete: what there is was emitted, and no last piece
        if not is_right:
            # llama.cpp does not say that it refuses a grammar: it writes as if there were none.
            raise ToolError(self._tool, "no arguments could be made that follow them")
        if self._is_held:
            if was_called(work.request.items, self._tool.name, arguments):
                return False
            work.on_call(self._tool.name, self._text, False)
        work.passes[-1] = replace(last, reason="stop")  # a limit that the end just reached cut nothing off
        work.on_call(self._tool.name, "", True)
        return True

    def _take(self, piece: str) -> None:
        self._is_refused = self._is_refused or not (self._text + piece).lstrip().startswith("{")
        if self._is_refused:
            return
        self._text += piece
        if not self._is_held:
            self._work.on_call(self._tool.name, piece, False)


def usable_schema(tool: ToolSpec) -> Schema:
    """The tool's schema. Raises ToolError."""
    try:
        return read_schema(tool.parameters)
    except InvalidSchemaError as error:
        raise ToolError(tool, str(error)) from error


def was_called(items: tuple[HistoryItem, ...], name: str, arguments: object) -> bool:
    """Whether the same call was made since the user last spoke."""
    for item in reversed(items):
        if isinstance(item, ConversationItem) and item.role == "user":
            return False
        if isinstance(item, ToolCallItem) and item.name == name and _parse(item.arguments) == arguments:
            return True
    return False


def listing(tools: tuple[ToolSpec, ...], max_chars: int) -> str:
    """The tools as a larger model is shown them, as many as fit."""
    lines: list[str] = []
    for tool in tools:
        try:
            schema = read_schema(tool.parameters)
            line = signature(tool, schema, list(properties_of(schema)))
        except InvalidSchemaError:
            line = tool.name  # it is told when the tool is chosen
        line = f"- {line}: {clean(tool.description)[:MAX_DESCRIPTION_CHARS]}"
        max_chars -= len(line)
        if lines and max_chars < 0:
            break
        lines.append(line)
    return "\n".join(lines)


def names_grammar(names: list[str]) -> str:
    return "root ::= " + " | ".join(json.dumps(name, ensure_ascii=False) for name in names)


def question_and_results(items: tuple[HistoryItem, ...]) -> tuple[str, list[str]]:
    """What the user said last, and what tools returned since."""
    outputs: list[str] = []
    for item in reversed(items):
        if isinstance(item, ToolResultItem):
            outputs.insert(0, item.output)
        elif isinstance(item, ConversationItem) and item.role == "user":
            return clean(item.text), outputs
    return "", outputs


def _purpose(tool: ToolSpec) -> str:
    """What a tool is for: the first sentence of its description, or its name in words."""
    description = re.split(r"(?<=[.!?])\s", clean(tool.description)[:MAX_DESCRIPTION_CHARS], maxsplit=1)[0]
    if description:
        return description if description.endswith((".", "!", "?")) else f"{description}."
    return re.sub(r"([a-z])([A-Z])", r"\1 \2", tool.name).replace("_", " ").capitalize() + "."


def signature(tool: ToolSpec, schema: Schema, names: list[str]) -> str:
    """A tool with these of its parameters, as a line."""
    parts: list[str] = []
    for name in names:
        given = properties_of(schema)[name]
        kind = variant_of(given)
        values = kind.get("enum")
        description = clean(str(given.get("description") or kind.get("description") or ""))[:MAX_PARAMETER_CHARS]
        if isinstance(values, list):
            description = " or ".join(map(str, values[:MAX_SHOWN_VALUES]))
        elif not description:
            description = AMOUNTS.get(str(kind.get("type")), "")
        parts.append(f"{name}: {description}" if description else name)
    return f"{tool.name}({', '.join(parts)})"


def _examples(intro: str, examples: tuple[tuple[str, str], ...]) -> list[Message]:
    messages = [message("system", intro)]
    for question, answer in examples:
        messages += [message("user", question), message("assistant", answer)]
    return messages


def _parse(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return None
