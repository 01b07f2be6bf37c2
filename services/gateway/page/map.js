// The walk from above: where it went, what each chunk saw, and which of it is put back before the model's eyes.

import * as geometry from "./geometry.js";
import { looksOf } from "./looks.js";
import { drawn, made, show } from "./made.js";
import { Detail } from "./map-detail.js";
import { Moving } from "./map-moving.js";
import { onceAFrame } from "./once.js";
import { inWords, standing } from "./remembered.js";

/** Radians that the lens sees from left to right, where the service does not say it. */
const FIELD = (65 * Math.PI) / 180;
/** Units that a cone is drawn long: less than a view reaches, or a map of a room would be one blot. */
const REACH = 1.6;
const LIT_REACH = 2.2;
/** Units between two corners of the trail: standing still leaves none. */
const TRAIL_STEP = 0.05;
/** Pixels that the walker's own view is drawn long. */
const SIGHT = 44;
/** Pixels of a thumbnail on the map. */
const PICTURE = { width: 56, height: 42 };

/** A map of one walk.
 *
 * Keys, while it has the focus: left and right choose a chunk, Home and End the first and last; plus and minus zoom,
 * arrows with shift move the map, 0 shows all, F follows. It tells by "chosen" events on its element, `{index}`.
 */
export class MapView {
  #walk;
  #looks;
  #element;
  #detail = new Detail();
  #moving;
  #layers = {};
  #cones = new Map();
  #trail = [];
  #chosen = null;
  #pointed = null;
  #later = onceAFrame(() => this.#draw());

