// One walk's picture, and below it what it was drawn from and how true it is.

import { Latency } from "./latency.js";
import { made, show } from "./made.js";
import { Player } from "./player.js";
import { tourChunks } from "./tour.js";
import { MODES, chunks, decibels, place, recalledFor } from "./words.js";

/** Thumbnails that are held. */
const SHOWN = 64;

/** Shows a walk; made of the page's `pane-template`.
 *
 * element   to be put somewhere
 * request   OpenRequest of the walk, as far as this page opened it
 * likeness  of places that are seen again to the truth so far, dB; null: nobody knows yet
 */
export class Pane {
  #parts;
  #shown = new Map();
  #index = null;

  constructor(walk) {
    this.walk = walk;
    this.request = {};
    this.likeness = null;
    this.element = document.getElementById("pane-template").content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    this.#parts = {
      canvas: find("canvas"), badge: find(".badge"), name: find(".name"), likeness: find(".likeness"),
      output: find("output"), words: find(".recall p"), list: find(".recall ul"),
    };
    this.player = new Player(this.#parts.canvas, walk);
    this.latency = new Latency(walk, this.player);
    this.player.addEventListener("painted", ({ detail }) => this.#painted(detail));
    this.latency.addEventListener("due", ({ detail }) => this.player.hurry(detail.chunk, this.#takes(detail.chunk)));
    walk.addEventListener("rewound", ({ detail }) => this.#rewound(detail.at));
    for (const name of ["opened", "joined", "applied"]) walk.addEventListener(name, () => this.#named());
    walk.addEventListener("opened", () => this.#opened());
    walk.addEventListener("judged", ({ detail }) => this.#judged(detail));
  }

  /** Begins a walk, in place of the one that is shown. */
  open(request) {
    this.request = request;
    this.walk.open(request);
  }

  /** Takes up a walk; `request` is what it was opened with, where that is known. */
  join(session, options, request = {}) {
    this.request = request;
    this.walk.join(session, options);
  }

  /** MemoryMode of the walk. */
  get mode() {
    return this.walk.memory?.mode ?? this.request.mode ?? "MEMORY_MODE_WORLDKV";
  }

  /** Whether a chunk shows true pictures. */
  tours(index) {
    return index < this.player.tour;
  }

  /** Says by how much it is better than another pane; null: not at all. */
  lead(difference) {
    this.#parts.output.dataset.lead = difference === null ? "" : `+${decibels(difference)}`;
  }

  /** Seconds that a chunk will take to be drawn: as many as the one before it. */
  #takes(index) {
    return this.walk.chunks.get(index - 1)?.drawn?.seconds;
  }

  #opened() {
    this.player.tour = tourChunks(this.request.tour, this.walk.opened.frames ?? 1);
    this.likeness = null;
    this.#parts.likeness.hidden = !this.walk.opened.hasTruth;
    this.#parts.output.textContent = "–";
    this.lead(null);
    this.#forget();
  }

  #named() {
    const { name, means } = MODES[this.mode];
    this.#parts.name.replaceChildren(made("strong", {}, name), ` ${means}`);
  }

  #judged({ meanRevisitPsnr }) {
    if (!meanRevisitPsnr) return;
    this.likeness = meanRevisitPsnr;
    this.#parts.output.textContent = decibels(meanRevisitPsnr);
  }

  #painted({ index }) {
    const chunk = this.walk.chunks.get(index);
    if (!chunk || index === this.#index) return;
    this.#index = index;
    const toured = this.tours(index);
    const recalled = toured ? [] : recalledFor(chunk);
    this.#parts.badge.hidden = false;
    this.#parts.badge.textContent = toured ? "True picture" : `Drawn · ${index}`;
    this.#parts.badge.classList.toggle("true", toured);
    this.element.classList.toggle("recalls", recalled.length > 0);
    this.#recalls(toured, recalled);
    const origin = toured ? "a true picture" : "drawn by the model";
    const memory = recalled.length ? ` Recalled: ${chunks(recalled)}.` : "";
    const camera = chunk.poses.at(-1);
    this.#parts.canvas.ariaLabel = `Chunk ${index}, ${origin}${camera ? `, ${place(camera)}` : ""}.${memory}`;
  }

  #recalls(toured, recalled) {
    const nothing = toured || this.mode !== "MEMORY_MODE_WORLDKV" ? "" : "Nothing had to be recalled";
    this.#parts.words.textContent = recalled.length ? "Recalled for this picture" : nothing;
    const items = recalled.map((index) => this.#item(index));
    this.#parts.list.replaceChildren(...items);
  }

  /** A chunk's thumbnail; made once, as long as it is recalled often. */
  #item(index) {
    const known = this.#shown.get(index);
    if (known) return known;
    const blob = this.walk.chunks.get(index)?.thumbnail ?? null;
    const { width, height } = this.walk.opened;
    const image = blob && made("img", { alt: "", width, height });
    const item = made("li", {}, image, `${index}`);
    if (!image) return item;
    show(image, blob);
    if (this.#shown.size >= SHOWN) this.#shown.clear();
    this.#shown.set(index, item);
    return item;
  }

  /** Chunks from `at` on are others from now on. */
  #rewound(at) {
    this.#index = null;
    for (const index of [...this.#shown.keys()]) if (index >= at) this.#shown.delete(index);
  }

  #forget() {
    this.#index = null;
    this.#shown.clear();
    this.#parts.list.replaceChildren();
    this.#parts.words.textContent = "";
  }
}
