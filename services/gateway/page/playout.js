// When each picture is shown: a queue and a clock, without a screen.

/** How many times faster than meant pictures may go by, to catch up with who walks. */
const FASTEST = 3;

/** Pictures that wait to be shown.
 *
 * Shown evenly, `perSecond`. If more wait than a chunk has, time goes by faster, so that none is left out and the walker
 * is soon where the keys say; what is marked `calm` is not hurried unless something that is not waits behind it.
 */
export class Playout {
  #waiting = [];
  #due = 0;

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
    const behind = this.#waiting.length;
    if (behind <= this.perChunk || this.#waiting[behind - 1].calm) return 1;
    return Math.min(FASTEST, behind / this.perChunk);
  }
}