  constructor(element, walk) {
    this.#element = element;
    this.#walk = walk;
    this.#looks = looksOf(walk);
    element.classList.add("map");
    this.#build();
    for (const name of ["opened", "joined", "rewound", "drawn", "judged"]) walk.addEventListener(name, () => this.#later());
    walk.addEventListener("opened", () => this.#clear());
    walk.addEventListener("rewound", ({ detail }) => this.#clear(detail.at));
    this.#looks.addEventListener("learned", () => this.#later());
  }

  get #newest() {
    return this.#walk.next - 1;
  }

  #build() {
    const layer = (name, attributes = {}) => (this.#layers[name] = drawn("g", { class: name, ...attributes }));
    const hidden = { "aria-hidden": "true" };
    const world = layer("world");
    world.append(layer("grid", hidden), layer("cones"), layer("trail", hidden), layer("lit", hidden));
    const svg = (this.svg = drawn(
      "svg",
      { role: "listbox", tabindex: 0, "aria-label": "Chunks on the map", "data-keys": "own", "aria-orientation": "horizontal" },
      world,
      layer("marks", hidden),
      layer("pictures", hidden),
      layer("camera", hidden),
    ));
    svg.id = `${this.#element.id || "map"}-chunks`;
    this.#moving = new Moving(svg, { places: () => this.#places(), walker: () => this.#standing(), moved: () => this.#place() });
    this.#element.replaceChildren(
      svg,
      made("div", { class: "map-below" }, legend(), this.#moving.tools),
      this.#detail.element,
    );
    svg.addEventListener("pointermove", ({ target }) => this.#point(target));
    svg.addEventListener("pointerleave", () => this.#point(null));
    svg.addEventListener("click", ({ target }) => this.choose(numberOf(target)));
    svg.addEventListener("keydown", (event) => this.#pressed(event));
  }

  #clear(at = 0) {
    for (const [index, cone] of this.#cones) {
      if (index < at) continue;
      cone.element.remove();
      this.#cones.delete(index);
    }
    if (at === 0) this.#moving.begin();
    this.#trail = [];
    this.#pointed = null;
    if (this.#chosen >= at) this.choose(null);
    this.#later();
  }

  #draw() {
    for (const chunk of this.#walk.chunks.values()) if (chunk.poses.length) this.#cone(chunk);
    this.#drawTrail();
    this.#moving.follow();
    this.#place();
    this.#tell();
  }

  /** A chunk's cone, made once; what memory has to do with it is looked at each time. */
  #cone(chunk) {
    const known = this.#cones.get(chunk.index) ?? this.#newCone(chunk);
    const stands = standing(chunk, this.#newest);
    const classes = ["cone", chunk.state, stands.now && "now", stands.lit && "lit", stands.missed && "missed"];
    const named = classes.filter(Boolean).join(" ");
    known.stands = stands;
    if (known.named !== named) {
      known.element.setAttribute("class", (known.named = named));
    }
    return known;
  }

  #newCone({ index, poses }) {
    const seen = geometry.sector(poses, FIELD);
    const shape = geometry.outline(geometry.corners(seen, REACH));
    const element = drawn("path", {
      id: `${this.svg.id}-${index}`, d: shape, role: "option", "data-chunk": index, "aria-selected": "false",
      "aria-label": `Chunk ${index}`,
    });
    this.#layers.cones.append(element);
    const made = { element, seen, named: "" };
    this.#cones.set(index, made);
    return made;
  }

  #drawTrail() {
    const chunks = [...this.#walk.chunks.values()].filter(({ poses }) => poses.length).sort((a, b) => a.index - b.index);
    const trail = [];
    for (const { poses } of chunks) {
      for (const camera of poses) {
        const [x, z] = geometry.place(camera);
        const last = trail.at(-1);
        if (!last || Math.hypot(x - last[0], z - last[1]) > TRAIL_STEP) trail.push([x, z]);
      }
    }
    this.#trail = trail;
    this.#layers.trail.replaceChildren(drawn("path", { d: geometry.outline(trail.length ? trail : [[0, 0]]).replace("Z", "") }));
  }

  /** Puts everything where the view of the map has it. */
  #place() {
    const { view } = this.#moving;
    const [x, y] = geometry.toScreen(view, [0, 0]);
    this.#layers.world.setAttribute("transform", `translate(${x} ${y}) scale(${view.scale} ${-view.scale})`);
    this.#layers.grid.replaceChildren(grid(view));
    this.#drawLit();
    this.#drawMarks(view);
    this.#drawPictures(view);
    this.#drawCamera(view);
  }

  /** Recalled chunks, over all others, the brighter the newer. */
  #drawLit() {
    const lit = [...this.#cones].filter(([, { stands }]) => stands.lit > 0).sort(([, a], [, b]) => a.stands.lit - b.stands.lit);
    this.#layers.lit.replaceChildren(
      ...lit.map(([index, { seen, stands }]) => {
        const shape = geometry.outline(geometry.corners(seen, LIT_REACH));
        const element = drawn("path", { d: shape, "data-chunk": index, class: stands.now ? "now" : "fading" });
        element.style.setProperty("--lit", stands.lit.toFixed(3));
        return element;
      }),
    );
  }

  /** Signs besides colours: a cross for what was missed, a ring for what is chosen. */
  #drawMarks(view) {
    const marks = [];
    for (const [index, { seen, stands }] of this.#cones) {
      if (!stands.missed && !stands.demoted && !stands.missing && index !== this.#chosen) continue;
      const [x, y] = geometry.toScreen(view, geometry.summit(seen, REACH * 0.72));
      const sign = stands.missed || stands.missing ? "M-4-4L4 4M4-4L-4 4" : stands.demoted ? "M0-4.5L4.5 0L0 4.5L-4.5 0Z" : "";
      const kind = stands.missed || stands.missing ? "missed" : "demoted";
      if (sign) marks.push(drawn("path", { d: sign, class: kind, transform: `translate(${x} ${y})` }));
    }
    this.#layers.marks.replaceChildren(...marks);
  }

  /** What the recalled chunks showed, where they looked; and what is pointed at. */
  #drawPictures(view) {
    const shown = [...this.#cones].filter(([index, { stands }]) => stands.now || index === this.#pointed || index === this.#chosen);
    const kept = new Map([...this.#layers.pictures.children].map((element) => [Number(element.dataset.chunk), element]));
    const taken = [];
    const pictures = shown.map(([index, { seen }]) => {
      const { thumbnail } = this.#walk.chunks.get(index) ?? {};
      if (!thumbnail) this.#looks.want(index);
      const element = kept.get(index) ?? picture(index);
      element.show(thumbnail);
      element.classList.toggle("now", this.#cones.get(index).stands.now);
      const [x, y] = beside(view, geometry.toScreen(view, geometry.summit(seen, LIT_REACH)), taken);
      element.setAttribute("transform", `translate(${x} ${y})`);
      return element;
    });
    this.#layers.pictures.replaceChildren(...pictures);
  }

  #drawCamera(view) {
    const stands = this.#standing();
    if (!this.#walk.opened) return this.#layers.camera.replaceChildren();
    const [x, y] = geometry.toScreen(view, [stands.x, stands.z]);
    const half = FIELD / 2;
    const edge = (angle, reach) => `${reach * Math.sin(angle)} ${-reach * Math.cos(angle)}`;
    this.#layers.camera.replaceChildren(
      drawn("path", {
        class: "sight", transform: `translate(${x} ${y}) rotate(${(stands.yaw * 180) / Math.PI})`,
        d: `M${edge(-half, SIGHT)}L0 0L${edge(half, SIGHT)}`,
      }),
      drawn("circle", { cx: x, cy: y, r: 5 }),
    );
  }

  #standing() {
    const { x = 0, z = 0, yaw = 0 } = this.#walk.walker;
    return { x, z, yaw: (yaw * Math.PI) / 180 };
  }

  #places() {
    const { x, z } = this.#standing();
    return [[x, z], ...this.#trail];
  }

  #point(target) {
    const index = target && numberOf(target);
    if (index === this.#pointed) return;
    this.#pointed = index;
    this.#later();
  }

  /** Chooses a chunk, as a click on it does; null: none. */
  choose(index) {
    if (index === this.#chosen) return;
    const known = this.#cones.get(this.#chosen)?.element;
    known?.setAttribute("aria-selected", "false");
    this.#chosen = index;
    const next = this.#cones.get(index)?.element;
    next?.setAttribute("aria-selected", "true");
    next?.setAttribute("aria-label", inWords(this.#walk.chunks.get(index), this.#newest));
    if (next) this.svg.setAttribute("aria-activedescendant", next.id);
    else this.svg.removeAttribute("aria-activedescendant");
    if (index !== null) this.#element.dispatchEvent(new CustomEvent("chosen", { detail: { index } }));
    this.#later();
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.#moving.pressed(event)) return;
    const numbers = [...this.#cones.keys()].sort((a, b) => a - b);
    const at = numbers.indexOf(this.#chosen);
    const last = numbers.length - 1;
    const next = { ArrowLeft: at < 0 ? last : at - 1, ArrowRight: at < 0 ? 0 : at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.choose(null);
    if (next === undefined || last < 0) return;
    event.preventDefault();
    this.choose(numbers[Math.min(last, Math.max(0, next))]);
  }

  /** What is pointed at or chosen; without either what was recalled for the newest. */
  #tell() {
    const index = this.#pointed ?? this.#chosen;
    const newest = this.#newest;
    this.#element.dataset.recalled = [...this.#cones].filter(([, { stands }]) => stands.now).map(([each]) => each).join(" ");
    this.#detail.show(this.#walk.chunks.get(index) ?? null, newest, this.#walk.chunks.get(newest) ?? null);
  }
}

function numberOf(target) {
  const number = target.closest?.("[data-chunk]")?.dataset.chunk;
  return number === undefined ? null : Number(number);
}

/** A thumbnail with its chunk's number. */
function picture(index) {
  const image = drawn("image", { ...PICTURE, preserveAspectRatio: "xMidYMid slice" });
  const frame = drawn("rect", { ...PICTURE, rx: 3 });
  const tag = drawn("rect", { class: "tag", x: 0, y: PICTURE.height - 13, width: 8 + 7 * `${index}`.length, height: 13, rx: 3 });
  const words = drawn("text", { x: 4, y: PICTURE.height - 3 }, `${index}`);
  const group = drawn("g", { "data-chunk": index, class: "picture" }, image, frame, tag, words);
  let shown = null;
  group.show = (blob) => {
    if (!blob || blob === shown) return;
    shown = blob;
    show(image, blob);
  };
  return group;
}

/** The upper left corner of a picture at a place: within the map, and not over another. */
function beside(view, [x, y], taken) {
  const { width, height } = PICTURE;
  const within = (value, size, room) => Math.max(4, Math.min(room - size - 4, value - size / 2));
  const [left, wanted] = [within(x, width, view.width), within(y, height, view.height)];
  const free = (top) => taken.every(([a, b]) => Math.abs(a - left) >= width + 3 || Math.abs(b - top) >= height + 3);
  const tops = [0, 1, -1, 2, -2, 3, -3].map((step) => wanted + step * (height + 3));
  const top = tops.find((each) => each >= 4 && each <= view.height - height - 4 && free(each)) ?? wanted;
  taken.push([left, top]);
  return [left, top];
}

/** Lines a unit apart; five apart where that is too narrow. */
function grid(view) {
  const step = view.scale >= 14 ? 1 : 5;
  const [left, top] = geometry.toWorld(view, [0, 0]);
  const [right, bottom] = geometry.toWorld(view, [view.width, view.height]);
  const lines = [];
  for (let x = Math.ceil(left / step) * step; x <= right; x += step) lines.push(`M${x} ${bottom}V${top}`);
  for (let z = Math.ceil(bottom / step) * step; z <= top; z += step) lines.push(`M${left} ${z}H${right}`);
  return drawn("path", { d: lines.join("") });
}

function legend() {
  const entry = (name, words) => made("li", {}, made("span", { class: `sign ${name}`, "aria-hidden": "true" }), words);
  return made(
    "ul",
    { class: "legend", "aria-label": "Signs of the map" },
    entry("now", "recalled"),
    entry("kept", "kept"),
    entry("demoted", "latents alone"),
    entry("missed", "missed"),
  );
}
