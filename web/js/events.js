// @ts-check
/**
 * What the server's Realtime events mean for the page: whose turn it is, and the captions. No DOM, no network.
 *
 * Events: `turn` (the value of `turn` changed), `caption` CustomEvent<Caption> (one is new, changed, or removed),
 * `finished` CustomEvent<Caption> (a caption will not change any more, or was cut), `problem` CustomEvent<string>.
 */

const MAX_CAPTIONS = 200; // an hour of talk; older ones leave the page

/** Mistakes of ours that are none for the caller: the reply was over before our request arrived. */
const HARMLESS = new Set(["response_cancel_not_active", "item_not_found"]);

/**
 * @typedef {object} Caption
 * @property {string} id the conversation item's id
 * @property {"you" | "reply"} who
 * @property {string} text
 * @property {"pending" | "streaming" | "done" | "removed"} state pending: being spoken, no words yet
 * @property {boolean} isTyped
 * @property {number | null} heardMs how much of the reply was heard, when it was cut; otherwise null
 */

/** @typedef {"listening" | "hearing" | "thinking" | "speaking"} Turn */
/** @typedef {Record<string, any> & {type: string}} ServerEvent */

export class Conversation extends EventTarget {
  /** @type {Turn} */
  turn = "listening";
  /** @type {Map<string, Caption>} in the order of the conversation */
  captions = new Map();
  #isHearing = false;
  /** @type {string | null} the user's item that nobody has answered yet */
  #unanswered = null;
  /** @type {Set<string>} responses being generated */
  #generating = new Set();
  /** @type {string | null} the response whose sound plays */
  #playing = null;
  /** @type {Map<string, string>} response id -> its item's id */
  #items = new Map();
  /** how many items of a lost call's conversation are still to be told */
  #numTold = 0;

  /** True while a reply is being made or played: there is something to interrupt. */
  get canInterrupt() {
    return this.#playing !== null || this.#generating.size > 0;
  }

  /** The client events that stop the reply now, in order. @returns {object[]} */
  interruption() {
    if (!this.canInterrupt) return [];
    const clear = { type: "output_audio_buffer.clear" };
    return this.#generating.size > 0 ? [{ type: "response.cancel" }, clear] : [clear];
  }

  /** The client events that say `text` instead of speaking, in order. @param {string} text @returns {object[]} */
  typed(text) {
    const item = { type: "message", role: "user", content: [{ type: "input_text", text }] };
    return [...this.interruption(), { type: "conversation.item.create", item }, { type: "response.create" }];
  }

  /** A new call: nobody speaks; earlier captions stay. */
  restart() {
    this.#isHearing = false;
    this.#unanswered = null;
    this.#generating.clear();
    this.#playing = null;
    this.#items.clear();
    this.#numTold = 0;
    for (const caption of this.captions.values()) {
      if (caption.state === "pending") this.#remove(caption.id);
      else if (caption.state === "streaming") this.#change(caption, { state: "done" });
    }
    this.#update();
  }

  /**
   * Take in one server event. Returns client events to send in answer.
   * @param {ServerEvent} event
   * @returns {object[]}
   */
  receive(event) {
    const answer = this.#handle(event);
    this.#update();
    return answer;
  }

  /** @param {ServerEvent} event @returns {object[]} */
  #handle(event) {
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.#isHearing = true;
        this.#caption(event.item_id, "you");
        break;
      case "input_audio_buffer.speech_stopped":
        this.#isHearing = false;
        this.#unanswered = event.item_id;
        break;
      case "input_audio_buffer.cleared":
        this.#isHearing = false;
        for (const caption of this.captions.values()) if (caption.state === "pending") this.#remove(caption.id);
        break;
      case "conversation.item.input_audio_transcription.delta":
        this.#append(event.item_id, "you", event.delta);
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.#onTranscript(event.item_id, event.transcript.trim());
        break;
      case "conversation.item.input_audio_transcription.failed":
        this.#onTranscript(event.item_id, "");
        break;
      case "rtc_server.session.resumable":
        return this.#onResumable(event);
      case "conversation.item.added":
        this.#onItem(event.item);
        return this.#afterTold(event.item);
      case "conversation.item.deleted":
        this.#remove(event.item_id);
        break;
      case "conversation.item.retrieved":
        this.#onRetrieved(event.item);
        break;
      case "conversation.item.truncated":
        return this.#onTruncated(event);
      case "response.created":
        this.#unanswered = null;
        this.#generating.add(event.response.id);
        break;
      case "response.output_item.added":
        this.#items.set(event.response_id, event.item.id);
        this.#caption(event.item.id, "reply");
        break;
      case "response.output_audio_transcript.delta":
        this.#append(event.item_id, "reply", event.delta);
        break;
      case "response.output_audio_transcript.done":
        this.#change(this.#caption(event.item_id, "reply"), { text: event.transcript.trim(), state: "done" });
        break;
      case "response.done":
        this.#onResponseDone(event.response);
        break;
      case "output_audio_buffer.started":
        this.#playing = event.response_id;
        break;
      case "output_audio_buffer.stopped":
        if (this.#playing === event.response_id) this.#playing = null;
        this.#unanswered = null; // said during a reply that may not be interrupted: nobody answers it by itself
        this.#onPlayed(event.response_id);
        break;
      case "output_audio_buffer.cleared":
        if (this.#playing === event.response_id) this.#playing = null;
        break;
      case "error":
        if (!HARMLESS.has(event.error?.code)) this.#emit("problem", event.error?.message ?? "The server reported an error.");
        break;
    }
    return [];
  }

