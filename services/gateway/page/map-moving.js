// The part of the world that a map shows: fitted, followed, zoomed and dragged.

import { dragged, fitted, toScreen, zoomed } from "./geometry.js";
import { made } from "./made.js";

/** Pixels a unit. */
const LIMITS = [4, 200];
/** Units around what is shown of a walk, so that its cones have room. */
const MARGIN = 2.6;
/** Share of the map, from its rim, that a followed walker does not enter. */
const RIM = 0.25;
const STEP = 1.4;
/** Pixels that a key moves the map by, and that a pointer has to move before it drags. */
const KEY_PIXELS = 60;
const LEAST_DRAG = 4;
/** How much a pixel of a wheel zooms. */
const WHEEL = 0.0015;

/** The view of a map, and what changes it.
 *
 * places  gives what there is to be shown
 * walker  gives `{x, z}` of who is followed
 * moved   is told of every change that a person makes
 */
export class Moving {
  #svg;
  #hooks;
  #follows;
  #following = true;
  #whole = true;

  constructor(svg, hooks) {
    this.#svg = svg;
    this.#hooks = hooks;
    this.view = { x: 0, z: 0, scale: 40, width: 300, height: 220 };
    const button = (text, label, key, onclick) =>
      made("button", { type: "button", "aria-label": label, title: label, "aria-keyshortcuts": key, onclick }, text);
    this.#follows = button("Follow", "Follow the walker", "f", () => this.#follow(!this.#following));
    this.tools = made(
      "div",
      { class: "map-tools", role: "group", "aria-label": "The map" },
      button("+", "Zoom in", "+", () => this.#zoom(STEP)),
      button("−", "Zoom out", "-", () => this.#zoom(1 / STEP)),
      button("All", "Show all", "0", () => this.#fit()),
      this.#follows,
    );
    this.#follows.setAttribute("aria-pressed", true);
    new ResizeObserver(() => this.#sized()).observe(svg);
    svg.addEventListener("wheel", (event) => this.#wheeled(event), { passive: false });
    this.#drags();
  }

  /** Another walk: all of it is shown. */
  begin() {
    this.#whole = this.#following = true;
    this.#follows.setAttribute("aria-pressed", true);
  }

  /** Keeps the walker in sight, if that is wanted. */
  follow() {
    if (!this.#following) return;
    if (this.#whole) this.view = fitted(this.view, this.#hooks.places(), MARGIN, LIMITS);
    const { x, z } = this.#hooks.walker();
    const [px, py] = toScreen(this.view, [x, z]);
    const { width, height } = this.view;
    const beyond = (value, size) => value - Math.min(size * (1 - RIM), Math.max(size * RIM, value));
    this.view = dragged(this.view, -beyond(px, width), -beyond(py, height));
  }

  /** Takes a key; answers whether it was one for the view. */
  pressed(event) {
    const { key, shiftKey } = event;
    const [dx, dy] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key] ?? [0, 0];
    if (shiftKey && (dx || dy)) this.#drag(dx * KEY_PIXELS, dy * KEY_PIXELS);
    else if (key === "+" || key === "=") this.#zoom(STEP);
    else if (key === "-") this.#zoom(1 / STEP);
    else if (key === "0") this.#fit();
    else if (key === "f" || key === "F") this.#follow(!this.#following);
    else return false;
    event.preventDefault();
    return true;
  }

  #sized() {
    const { width, height } = this.#svg.getBoundingClientRect();
    if (!width || !height) return;
    this.view = { ...this.view, width, height };
    this.follow();
    this.#hooks.moved();
  }

  #fit() {
    this.#whole = true;
    this.view = fitted(this.view, this.#hooks.places(), MARGIN, LIMITS);
    this.#hooks.moved();
  }

  #follow(following) {
    this.#following = following;
    this.#follows.setAttribute("aria-pressed", following);
    this.follow();
    this.#hooks.moved();
  }

  #zoom(factor, anchor = [this.view.width / 2, this.view.height / 2]) {
    this.#whole = false;
    this.view = zoomed(this.view, factor, anchor, LIMITS);
    this.#hooks.moved();
  }

  #drag(dx, dy) {
    this.#follow(false);
    this.view = dragged(this.view, dx, dy);
    this.#hooks.moved();
  }

  #wheeled(event) {
    if (!event.ctrlKey && document.activeElement !== this.#svg) return; // the page scrolls
    event.preventDefault();
    const { left, top } = this.#svg.getBoundingClientRect();
    this.#zoom(Math.exp(-event.deltaY * WHEEL), [event.clientX - left, event.clientY - top]);
  }

  #drags() {
    let last = null;
    this.#svg.addEventListener("pointerdown", (event) => (last = event.button === 0 ? event : null));
    this.#svg.addEventListener("pointermove", (event) => {
      if (last?.pointerId !== event.pointerId) return;
      const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
      const held = this.#svg.hasPointerCapture(event.pointerId);
      if (!held && Math.hypot(dx, dy) < LEAST_DRAG) return;
      this.#svg.setPointerCapture(event.pointerId);
      last = event;
      this.#drag(dx, dy);
    });
    for (const end of ["pointerup", "pointercancel"]) this.#svg.addEventListener(end, () => (last = null));
  }
}
