// When each picture is shown: a queue and a clock, without a screen.

/** How many times faster than meant pictures may go by. */
const FASTEST = 3;
/** Chunks that may wait without hurry: a service draws one ahead of the one that is shown. */
const CHUNKS = 2;

/** Pictures that wait to be shown, each with the `index` of its chunk.
 *
 * Shown evenly, `perSecond`. Where more than two chunks wait, or one that a key was pressed for comes or is there, time
 * goes by faster, so that none is left out and the walker is soon where the keys say. What is marked `calm` is hurried for
 * keys alone.
 */
export class Playout {
  #waiting = [];
  #due = 0;
  #urgent = 0;
  #haste = 1;

  constructor(perSecond, perChunk) {
    this.perSecond = perSecond;
    this.perChunk = perChunk;
  }

  get length() {
    return this.#waiting.length;
  }

  /** The first of those that wait. */
  first(count) {
    return this.#waiting.slice(0, count);
  }

  /** Seconds until all is shown, from `now` on, if nothing more comes. */
  remaining(now) {
    const last = Math.max(0, this.#due - now) / 1000;
    return this.#waiting.length ? last + this.#waiting.length / (this.perSecond * this.#rate()) : last;
  }

  /** Chunk `index` is to be seen soon, and comes in about so many seconds: by then what is before it was shown. */
  hurry(index, seconds = 0) {
    this.#urgent = index;
    const before = this.#waiting.filter((picture) => picture.index < index).length;
    this.#haste = before ? fast(before / (this.perSecond * seconds)) : 1;
  }

  put(...pictures) {
    this.#waiting.push(...pictures);
  }

  /** Leaves out those for which `unwanted` holds. */
  drop(unwanted = () => true) {
    this.#waiting = this.#waiting.filter((picture) => !unwanted(picture));
  }

  /** The picture that is due at `now` (milliseconds), null: none is, or it is not `ready`. */
  take(now, ready = () => true) {
    if (!this.#waiting.length || now < this.#due || !ready(this.#waiting[0])) return null;
    const interval = 1000 / (this.perSecond * this.#rate());
    // After a gap the next is not owed to the past; a clock that ticks unevenly is made good for.
    this.#due = now - this.#due > interval ? now + interval : this.#due + interval;
    return this.#waiting.shift();
  }

  #rate() {
    const [first] = this.#waiting;
    const haste = first.calm ? 1 : fast(this.#waiting.length / (CHUNKS * this.perChunk));
    if (first.index >= this.#urgent) return haste;
    return this.#waiting.at(-1).index >= this.#urgent ? FASTEST : Math.max(haste, this.#haste);
  }
}

function fast(rate) {
  return Math.min(FASTEST, Math.max(1, rate));
}