  /** @param {string} itemId @param {string} transcript */
  #onTranscript(itemId, transcript) {
    if (this.#unanswered === itemId && !transcript) this.#unanswered = null; // no words: nobody will answer
    if (!transcript) return this.#remove(itemId);
    const caption = this.#caption(itemId, "you");
    for (const earlier of this.captions.values()) {
      if (earlier === caption) break;
      // Words after a pause that was no end are understood together, under the last item.
      if (earlier.who === "you" && earlier.state === "pending") this.#remove(earlier.id);
    }
    this.#change(caption, { text: transcript, state: "done" });
    this.#emit("finished", caption);
  }

  /**
   * Typed words; and after a lost call, what there is of the conversation: an item is added with words only then. One
   * that is on the page already takes the server's words, as a reply may have been cut.
   * @param {any} item
   */
  #onItem(item) {
    const [part] = item.content ?? [];
    const text = (part?.transcript ?? part?.text ?? "").trim();
    if (item.role === "user" && part?.type === "input_text") {
      const caption = this.#caption(item.id, "you");
      this.#change(caption, { text: part.text, state: "done", isTyped: true });
      if (!this.#isTold) this.#emit("finished", caption);
    } else if (text && (item.role === "user" || item.role === "assistant")) {
      this.#change(this.#caption(item.id, item.role === "user" ? "you" : "reply"), { text, state: "done" });
    }
  }

  /** The session of a lost call goes on: what the server has of the conversation follows, already finished.
   * @param {ServerEvent} event @returns {object[]} */
  #onResumable({ resumed: isResumed, num_items: numItems }) {
    this.#numTold = isResumed ? numItems : 0;
    return [];
  }

  /** What is added now was on the page, or could have been: it is no news. */
  get #isTold() {
    return this.#numTold > 0;
  }

  /** The last item of a lost call's conversation: a question that nobody has answered is answered now.
   * @param {any} item @returns {object[]} */
  #afterTold(item) {
    if (this.#numTold === 0) return [];
    this.#numTold -= 1;
    const waits = this.#numTold === 0 && (item.role === "user" || item.type === "function_call_output");
    return waits ? [{ type: "response.create" }] : [];
  }

  /** The server's own record of a cut reply: only the words that were heard. @param {any} item */
  #onRetrieved(item) {
    const caption = this.captions.get(item.id);
    const [part] = item.content ?? [];
    if (!caption || caption.heardMs === null) return;
    this.#change(caption, { text: (part?.transcript ?? "").trim() });
    this.#emit("finished", caption);
  }

  /** @param {ServerEvent} event @returns {object[]} */
  #onTruncated({ item_id: itemId, audio_end_ms: heardMs }) {
    const caption = this.captions.get(itemId);
    if (!caption) return [];
    this.#change(caption, { heardMs, state: "done" });
    return [{ type: "conversation.item.retrieve", item_id: itemId }];
  }

  /** @param {any} response */
  #onResponseDone(response) {
    this.#generating.delete(response.id);
    const itemId = this.#items.get(response.id);
    const caption = itemId && this.captions.get(itemId);
    if (caption && caption.state !== "done") this.#change(caption, { state: "done" });
    if (response.status !== "failed") return;
    this.#emit("problem", response.status_details?.error?.message ?? "The reply failed.");
  }

  /** @param {string} responseId */
  #onPlayed(responseId) {
    const itemId = this.#items.get(responseId);
    const caption = itemId && this.captions.get(itemId);
    if (caption) this.#emit("finished", caption);
  }

  /** The caption of an item, made if it is new. @param {string} id @param {"you" | "reply"} who @returns {Caption} */
  #caption(id, who) {
    const known = this.captions.get(id);
    if (known) return known;
    /** @type {Caption} */
    const caption = { id, who, text: "", state: "pending", isTyped: false, heardMs: null };
    this.captions.set(id, caption);
    const [oldest] = this.captions.keys();
    if (this.captions.size > MAX_CAPTIONS) this.#remove(oldest);
    this.#emit("caption", caption);
    return caption;
  }

  /** @param {string} id @param {"you" | "reply"} who @param {string} delta */
  #append(id, who, delta) {
    const caption = this.#caption(id, who);
    if (caption.state !== "done") this.#change(caption, { text: caption.text + delta, state: "streaming" });
  }

  /** @param {Caption} caption @param {Partial<Caption>} changes */
  #change(caption, changes) {
    Object.assign(caption, changes);
    this.#emit("caption", caption);
  }

  /** @param {string} id */
  #remove(id) {
    const caption = this.captions.get(id);
    if (!caption) return;
    this.captions.delete(id);
    this.#change(caption, { state: "removed" });
  }

  #update() {
    /** @type {Turn} */
    let turn = "listening";
    if (this.#isHearing) turn = "hearing";
    else if (this.#playing !== null) turn = "speaking";
    else if (this.#generating.size > 0 || this.#unanswered !== null) turn = "thinking";
    if (turn === this.turn) return;
    this.turn = turn;
    this.dispatchEvent(new Event("turn"));
  }

  /** @param {string} kind @param {unknown} detail */
  #emit(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
