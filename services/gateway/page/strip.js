// Time: what was drawn, one thumbnail a chunk, to go back to and to fork from.

import { Branches } from "./branches.js";
import { Deed } from "./deed.js";
import { looksOf } from "./looks.js";
import { made, show } from "./made.js";
import { onceAFrame } from "./once.js";
import { inWords, standing } from "./remembered.js";

/** Pixels that count as standing at the end of the strip. */
const AT_END = 48;

/** A walk's chunks in time, and below them what can be done with the chosen one.
 *
 * Keys, while it has the focus: left, right, Home and End choose; Enter or Space open what can be done; Escape closes it.
 * On its element "chosen" tells `{index}`, and "walk" `{world}` where somebody wants to walk in another branch.
 */
export class Strip {
  #walk;
  #looks;
  #element;
  #list;
  #empty = made("p", { class: "empty" }, "Nothing is drawn yet.");
  #items = new Map();
  #deed;
  #branches;
  #chosen = null;
  #sight;
  #later = onceAFrame(() => this.#draw());

  constructor(element, walk) {
    this.#element = element;
    this.#walk = walk;
    this.#looks = looksOf(walk);
    element.classList.add("strip");
    element.dataset.keys = "own";
    const label = "What was drawn, a picture a chunk";
    this.#list = made("ol", { role: "listbox", "aria-orientation": "horizontal", "aria-label": label });
    this.#deed = new Deed(walk, { done: () => this.#branches.load(), closed: () => this.#items.get(this.#chosen)?.element.focus() });
    this.#branches = new Branches(walk, (world) => element.dispatchEvent(new CustomEvent("walk", { detail: { world } })));
    element.replaceChildren(this.#empty, this.#list, this.#deed.element, this.#branches.element);
    this.#sight = new IntersectionObserver((seen) => this.#seen(seen), { root: this.#list, rootMargin: "0px 200px" });
    this.#list.addEventListener("click", ({ target }) => this.#clicked(target));
    this.#list.addEventListener("keydown", (event) => this.#pressed(event));
    for (const name of ["opened", "joined", "drawn", "rewound"]) walk.addEventListener(name, () => this.#later());
    walk.addEventListener("opened", () => this.#clear(0));
    walk.addEventListener("rewound", ({ detail }) => this.#clear(detail.at));
    this.#looks.addEventListener("learned", () => this.#later());
  }

  /** Chooses a chunk, as a click on it does. */
  choose(index) {
    if (index === this.#chosen) return;
    const before = this.#items.get(this.#chosen);
    before?.element.setAttribute("aria-selected", "false");
    before?.element.setAttribute("tabindex", -1);
    const item = this.#items.get(index);
    this.#chosen = item ? index : null;
    item?.element.setAttribute("aria-selected", "true");
    this.#reachable();
    if (item) item.element.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (item) this.#element.dispatchEvent(new CustomEvent("chosen", { detail: { index } }));
    this.#deed.about(this.#chosen);
  }

  #clear(at) {
    for (const [index, { element }] of this.#items) {
      if (index < at) continue;
      element.remove();
      this.#items.delete(index);
    }
    if (this.#chosen >= at) this.choose(null);
    this.#later();
  }

  #draw() {
    const list = this.#list;
    const follows = list.scrollWidth - list.scrollLeft - list.clientWidth < AT_END && !list.contains(document.activeElement);
    for (const index of [...this.#walk.chunks.keys()].sort((a, b) => a - b)) if (!this.#items.has(index)) this.#add(index);
    const newest = this.#walk.next - 1;
    for (const [index, item] of this.#items) this.#mark(item, this.#walk.chunks.get(index), newest);
    this.#empty.hidden = this.#items.size > 0;
    list.hidden = !this.#items.size;
    this.#reachable();
    if (follows) list.scrollLeft = list.scrollWidth;
  }

  #add(index) {
    const image = made("img", { alt: "", width: 64, height: 48, draggable: "false" });
    const element = made(
      "li",
      { role: "option", tabindex: -1, "aria-selected": "false", "data-chunk": index },
      image,
      made("span", { class: "number", "aria-hidden": "true" }, `${index}`),
      made("span", { class: "sign", "aria-hidden": "true" }),
    );
    const after = [...this.#items].find(([other]) => other > index)?.[1].element ?? null; // what is looked at again may come late
    this.#list.insertBefore(element, after);
    this.#items.set(index, { element, image, shown: false, near: false, said: "" });
    this.#sight.observe(element);
  }

  #mark(item, chunk, newest) {
    const stands = standing(chunk, newest);
    const names = ["now", "missed", "demoted", "missing"].filter((name) => stands[name]).join(" ");
    const words = inWords(chunk, newest);
    if (item.said !== words) {
      item.element.className = names;
      item.element.setAttribute("aria-label", (item.said = words));
      item.element.title = words;
    }
    this.#picture(item, chunk);
  }

  /** Shows a chunk's picture once it is near what is seen of the strip. */
  #picture(item, chunk) {
    if (!item.near || item.shown) return;
    if (!chunk.thumbnail) {
      this.#looks.want(chunk.index);
      return;
    }
    item.shown = true;
    show(item.image, chunk.thumbnail);
  }

  /** What is far from what is seen holds no picture. */
  #unshow(item) {
    item.shown = false;
    item.image.removeAttribute("src");
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const index = Number(target.dataset.chunk);
      const item = this.#items.get(index);
      if (!item || item.element !== target) continue;
      item.near = isIntersecting;
      const chunk = this.#walk.chunks.get(index);
      if (!isIntersecting) this.#unshow(item);
      else if (chunk) this.#picture(item, chunk);
    }
  }

  /** One of them can be reached by Tab. */
  #reachable() {
    const index = this.#chosen ?? [...this.#items.keys()].at(-1);
    for (const [other, { element }] of this.#items) if (element.tabIndex === 0 && other !== index) element.tabIndex = -1;
    const item = this.#items.get(index);
    if (item) item.element.tabIndex = 0;
  }

  #clicked(target) {
    const item = target.closest("[data-chunk]");
    if (!item) return;
    this.choose(Number(item.dataset.chunk));
    item.focus();
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const numbers = [...this.#items.keys()].sort((a, b) => a - b);
    const at = numbers.indexOf(Number(event.target.closest("[data-chunk]")?.dataset.chunk));
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: numbers.length - 1 }[event.key];
    if (event.key === "Escape") this.choose(null);
    else if (event.key === "Enter" || event.key === " ") {
      this.choose(numbers[at]);
      this.#deed.focus();
    } else if (next === undefined) return;
    else {
      const index = numbers[Math.min(numbers.length - 1, Math.max(0, next))];
      this.choose(index);
      this.#items.get(index).element.focus();
    }
    event.preventDefault();
  }
}
