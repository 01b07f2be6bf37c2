// Where to walk: rooms of a seed, or a world that is remembered.

import { build, labelled, number, paragraph, select } from "./fields.js";

/** Rooms there are, of as many seeds. */
const SEEDS = 2 ** 32;

const TOURS = { R360: "once round", R180: "half round", "": "none: the model begins at once" };

/** A dialog that opens walks.
 *
 * walk  is given an OpenRequest
 */
export class Worlds {
  #dialog;
  #service;
  #walk;
  #list = build("ul", { className: "worlds-list" });
  #more = build("button", { type: "button", textContent: "More", hidden: true });
  #next = "";

  constructor(dialog, service, walk) {
    this.#dialog = dialog;
    this.#service = service;
    this.#walk = walk;
    const close = build("form", { method: "dialog" }, build("button", { textContent: "Cancel" }));
    dialog.append(
      build("h2", { id: "worlds-title", textContent: "Where do you want to walk?" }),
      this.#rooms(),
      build("h3", { textContent: "Worlds that are remembered" }),
      this.#list,
      this.#more,
      close,
    );
    this.#more.addEventListener("click", () => this.#load());
  }

  open() {
    this.#list.replaceChildren();
    this.#next = "";
    this.#load();
    this.#dialog.showModal();
  }

  #rooms() {
    const seed = number("rooms", 0, SEEDS - 1);
    seed.value = 1;
    const tour = select("tour", []);
    tour.append(...Object.entries(TOURS).map(([value, textContent]) => build("option", { value, textContent })));
    const noise = number("seed", 0, Number.MAX_SAFE_INTEGER);
    noise.value = 0;
    const any = build("button", { type: "button", textContent: "Any" });
    any.addEventListener("click", () => (seed.value = Math.floor(Math.random() * 10_000)));
    const form = build(
      "form",
      { className: "memory-form" },
      labelled("Rooms", build("span", { className: "range" }, seed, any), "every number has rooms of its own"),
      labelled("Tour", tour, "what the model is shown first, in true pictures"),
      labelled("Seed", noise, "of the model's noise: the same draws the same"),
      build("button", { className: "chief", textContent: "Walk here" }),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#go({ scene: `rooms:${seed.value}`, seed: noise.value, tour: tour.value });
    });
    return form;
  }

  async #load() {
    this.#more.hidden = true;
    try {
      const page = await this.#service.json("/v1/worlds", { page_token: this.#next || null });
      this.#next = page.nextPageToken ?? "";
      this.#list.append(...(page.worlds ?? []).map((world) => this.#item(world)));
      if (!this.#list.children.length) this.#say("None yet: what you walk now will be the first.");
    } catch (problem) {
      this.#say(problem.status === "NOT_FOUND" ? "This service does not list its worlds." : problem.message);
    }
    this.#more.hidden = !this.#next;
  }

  #item({ name, chunks = 0 }) {
    const enter = build("button", { type: "button", textContent: name });
    enter.addEventListener("click", () => this.#go({ world: name }));
    return build("li", {}, enter, build("small", { textContent: `${chunks} chunks when last counted` }));
  }

  #say(text) {
    this.#list.append(build("li", {}, paragraph(text)));
  }

  #go(request) {
    this.#dialog.close();
    this.#walk(request);
  }
}
