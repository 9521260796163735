"""What one response writes: a reply, a call of a tool, or what a tool returned. On the language model's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.interface import GenerateRequest, HistoryItem, ToolSpec

from .llm import Completion, ContextOverflowError, LanguageModel, Sampling, in_total
from .llm import Sequence as ModelSequence
from .options import CascadeOptions
from .prompt import Message, PromptStyle, build_messages, clean, message, split_turn
from .tool_schema import properties_of
from .tool_use import (
    ArgumentWriter,
    SmallModelTools,
    Work,
    follows_result,
    listing,
    names_grammar,
    question_and_results,
    signature,
    usable_schema,
    wants_tools,
)

OVERFLOW_RETRIES = 3
"""How often a prompt is shortened when the model counts more tokens than we guessed."""
ARGUMENT_TOKENS = 256
"""A call may be this long, where the operator's limit for replies is shorter: half a JSON text is of no use."""
NO_TOOL = "answer"
CHOICE = (
    "\n\n[Functions that you can call:\n{listing}\nIf one of them is needed now, write its name and nothing else. "
    "Otherwise write {no_tool}.]"
)
CHOICE_REQUIRED = "\n\n[Functions:\n{listing}\nWrite the name of the one to call now and nothing else.]"
ARGUMENTS = "[The arguments of {signature} as JSON, from what was said.]"


class Writer:
    """Writes responses with one language model."""

    def __init__(self, llm: LanguageModel, style: PromptStyle, options: CascadeOptions) -> None:
        self._llm = llm
        self._style = style
        self._options = options
        self._small_tools = SmallModelTools(llm) if style.has_examples else None
        """None for a larger model, which decides itself."""

    def write(
        self,
        request: GenerateRequest,
        heard: str | None,
        on_text: Callable[[str], None],
        on_call: Callable[[str, str, bool], None],
        is_cancelled: Callable[[], bool],
    ) -> Completion:
        """Write one response; blocks. `heard` are the user's words, None where the request has no audio.

        `on_text` gets each piece of a reply; `on_call` the name, each piece of the arguments, and whether it is the
        last, of a call: one or the other. Raises ToolError, or LanguageModelError."""
        history: Sequence[HistoryItem] = request.items
        said, instructions = heard or "", request.instructions
        if heard is None:
            history, said, instructions = split_turn(self._style, request.items, request.instructions)
        must_call = wants_tools(request) and request.tool_choice == "required"
        if not clean(said) and not must_call:
            return Completion("stop")

        limit = self._options.max_output_tokens
        max_tokens = min(request.max_output_tokens or ARGUMENT_TOKENS, max(limit, ARGUMENT_TOKENS))
        work = Work(request, said, max_tokens, limit, is_cancelled, on_text, on_call)
        if not (wants_tools(request) and self._call_tool(work, history, instructions)):
            self._reply(work, history, instructions)
        return in_total(work.passes)

    def _call_tool(self, work: Work, history: Sequence[HistoryItem], instructions: str) -> bool:
        """False: answer instead."""
        small = self._small_tools
        is_held = follows_result(work.request)
        if small is None:
            tool = self._choose(work, history, instructions)
        elif is_held and work.request.tool_choice == "auto":
            return False  # it would ask for the same again
        else:
            if is_held:
                work.said, _ = question_and_results(work.request.items)
            tool = small.choose(work)
        if work.is_cancelled():
            return True
        if tool is None:
            return False

        schema = usable_schema(tool)
        if small is not None:
            prompt, schema = small.arguments_prompt(work, tool, schema)
            call_id = "tools: arguments"
        else:
            call_id = work.request.call_id
        writer = ArgumentWriter(work, tool, schema, is_held=is_held)
        with self._llm.sequence(call_id) as sequence:
            if small is not None:
                return writer.write(lambda *rest: sequence.generate(prompt, *rest))
            asked = ARGUMENTS.format(signature=signature(tool, schema, list(properties_of(schema))))
            ending = [message("assistant", tool.name), message("user", asked)]
            return writer.write(
                lambda *rest: self._fitted(
                    work.tokens_left + len(asked) // 3,
                    lambda budget: sequence.generate(
                        [*build_messages(self._style, instructions, history, work.said, budget), *ending], *rest
                    ),
                )
            )

    def _choose(self, work: Work, history: Sequence[HistoryItem], instructions: str) -> ToolSpec | None:
        """A larger model's own decision: it can write nothing but one of the names."""
        request = work.request
        is_required = request.tool_choice == "required"
        if is_required and len(request.tools) == 1:
            return request.tools[0]
        tools = {tool.name: tool for tool in request.tools}
        no_tool = NO_TOOL if NO_TOOL not in tools else f"{NO_TOOL} without a function"
        names = [*tools, *(() if is_required else (no_tool,))]
        shown = listing(request.tools, self._options.context_tokens)  # about a third of the context
        question = (CHOICE_REQUIRED if is_required else CHOICE).format(listing=shown, no_tool=no_tool)
        sampling = Sampling(work.tokens_left, 0.0, 1.0, work.seed, grammar=names_grammar(names))
        written: list[str] = []

        def ask(sequence: ModelSequence, budget: int) -> Completion:
            prompt = build_messages(self._style, instructions, history, work.said, budget)
            prompt[-1] = message("user", prompt[-1]["content"] + question)
            return sequence.generate(prompt, sampling, written.append, work.is_cancelled)

        with self._llm.sequence(request.call_id) as sequence:
            size = sampling.max_tokens + len(question) // 3
            work.passes.append(self._fitted(size, lambda budget: ask(sequence, budget)))
        chosen = tools.get("".join(written).strip())
        return chosen or (request.tools[0] if is_required else None)

    def _reply(self, work: Work, history: Sequence[HistoryItem], instructions: str) -> None:
        if work.reply_tokens_left < 1:
            work.passes.append(Completion("length"))
            return
        if self._small_tools is not None and follows_result(work.request):
            self._small_tools.tell_result(work)
            return
        sampling = Sampling(
            max_tokens=work.reply_tokens_left,
            temperature=self._options.temperature,
            top_p=self._options.top_p,
            seed=work.seed,
            stop=("\n",) if self._style.has_examples else (),
        )

        def generate(messages: list[Message]) -> Completion:
            return sequence.generate(messages, sampling, work.on_text, work.is_cancelled)

        with self._llm.sequence(work.request.call_id) as sequence:
            work.passes.append(
                self._fitted(
                    sampling.max_tokens,
                    lambda budget: generate(build_messages(self._style, instructions, history, work.said, budget)),
                )
            )

    def _fitted(self, reserved_tokens: int, run: Callable[[int], Completion]) -> Completion:
        """Run with a budget for the prompt, with a smaller one while the model finds the prompt too long."""
        budget = max(self._options.context_tokens - reserved_tokens, self._options.context_tokens // 4)
        for attempt in range(OVERFLOW_RETRIES + 1):
            try:
                return run(budget)
            except ContextOverflowError as error:
                # More tokens than estimated, as in languages that the model was not made for.
                if attempt == OVERFLOW_RETRIES:
                    raise
                budget = budget * error.num_context_tokens * 9 // (error.num_prompt_tokens * 10)
        raise AssertionError("unreachable")
