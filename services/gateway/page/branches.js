// The branches of a world: where it left others, and which others left it.

import { made } from "./made.js";

/** Pages of names that are looked through for relatives. */
const MOST_PAGES = 10;

/** The chunk from which on two lineages differ; null: from the first on. */
export function parting(one, other) {
  let begin = 0;
  for (const [place, part] of one.entries()) {
    const twin = other[place];
    if (twin?.branch !== part.branch) return place === 0 ? null : begin;
    const [end, twins] = [part, twin].map((each) => Number(each.end || Infinity));
    if (end !== twins) return Math.min(end, twins);
    begin = end;
  }
  return begin;
}

/** Lists the worlds that share chunks with a walk's own; `walk` is told the name of one to walk in. */
export class Branches {
  #walk;
  #enter;
  #own = made("p");
  #list = made("ul");
  #status = made("p", { role: "status" });

  constructor(walk, enter) {
    this.#walk = walk;
    this.#enter = enter;
    const more = made("button", { type: "button", onclick: () => this.load() }, "Look again");
    this.element = made("details", { class: "branches", ontoggle: () => this.element.open && this.load() },
      made("summary", {}, "Branches"), this.#own, this.#list, this.#status, more);
    for (const name of ["opened", "rewound"]) walk.addEventListener(name, () => this.#tell());
  }

  /** Looks them up, if they are shown. */
  async load() {
    this.#tell();
    if (!this.element.open || !this.#walk.opened) return;
    const { world } = this.#walk.opened;
    try {
      const found = await this.#worlds();
      const near = found
        .filter(({ name }) => name !== world.name)
        .map((other) => ({ ...other, from: parting(other.lineage?.parts ?? [], world.lineage.parts) }))
        .filter(({ from }) => from !== null);
      this.#list.replaceChildren(...near.map((other) => this.#item(other)));
      this.#status.textContent = near.length ? "" : "No other world shares chunks with this one.";
    } catch (problem) {
      this.#list.replaceChildren();
      this.#status.textContent = problem.status === "NOT_FOUND" ? "This service does not list its worlds." : problem.message;
    }
  }

  async #worlds() {
    const found = [];
    let token = null;
    for (let page = 0; page < MOST_PAGES && token !== ""; page += 1) {
      const answer = await this.#walk.service.json("/v1/worlds", { page_token: token });
      found.push(...(answer.worlds ?? []));
      token = answer.nextPageToken ?? "";
    }
    return found;
  }

  #item({ name, from, chunks = 0 }) {
    const where = Number.isFinite(from) ? `its own from chunk ${from} on` : "the same so far";
    const enter = made("button", { type: "button", onclick: () => this.#enter(name) }, "Walk there");
    return made("li", {}, made("strong", {}, name), made("span", {}, ` ${where}, ${chunks} chunks kept `), enter);
  }

  /** How this world came to be. */
  #tell() {
    const { opened } = this.#walk;
    if (!opened) return;
    const ends = opened.world.lineage.parts.slice(0, -1).map(({ end }) => end);
    const way = ends.length ? `, which went on on a new branch before chunk ${ends.join(" and ")}` : ", on its first branch";
    this.#own.replaceChildren("You walk in ", made("strong", {}, opened.world.name), `${way}.`);
  }
}
