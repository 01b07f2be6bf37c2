// What is told of one chunk: its picture, how it stands, and why it was recalled.

import { made, show } from "./made.js";
import { inWords, reasons } from "./remembered.js";
import { chunks } from "./words.js";

export class Detail {
  #image = made("img", { alt: "", width: 96, height: 72, hidden: true });
  #words = made("p");
  #reasons = made("dl");
  #shown = null;

  constructor() {
    const told = made("div", { class: "told" }, this.#words, this.#reasons);
    this.element = made("div", { class: "map-detail" }, this.#image, told);
  }

  /** A chunk; null: what was recalled for the newest. */
  show(chunk, newest, last) {
    const recalled = (last?.drawn?.recalled ?? []).map(({ key }) => key.index).sort((a, b) => a - b);
    const now = recalled.length ? `The newest picture was drawn with ${chunks(recalled)} recalled.` : "Nothing is recalled just now.";
    this.#words.textContent = chunk === null ? now : `${inWords(chunk, newest)}.`;
    const told = chunk === null ? [] : reasons(chunk);
    this.#reasons.replaceChildren(...told.map(([name, value]) => made("div", {}, made("dt", {}, name), made("dd", {}, value))));
    this.#picture(chunk?.thumbnail ?? null);
  }

  #picture(blob) {
    this.#image.hidden = blob === null;
    if (blob === null || blob === this.#shown) return;
    this.#shown = blob;
    show(this.#image, blob);
  }
}
