// What happens, for who does not see it: one sentence at a time, the newest, and not too often.

const BETWEEN = 2_000;

export class Live {
  #element;
  #next = null;
  #timer = null;

  constructor(element) {
    this.#element = element;
  }

  say(text) {
    this.#next = text;
    if (this.#timer === null) this.#speak();
  }

  #speak() {
    this.#timer = null;
    if (this.#next === null) return;
    this.#element.textContent = this.#next;
    this.#next = null;
    this.#timer = setTimeout(() => this.#speak(), BETWEEN);
  }
}
