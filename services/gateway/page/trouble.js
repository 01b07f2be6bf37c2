// Says over the picture why nothing comes, and offers ways on.

import { made } from "./made.js";
import { WAYS, told } from "./problems.js";

/** A connection that is back sooner is no trouble, milliseconds. */
const PATIENCE = 700;

/** Shows a walk's problem, and in a word how the connection is.
 *
 * world  gives the name of the world that one might go back to, null: none is known
 * ways   functions by the names of `WAYS`
 */
export class Trouble {
  #element;
  #chip;
  #walk;
  #world;
  #ways;
  #timer = null;
  #aside = false; // what is shown is not of the walk's connection, and lasts until it is hidden

  constructor(element, chip, walk, { world, ...ways }) {
    this.#element = element;
    this.#chip = chip;
    this.#walk = walk;
    this.#world = world;
    this.#ways = ways;
    for (const well of ["up", "opened"]) walk.addEventListener(well, () => this.#well());
    walk.addEventListener("down", ({ detail }) => this.#passing(detail));
    walk.addEventListener("ended", ({ detail }) => this.#tell(detail));
  }

  #well() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (!this.#aside) this.#element.hidden = true;
    this.#state("up", this.#walk.watching ? "Looking on" : "Connected");
  }

  #passing(problem) {
    this.#state("down", "Reconnecting …");
    if (!this.#element.hidden) this.#tell(problem);
    else this.#timer ??= setTimeout(() => this.#tell(problem), PATIENCE);
  }

  /** Says what is wrong besides the connection, until it is told to hide it. */
  show(problem) {
    this.#tell(problem, true);
  }

  #tell(problem, aside = false) {
    this.#aside = aside;
    clearTimeout(this.#timer);
    this.#timer = null;
    const { title, meaning, ways } = told(problem, { world: this.#world(), joined: this.#walk.opened !== null });
    if (!this.#walk.up) this.#state("down", problem.passing ? "Reconnecting …" : "Not connected");
    const [head, means, words, buttons] = this.#element.children;
    head.textContent = title;
    means.textContent = meaning;
    words.textContent = problem.words;
    const same = [...buttons.children].map(({ dataset }) => dataset.way).join() === ways.join();
    // Who is about to press one keeps the focus.
    if (!same) buttons.replaceChildren(...ways.map((way) => this.#button(way)));
    this.#element.hidden = false;
  }

  /** Says no more, until something else is wrong. */
  hide() {
    this.#aside = false;
    this.#element.hidden = true;
  }

  #button(way) {
    return made("button", { type: "button", "data-way": way, onclick: () => this.#ways[way]() }, WAYS[way]);
  }

  #state(state, text) {
    this.#chip.dataset.state = state;
    if (this.#chip.textContent !== text) this.#chip.textContent = text;
  }
}
