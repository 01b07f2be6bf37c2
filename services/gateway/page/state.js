// A walk as this page knows it: what was said, what was drawn, what is remembered. It shows nothing.

import { chunk, thin } from "./chunk.js";
import { Connection } from "./connection.js";
import { covers, forked, head, shared } from "./lineage.js";
import { Problem } from "./problems.js";

/** Numbers of messages are never used twice in a session: whoever comes begins to count somewhere. */
const NUMBERS = 2 ** 48;

/** One walk, in one session after another.
 *
 * opened   the session, as OpenResponse; null: none yet
 * chunks   by number, of the world as it is now:
 *            index, key, poses, walker    as drawn (`walker` and `drawn` are null where only its look is known)
 *            thumbnail                    Blob of its first picture, or null; of the newest ones, and those looked at again
 *            state                        "kept", "demoted" or "missing"
 *            recalledAt, recall           chunk number for which it was recalled last, and the RecalledChunk; or null
 *            missedAt, missReason         the same for when it was named and did not come
 *            drawn                        the whole message, without pictures; of the newest ones
 *            judged                       how it compares with the truth, or null
 * next     number of the next chunk to come
 * walker   where the walker stands
 * safe     chunks before this number are kept
 * memory   MemorySettings as they are now; null: not told
 * watching whether this only looks on
 * problem  why nothing comes just now, or any more; null: all is well
 *
 * Events, each a CustomEvent whose `detail` is the message, are called as those of WalkResponse: "joined", "drawn",
 * "remembered", "notice", "applied", "judged", "refused". Besides them
 *   "opened"    another session: what was known before is gone; detail is the OpenResponse
 *   "rewound"   `{at}`: chunks from there on are gone
 *   "reply"     `{reply, value}` or `{reply, error}`: what `rewind`, `fork` and `close` answer as well
 *   "up"        messages go out
 *   "down"      they wait; detail is the Problem
 *   "ended"     nothing more comes; detail is the Problem
 */
export class Walk extends EventTarget {
  #connection = null;
  #request = null;
  #owned = false;
  #seen = 0;
  #number = 0;
  #said = 0;
  #holding = 0;
  #settings = new Map();
  #left = new Set();
  #moves = new Map();
  #replies = new Map();

  constructor(service) {
    super();
    this.service = service;
    this.#clear();
  }

  get session() {
    return this.opened?.session ?? this.#request?.join?.session ?? null;
  }

  get world() {
    return this.opened?.world.name ?? null;
  }

  get up() {
    return this.#connection?.up ?? false;
  }

  /** Of what was said last; 0: nothing was. */
  get number() {
    return this.#said;
  }

  /** Begins a session; `request` is an OpenRequest. A session that was begun here before ends. */
  open(request) {
    this.#start({ open: request });
  }

  /** Takes a session up, or looks on. */
  join(session, { watch = false } = {}) {
    this.#start({ join: watch ? { session, watch } : { session } });
    this.watching = watch;
  }

  /** Looks for the service at once, or once more after it ended. */
  again() {
    if (this.problem !== null && this.#connection === null) {
      const join = this.opened && { session: this.opened.session, ...(this.watching && { watch: true }) };
      this.#request = join ? { join } : this.#request;
      this.#connect();
    } else {
      this.#connection?.again();
    }
  }

