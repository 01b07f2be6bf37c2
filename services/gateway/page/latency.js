// From a key to the picture that shows it.

/** Of so many of the newest the median is told. */
const KEPT = 15;

/** Milliseconds from what was pressed to the first picture that it had an effect on.
 *
 * last, median  null: none was measured yet
 *
 * Events
 *   "due"       `{chunk}`: the first that something has an effect on is known
 *   "measured"
 */
export class Latency extends EventTarget {
  #asked = new Map();
  #due = [];
  #kept = [];

  constructor(walk, player) {
    super();
    this.last = null;
    walk.addEventListener("applied", ({ detail }) => this.#applies(detail.number, detail.chunk ?? 0));
    walk.addEventListener("drawn", ({ detail }) => this.#applies(detail.number, detail.key.index));
    walk.addEventListener("opened", () => this.#clear());
    walk.addEventListener("rewound", () => this.#clear());
    player.addEventListener("painted", ({ detail }) => this.#painted(detail.index));
  }

  get median() {
    if (!this.#kept.length) return null;
    return [...this.#kept].sort((a, b) => a - b)[this.#kept.length >> 1];
  }

  /** What was sent with this number was asked for at `since`, a time stamp of an event. */
  asked(number, since) {
    this.#asked.set(number, since);
  }

  /** Since when something is waited for that was asked for and had no effect yet; null: nothing is. */
  get waiting() {
    return [...this.#asked.values()].at(-1) ?? null;
  }

  #applies(number, chunk) {
    if (!this.#asked.has(number)) return;
    this.#due.push({ since: this.#asked.get(number), chunk });
    this.#asked.delete(number);
    this.dispatchEvent(new CustomEvent("due", { detail: { chunk } }));
  }

  #painted(index) {
    const shown = this.#due.filter(({ chunk }) => chunk <= index);
    if (!shown.length) return;
    this.#due = this.#due.filter(({ chunk }) => chunk > index);
    this.last = performance.now() - shown.at(-1).since;
    this.#kept = [...this.#kept, this.last].slice(-KEPT);
    this.dispatchEvent(new Event("measured"));
  }

  #clear() {
    this.#asked.clear();
    this.#due = [];
  }
}
