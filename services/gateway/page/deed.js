// What can be done with a chunk: to go back to it, or to give the world up to it a name.

import { made } from "./made.js";

/** Deeds of a walk's chosen chunk.
 *
 * done    is told that there is another branch
 * closed  that nothing is to be done
 */
export class Deed {
  #walk;
  #hooks;
  #index = null;
  #panel;
  #title = made("p", { class: "what" });
  #back = made("button", { type: "button", class: "chief", onclick: () => this.#goBack() }, "Go back here");
  #name = made("input", { type: "text", name: "world", maxlength: 128, autocomplete: "off", spellcheck: "false", placeholder: "a name is chosen" });
  #status = made("p", { role: "status" });

  constructor(walk, hooks) {
    this.#walk = walk;
    this.#hooks = hooks;
    const fork = made("form", { onsubmit: (event) => this.#fork(event) },
      made("label", {}, "Name ", this.#name), made("button", {}, "Fork from here"));
    const close = made("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => this.#close() }, "×");
    this.#panel = made("div", { class: "deed-row", hidden: true }, this.#title, this.#back, close, fork);
    this.element = made("div", { class: "deed", onkeydown: (event) => event.key === "Escape" && this.#close() }, this.#panel, this.#status);
    for (const name of ["up", "down", "ended", "opened", "drawn"]) walk.addEventListener(name, () => this.#lock());
  }

  /** From now on about this chunk; null: about none. */
  about(index) {
    this.#index = index;
    this.#panel.hidden = index === null;
    this.#title.textContent = index === null ? "" : `After chunk ${index}`;
    if (index !== null) this.#status.textContent = "";
    this.#lock();
  }

  focus() {
    this.#back.focus();
  }

  #close() {
    this.#panel.hidden = true;
    this.#hooks.closed();
  }

  #lock() {
    const { up, watching, next, safe } = this.#walk;
    this.#back.disabled = !up || watching || this.#index + 1 >= next;
    for (const each of this.#panel.querySelectorAll("form button")) each.disabled = !up || watching || this.#index >= safe;
  }

  async #goBack() {
    const at = this.#index + 1;
    await this.#do(this.#walk.rewind(at), () => `You stand after chunk ${at - 1} again, on a new branch.`);
    this.#panel.hidden = true;
  }

  async #fork(event) {
    event.preventDefault();
    await this.#do(this.#walk.fork(this.#name.value.trim(), this.#index + 1), ({ world }) => `“${world.name}” ends with chunk ${this.#index}. You walk on here.`);
    this.#name.value = "";
  }

  async #do(asked, words) {
    try {
      this.#say("well", words(await asked));
      this.#hooks.done();
    } catch (problem) {
      this.#say("refused", problem.words || problem.message);
    }
  }

  #say(state, text) {
    this.#status.dataset.state = state;
    this.#status.textContent = text;
  }
}