  /** Draws one chunk; `actions` is one for the whole chunk, or one a latent frame. Resolves with Drawn. */
  move(actions) {
    const number = this.#newNumber();
    const drawn = new Promise((resolve, reject) => this.#moves.set(number, { resolve, reject }));
    drawn.catch(() => {}); // nobody has to ask for it
    if (this.#connection === null || this.watching) this.#fail(this.problem ?? new Problem("CANCELLED"));
    this.#send("move", { actions, number });
    return drawn;
  }

  /** Walks on like this until told otherwise; answers the number by which "applied" says from when on. */
  hold(action) {
    return this.#hold({ action });
  }

  /** Draws no more until told otherwise; answers the number as `hold` does. */
  pause() {
    return this.#hold({ pause: true });
  }

  /** Remembers otherwise; answers the number by which "applied" or "refused" tells. */
  configure(settings) {
    const number = this.#newNumber();
    this.#settings.set(number, settings);
    this.#send("configure", { settings, number });
    return number;
  }

  /** Goes back, so that chunk `at` is drawn next. Resolves with RewindResponse. */
  async rewind(at) {
    this.#connection?.forget();
    const answer = await this.#call("rewind", { at });
    this.#stand(answer.world, at);
    this.walker = answer.walker ?? {};
    this.#fail(new Problem("CANCELLED", "The walk went back."));
    return answer;
  }

  /** Gives the world up to chunk `at` a second name; empty: chosen by the service. Resolves with ForkResponse. */
  fork(name, at) {
    return this.#call("fork", { world: name, at });
  }

  /** Ends the session once all is kept. Resolves with CloseResponse. */
  async close() {
    const answer = await this.#call("close", {});
    this.leave();
    return answer;
  }

  /** Lets go of the session, which lives on. */
  leave() {
    this.#connection?.end();
    this.#connection = null;
    this.#fail(new Problem("CANCELLED", "The walk was left."));
  }

  /** Lets go of the session; if it was begun here it ends, and its world stays. Nobody waits for that. */
  retire() {
    if (this.#owned && this.up) this.#connection.part("close", {});
    else this.#connection?.end();
    this.#connection = null;
    this.leave();
  }

  /** Adds what is known of a chunk from looking at it again, unless it was seen drawn. */
  learn(look, thumbnail = null) {
    const known = this.chunks.get(look.key.index) ?? chunk(look.key, look.poses ?? []);
    known.state = { CHUNK_STATE_DEMOTED: "demoted", CHUNK_STATE_MISSING: "missing" }[look.state] ?? "kept";
    known.thumbnail ??= thumbnail;
    this.chunks.set(known.index, known);
  }

  #clear() {
    this.opened = this.memory = this.problem = null;
    this.chunks = new Map();
    this.next = this.safe = this.#seen = this.#holding = this.#said = 0;
    this.walker = {};
    this.watching = false;
    this.#number = Math.floor(1 + Math.random() * NUMBERS);
    this.#left.clear();
    this.#settings.clear();
  }

  #start(request) {
    this.retire();
    this.#clear();
    this.#request = request;
    this.#owned = "open" in request;
    this.#connect();
  }

  #connect() {
    this.problem = null;
    this.#connection = new Connection(this.service, {
      begin: () => this.#first(),
      heard: (kind, value) => this.#heard(kind, value),
      changed: (state, problem) => this.#changed(state, problem),
    });
  }

  #first() {
    const [[kind, message]] = Object.entries(this.#request);
    return [kind, kind === "join" ? { ...message, seen: this.#seen } : message];
  }

  #send(kind, message) {
    if (!this.watching) this.#connection?.send(kind, message);
  }

  #hold(hold) {
    const number = this.#newNumber();
    this.#connection?.answered(this.#holding); // of several holds the last one wins
    this.#holding = number;
    this.#send("hold", { ...hold, number });
    return number;
  }

  #call(kind, message) {
    return new Promise((resolve, reject) => {
      if (!this.up) {
        reject(this.problem ?? new Problem("UNAVAILABLE", "There is no connection just now."));
        return;
      }
      const waiting = this.#replies.get(kind) ?? [];
      this.#replies.set(kind, [...waiting, { resolve, reject }]);
      this.#send(kind, message);
    });
  }

  #newNumber() {
    return (this.#said = this.#number += 1);
  }

  #changed(state, problem = null) {
    this.problem = problem;
    if (state !== "up") this.#fail(problem, state === "ended");
    if (state === "ended") this.#connection = null;
    this.#tell(state, problem);
  }

  /** What is asked for is not answered any more; moves are said again as long as there is a connection. */
  #fail(problem, ended = true) {
    for (const waiting of this.#replies.values()) waiting.forEach(({ reject }) => reject(problem));
    this.#replies.clear();
    if (!ended) return;
    for (const { reject } of this.#moves.values()) reject(problem);
    this.#moves.clear();
  }

  #heard(kind, value) {
    switch (kind) {
      case "reply":
        this.#replied(value);
        break;
      case "joined":
        this.#joined(value);
        break;
      case "drawn":
        if (!this.#drawn(value)) return;
        break;
      case "remembered":
        this.safe = value.end ?? 0;
        break;
      case "applied":
        this.#applied(value.number);
        break;
      case "refused":
        this.#connection.answered(value.number);
        this.#settings.delete(value.number);
        break;
      case "judged": {
        const judged = this.chunks.get(value.key.index);
        if (judged) judged.judged = value;
        break;
      }
      case "notice":
        if (value.kind === "NOTICE_KIND_MOVED") this.#seen = Math.min(this.#seen, value.chunk ?? 0);
        break;
    }
    this.#tell(kind, value);
  }

  #applied(number) {
    if (!this.#moves.has(number)) this.#connection.answered(number); // a chunk answers a move
    if (!this.#settings.has(number)) return;
    this.memory = { ...this.memory, ...this.#settings.get(number) };
    this.#settings.delete(number);
  }

  #replied({ reply, value, error }) {
    if (reply === "open") {
      this.#open(value);
      this.#request = { join: { session: value.session } };
      this.#seen = value.next ?? 0;
      return;
    }
    const waiting = this.#replies.get(reply)?.shift();
    if (error) waiting?.reject(new Problem(error.status, error.words));
    else waiting?.resolve(value);
  }

  #open(opened) {
    this.opened = opened;
    this.next = opened.next ?? 0;
    this.walker = opened.walker ?? {};
    this.memory = opened.memory?.now ?? null;
    this.#tell("opened", opened);
  }

  #joined(joined) {
    if (this.opened === null) this.#open(joined);
    const seen = this.#seen;
    this.#stand(joined.world, joined.next ?? 0);
    this.opened = joined;
    this.walker = joined.walker ?? {};
    this.memory = joined.memory?.now ?? this.memory;
    if (this.#seen < seen) this.#connection.rejoin();
  }

  /** The session writes to this world's head now, before chunk `next`. */
  #stand(world, next) {
    const before = this.opened.world.lineage.parts;
    const parts = world.lineage.parts;
    this.next = next;
    if (head(before) === head(parts)) return;
    this.#left.add(head(before));
    this.opened.world = world;
    this.#forget(Math.min(next, shared(before, parts)));
  }

  /** Chunks from `at` on are not the world's any more. */
  #forget(at) {
    this.#seen = Math.min(this.#seen, at);
    for (const index of [...this.chunks.keys()]) if (index >= at) this.chunks.delete(index);
    this.#tell("rewound", { at });
  }

  /** Takes a chunk; answers whether it is news. */
  #drawn(drawn) {
    const { key } = drawn;
    const { world } = this.opened;
    if (covers(world.lineage.parts, key)) {
      if (key.index < this.#seen) return false; // sent a second time
    } else {
      if (this.#left.has(key.branch)) return false; // drawn before the session went back, or elsewhere
      this.#left.add(head(world.lineage.parts));
      world.lineage = { parts: forked(world.lineage.parts, key.index, key.branch) };
      this.#forget(key.index);
    }
    this.#seen = key.index + 1;
    if (this.#seen >= this.next) {
      this.next = this.#seen;
      this.walker = drawn.walker ?? {};
    }
    this.#remember(drawn);
    this.#answer(drawn);
    return true;
  }

  #remember({ pictures, ...drawn }) {
    const { key } = drawn;
    const fresh = chunk(key, drawn.poses ?? []);
    this.chunks.set(key.index, { ...fresh, walker: drawn.walker, drawn, thumbnail: pictures[0] ?? null });
    thin(this.chunks, key.index);
    for (const recall of drawn.recalled ?? []) this.#mark(recall.key, { recalledAt: key.index, recall });
    for (const { key: missed, reason } of drawn.missed ?? []) {
      this.#mark(missed, { missedAt: key.index, missReason: reason });
    }
    for (const demoted of drawn.demoted ?? []) this.#mark(demoted, { state: "demoted" });
  }

  #mark(key, what) {
    key.index ??= 0;
    Object.assign(this.chunks.get(key.index) ?? {}, what);
  }

  /** A chunk answers its move, and those before it: they are drawn in the order in which they came. */
  #answer(drawn) {
    if (!this.#moves.has(drawn.number)) return;
    for (const [number, { resolve, reject }] of this.#moves) {
      this.#moves.delete(number);
      this.#connection.answered(number);
      if (number === drawn.number) {
        resolve(drawn);
        break;
      }
      reject(new Problem("NOT_FOUND", "It was drawn, but its pictures were gone."));
    }
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
