// Shows a walk's pictures on a canvas, evenly, and tells which one is seen.

import { Playout } from "./playout.js";

/** Pictures that are decoded before they are due. */
const AHEAD = 4;

/** Plays what a walk draws.
 *
 * painted  the last picture shown: `{index, place, last, number}` with its chunk and its place there; null: none yet
 * tour     chunks before this number are shown at their own pace
 *
 * Event "painted" when another one is shown, `detail` as `painted`.
 */
export class Player extends EventTarget {
  #canvas;
  #context;
  #playout = new Playout(10, 3);
  #past = 0;
  #paused = false;
  #awake = false;

  constructor(canvas, walk) {
    super();
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.painted = null;
    this.tour = 0;
    walk.addEventListener("opened", ({ detail }) => this.#begin(detail));
    walk.addEventListener("drawn", ({ detail }) => this.#take(detail));
    walk.addEventListener("rewound", ({ detail }) => this.#rewind(detail.at));
  }

  /** Seconds until all that was drawn is shown. */
  get remaining() {
    return this.#playout.remaining(performance.now());
  }

  /** A key was pressed for chunk `index`, which takes `seconds` to be drawn: what comes before it goes by faster. */
  hurry(index, seconds) {
    this.#playout.hurry(index, seconds);
  }

  /** Whether the picture stands still. */
  get paused() {
    return this.#paused;
  }

  set paused(paused) {
    this.#paused = paused;
    this.#wake();
  }

  #begin(opened) {
    this.#playout = new Playout(opened.picturesPerSecond ?? 10, opened.pictures ?? 1);
    this.#past = opened.next ?? 0;
    this.painted = null;
    if (this.#canvas.width !== opened.width || this.#canvas.height !== opened.height) {
      Object.assign(this.#canvas, { width: opened.width, height: opened.height });
    }
  }

  #rewind(at) {
    this.#playout.drop(({ index }) => index >= at);
    this.#playout.hurry(at);
  }

  #take({ key: { index }, number, pictures }) {
    const last = pictures.length - 1;
    const calm = index < this.tour;
    const entries = pictures.map((blob, place) => ({ index, place, last, number, blob, calm, bitmap: null }));
    if (index < this.#past) {
      this.#playout.drop(); // what was drawn before this page came is not played again: the last of it is shown
      entries.splice(0, last);
    }
    this.#playout.put(...entries);
    this.#wake();
  }

  /** Looks at every frame of the screen, as long as something waits to be shown. */
  #wake() {
    if (this.#awake || this.#paused || !this.#playout.length) return;
    this.#awake = true;
    requestAnimationFrame((now) => this.#tick(now));
  }

  #tick(now) {
    for (const entry of this.#playout.first(AHEAD)) entry.bitmap ??= this.#decode(entry);
    let shown = null;
    while (!this.#paused) {
      const entry = this.#playout.take(now, ({ bitmap }) => !(bitmap instanceof Promise) && bitmap !== null);
      if (entry === null) break;
      shown?.bitmap.close?.();
      shown = entry;
    }
    if (shown !== null) this.#paint(shown);
    this.#awake = false;
    this.#wake();
  }

  #decode(entry) {
    return createImageBitmap(entry.blob).then(
      (bitmap) => (entry.bitmap = bitmap),
      () => this.#playout.drop((other) => other === entry), // not a picture: the next one is
    );
  }

  #paint({ bitmap, index, place, last, number }) {
    this.#context.drawImage(bitmap, 0, 0, this.#canvas.width, this.#canvas.height);
    bitmap.close();
    this.painted = { index, place, last, number };
    this.dispatchEvent(new CustomEvent("painted", { detail: this.painted }));
  }
}
