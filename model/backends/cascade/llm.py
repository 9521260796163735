"""The language model: llama.cpp's server (xllamacpp) inside this process, reachable only through a Unix socket.

It keeps one cache slot per sequence. A call returns to its slot, so that only what was said since its last
turn must be computed. While more calls go on than there are slots, each saves its cache to a file after its reply
and loads it before the next one: milliseconds, where computing it again takes seconds.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import xllamacpp

from .prompt import Message

MAX_SAVED_CALLS = 16
"""Saved caches: about 23 kB per token each, so a few MB for a conversation of minutes."""
CALL_ALIVE_SECONDS = 60.0
"""A call that had no reply for this long does not count as going on; it may have ended."""
BATCH_TOKENS = 64
"""Prompt tokens computed at once: about half a second, for which other sequences wait and a cancel may last.
32 cost 20 % more, and with the default of 2048 a cancelled prompt went on for 17 s."""
CACHE_REUSE_TOKENS = 16
"""When the oldest turns fall out of a prompt, what follows is moved in the cache if at least this long."""
OWN_SLOT_PATIENCE_SECONDS = 1.0  # two prompt batches
SLOT_TIMEOUT_SECONDS = 5.0  # saving takes milliseconds, but waits for the batch that is being computed
REPEAT_PENALTY = 1.05
PREFIX_FILE = "prefix.kv"
FOLDER_PREFIX = "rtc-llm-"


class LanguageModelError(RuntimeError):
    """llama.cpp refused a request."""


class ContextOverflowError(LanguageModelError):
    """The prompt has more tokens than the context."""

    def __init__(self, num_prompt_tokens: int, num_context_tokens: int) -> None:
        super().__init__(f"A prompt of {num_prompt_tokens} tokens exceeds the context of {num_context_tokens}.")
        self.num_prompt_tokens = num_prompt_tokens
        self.num_context_tokens = num_context_tokens


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one reply is written."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()
    grammar: str = ""
    """What the text must follow: llama.cpp's GBNF, or llguidance's Lark behind "%llguidance {}"; "" is anything.
    llama.cpp ignores an llguidance grammar that it does not understand, so look at what comes out."""
    repeat_penalty: float = REPEAT_PENALTY


@dataclass(frozen=True, slots=True)
class Completion:
    """How one reply ended."""

    reason: Literal["stop", "length", "cancelled"]
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0


def in_total(passes: SequenceOf[Completion]) -> Completion:
    """Several passes as one: ended like the last, counted together."""
    return Completion(
        passes[-1].reason if passes else "stop",
        sum(each.num_prompt_tokens for each in passes),
        sum(each.num_cached_tokens for each in passes),
        sum(each.num_output_tokens for each in passes),
    )


@dataclass(slots=True)
class _Slot:
    index: int
    call_id: str | None = None
    """Whose conversation its cache holds."""
    is_busy: bool = False


class Sequence:
    """One reply being written in a slot; made by `LanguageModel.sequence`."""

    def __init__(self, server: Any, slot: int) -> None:
        self._server = server
        self._slot = slot

    def generate(
        self,
        messages: Iterable[Message],
        sampling: Sampling,
        on_text: Callable[[str], None],
        is_cancelled: Callable[[], bool],
    ) -> Completion:
        """Write a reply; blocks until it is complete. `on_text` gets each piece as it is written.

        `is_cancelled` is asked before each piece, and every BATCH_TOKENS while the prompt is computed. Raises
        ContextOverflowError or LanguageModelError."""

        def take(choice: dict[str, Any]) -> None:
            if text := choice.get("delta", {}).get("content"):
                on_text(text)

        options = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop),
            "repeat_penalty": sampling.repeat_penalty,
        }
        if sampling.grammar:
            options["grammar"] = sampling.grammar
        return self._run(messages, options, take, is_cancelled)

    def score(
        self,
        messages: Iterable[Message],
        tokens: SequenceOf[int],
        worth: float,
        is_cancelled: Callable[[], bool],
    ) -> tuple[float, Completion]:
        """Log-likelihood of `tokens` as the reply to `messages`; given up, as -inf, once it is below `worth`, and where
        llama.cpp fails because the model would rather begin a character of several tokens.

        The model is led through the tokens, which are input: the completion counts them so. Raises as `generate`."""
        total, num_read = 0.0, 0

        def read(choice: dict[str, Any]) -> None:
            nonlocal total, num_read
            for token in (choice.get("logprobs") or {}).get("content") or ():
                total += token["logprob"]
                num_read += 1

        options = {
            "max_tokens": len(tokens),
            "temperature": 0.0,
            "grammar": "root ::= " + " ".join(f"<[{token}]>" for token in tokens),
            "logprobs": True,
            "top_logprobs": 1,
        }
        if not tokens:
            return 0.0, Completion("stop")
        try:
            completion = self._run(messages, options, read, lambda: total < worth or is_cancelled())
        except ContextOverflowError:
            raise
        except LanguageModelError:
            return -math.inf, Completion("stop")
        if is_cancelled():
            return -math.inf, completion
        is_given_up = completion.reason == "cancelled"
        return -math.inf if is_given_up else total, replace(
            completion,
            reason="stop",
            num_prompt_tokens=completion.num_prompt_tokens + num_read,
            num_output_tokens=0,
        )

    def _run(
        self,
        messages: Iterable[Message],
        options: dict[str, Any],
        on_choice: Callable[[dict[str, Any]], None],
        is_cancelled: Callable[[], bool],
    ) -> Completion:
        final: dict[str, Any] = {}
        reasons: list[str] = []
        was_cancelled = False

        def receive(chunk: dict[str, Any]) -> bool:
            nonlocal was_cancelled
            was_cancelled = was_cancelled or is_cancelled()
            if was_cancelled:
                return True
            final.update(chunk)
            for choice in chunk.get("choices") or ():
                if choice.get("finish_reason"):
                    reasons.append(choice["finish_reason"])
                on_choice(choice)
            return False

        request = {
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # otherwise nobody asks us before the first token
            "cache_prompt": True,
            "id_slot": self._slot,
        }
        try:
            self._server.handle_chat_completions(request | options, receive)
        except ValueError as error:  # the chat template or the grammar; its text may quote the prompt
            raise LanguageModelError("llama.cpp refused the request.") from error
        if was_cancelled:
            progress = final.get("prompt_progress") or {}
            return Completion("cancelled", progress.get("total", 0), progress.get("cache", 0))
        if "error" in final:
            raise _error(final["error"])
        usage = final.get("usage") or {}
        return Completion(
            "length" if "length" in reasons else "stop",
            usage.get("prompt_tokens", 0),
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            usage.get("completion_tokens", 0),
        )


class LanguageModel:
    """One loaded GGUF with a cache slot per sequence."""

    def __init__(self, path: Path, *, threads: int, sequences: int, context_tokens: int) -> None:
        remove_stale_folders()
        # Mode 0700: nobody else may ask the model.
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        self._socket_path = str(self._folder / "llm.sock")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context_tokens * sequences
        params.n_parallel = sequences
        params.n_gpu_layers = 0
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_cache_reuse = CACHE_REUSE_TOKENS
        params.cache_ram_mib = 0  # our slots and files do that
        params.cpuparams.n_threads = threads
        # The same for prompts: with more threads than cores to spare, prompt processing collapses (130 ms became
        # 2 s with one other busy process), because llama.cpp's threads spin at every barrier.
        params.cpuparams_batch.n_threads = threads
        params.verbosity = -1
        params.hostnames = [self._socket_path]  # otherwise it opens an unauthenticated TCP port
        params.slot_save_path = f"{self._folder}/"
        params.endpoint_slots = True
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise LanguageModelError(f"{path} could not be loaded as a GGUF chat model.") from error
        self._lock = threading.Condition()
        self._slots = [_Slot(index) for index in range(sequences)]  # least recently used first
        self._recent: OrderedDict[str, float] = OrderedDict()  # call -> time of its last reply, oldest first
        self._saved: OrderedDict[str, Path] = OrderedDict()  # call -> file with its cache, oldest first
        self._is_closed = False

    def warm_up(self, prefix: Iterable[Message]) -> None:
        """Compute the common beginning of all prompts once and put it into every slot."""
        sampling = Sampling(max_tokens=1, temperature=0.0, top_p=1.0, seed=0)
        greeting: Message = {"role": "user", "content": "Hello."}
        Sequence(self._server, 0).generate([*prefix, greeting], sampling, lambda text: None, lambda: False)
        self._slot_action(0, "save", PREFIX_FILE)
        for slot in self._slots[1:]:
            self._slot_action(slot.index, "restore", PREFIX_FILE)
        (self._folder / PREFIX_FILE).unlink(missing_ok=True)

    def tokenize(self, text: str) -> list[int]:
        """The model's tokens of a text. Raises LanguageModelError."""
        answer = self._post("/tokenize", {"content": text})
        if answer is None:
            raise LanguageModelError("llama.cpp did not tokenize.")
        return [int(token) for token in json.loads(answer)["tokens"]]

    @contextmanager
    def sequence(self, call_id: str) -> Iterator[Sequence]:
        """Take a free slot for one reply of a call, the one that holds its conversation where possible.

        There is a free slot as long as no more threads enter than there are sequences. Raises LanguageModelError
        once the model is closed."""
        with self._lock:
            if self._is_closed:
                raise LanguageModelError("The language model is closed.")
            # A call's own slot is busy only with a reply that was just cancelled, as when the user goes on
            # speaking: waiting for its next token is cheaper than computing the conversation in another slot.
            self._lock.wait_for(
                lambda: not any(slot.is_busy and slot.call_id == call_id for slot in self._slots),
                OWN_SLOT_PATIENCE_SECONDS,
            )
            free = [slot for slot in self._slots if not slot.is_busy]
            slot = next((slot for slot in free if slot.call_id == call_id), free[0])
            slot.is_busy = True
            saved = None if slot.call_id == call_id else self._saved.get(call_id)
            slot.call_id = call_id
            self._slots.remove(slot)
            self._slots.append(slot)
        try:
            if saved is not None:
                self._slot_action(slot.index, "restore", saved.name)
            yield Sequence(self._server, slot.index)
            # After the reply, when nobody waits for it.
            if (file := self._file_to_save(call_id)) is not None:
                self._slot_action(slot.index, "save", file.name)
        finally:
            with self._lock:
                slot.is_busy = False
                self._lock.notify_all()

    def close(self) -> None:
        """Free the model. Waits for sequences that still run, so stop them first; idempotent."""
        with self._lock:
            self._is_closed = True
            while any(slot.is_busy for slot in self._slots):
                self._lock.wait()
        self._server = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file_to_save(self, call_id: str) -> Path | None:
        """Where to save the call's cache; None while there are slots for all calls that are going on."""
        now = time.monotonic()
        with self._lock:
            self._recent[call_id] = now
            self._recent.move_to_end(call_id)
            while next(iter(self._recent.values())) < now - CALL_ALIVE_SECONDS:
                self._recent.popitem(last=False)
            if len(self._recent) <= len(self._slots) - 1:
                return None
            file = self._saved.pop(call_id, None)
            if file is None and len(self._saved) >= MAX_SAVED_CALLS:
                _, file = self._saved.popitem(last=False)
            self._saved[call_id] = file or self._folder / f"call-{len(self._saved)}.kv"
            return self._saved[call_id]

    def _slot_action(self, index: int, action: str, filename: str) -> None:
        # A lost cache costs time, never correctness, so a refusal (an empty slot, for one) is not an error.
        self._post(f"/slots/{index}?action={action}", {"filename": filename})

    def _post(self, path: str, body: dict[str, str]) -> bytes | None:
        """What llama.cpp answers; None when it does not."""
        connection = _UnixConnection(self._socket_path)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            return answer if response.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SLOT_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SLOT_TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def remove_stale_folders() -> None:
    """Delete what killed processes of this user left in the temporary folder: sockets and saved caches."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        try:
            if not pid.isdigit() or folder.stat().st_uid != os.getuid():
                continue
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # gone meanwhile, or a process of another user by now


def _error(error: dict[str, Any]) -> LanguageModelError:
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflowError(int(error["n_prompt_tokens"]), int(error["n_ctx"]))
    # The message may quote the prompt, which stays out of logs.
    return LanguageModelError(f"llama.cpp refused the request: {error.get('type')} ({error.get('code')}).")
