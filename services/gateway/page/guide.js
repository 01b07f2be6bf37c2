// One sentence that says what is going on: what one sees in the first ten seconds, and what to do next.

import { chunks, recalledFor } from "./words.js";

const SAID = {
  wait: "A model will draw a world for you to walk through.",
  tour: "First a look round, in true pictures: the model sees these rooms once.",
  turn: "Now it is you who walks, and the model that draws. Hold ← or → and turn right round.",
  touch: "Now it is you who walks, and the model that draws. Drag the picture to turn right round.",
  new: "The model draws what you see, as you go.",
  recall: "You have been here. WorldKV put",
  window: "It knows its newest pictures only: what lies behind you, it has to make up.",
  full: "It keeps every picture before its eyes: that is exact, and ever slower.",
  paused: "Paused. Each key draws one chunk of pictures.",
  watch: "Somebody else walks here, and you look on.",
};

/** Keeps the sentence up with the picture; `live` is told what changes. */
export class Guide {
  #element;
  #live;
  #pane;
  #said = "";

  constructor(element, live, pane, driver) {
    this.#element = element;
    this.#live = live;
    this.#pane = pane;
    this.driver = driver;
    pane.player.addEventListener("painted", ({ detail }) => detail.place === detail.last && this.show());
    pane.walk.addEventListener("opened", () => this.show());
    pane.walk.addEventListener("joined", () => this.show());
    driver.addEventListener("changed", () => this.show());
  }

  show() {
    const text = this.#text();
    if (text === this.#said) return;
    const recalls = text.startsWith(SAID.recall);
    if (!recalls || !this.#said.startsWith(SAID.recall)) this.#live.say(text); // not every chunk that is recalled
    this.#said = text;
    this.#element.textContent = text;
    this.#element.classList.toggle("recalls", recalls);
  }

  #text() {
    const { walk, player } = this.#pane;
    if (walk.watching) return SAID.watch;
    if (this.driver.paused) return SAID.paused;
    if (player.painted === null) return walk.opened?.next ? SAID.turn : SAID.wait;
    const { index } = player.painted;
    if (index === player.tour - 1 && index === walk.next - 1 && player.painted.place === player.painted.last) {
      return matchMedia("(pointer: coarse)").matches ? SAID.touch : SAID.turn;
    }
    if (this.#pane.tours(index)) return SAID.tour;
    const recalled = recalledFor(walk.chunks.get(index));
    if (recalled.length) return `${SAID.recall} ${chunks(recalled)} back before the model's eyes.`;
    return { MEMORY_MODE_WINDOW: SAID.window, MEMORY_MODE_FULL: SAID.full }[this.#pane.mode] ?? SAID.new;
  }
}
