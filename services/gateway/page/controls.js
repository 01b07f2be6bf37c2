// How a walk remembers, to be changed while it goes on.

import { labelled, number, range, segments, select } from "./fields.js";
import { made } from "./made.js";
import { MODES } from "./words.js";

/** Milliseconds after the last change of a control that the service is told. */
const SETTLE = 200;
/** Chunks that may be recalled, where the service does not say how many, and be kept. */
const MANY = 16;
const MOST = 1_000_000;

/** What the choice of a mode is called where there is one walk. */
export const ALONE = "The model sees";

/** Controls of one walk's memory. What the service does not offer is not shown. */
export class Controls {
  #element;
  #walk;
  #form;
  #status;
  #title;
  #asked = new Map();
  #wanted = {};
  #timer = null;

  constructor(element, walk, title = ALONE) {
    this.#title = title;
    this.#element = element;
    this.#walk = walk;
    for (const name of ["opened", "joined"]) walk.addEventListener(name, () => this.#show());
    walk.addEventListener("opened", () => this.#clear());
    walk.addEventListener("applied", ({ detail }) => this.#applied(detail));
    walk.addEventListener("refused", ({ detail }) => this.#refused(detail));
    walk.addEventListener("down", () => this.#lock());
    walk.addEventListener("up", () => this.#lock());
  }

  #show() {
    const choices = this.#walk.opened?.memory;
    if (!choices?.now) {
      this.#element.replaceChildren(made("p", {}, "This service does not tell how it remembers."));
      this.#form = null;
      return;
    }
    if (!this.#form) this.#build(choices);
    this.#fill();
    this.#lock();
  }

  /** Whose memory it is, where there are two walks. */
  set title(title) {
    this.#title = title;
    const legend = this.#form?.querySelector("legend");
    if (legend) legend.textContent = title;
  }

  #clear() {
    clearTimeout(this.#timer);
    this.#wanted = {};
    this.#asked.clear();
    if (this.#form) this.#say("", "");
  }

  #build({ selectors = [], codecs = [], slots = 0, now }) {
    const form = (this.#form = made(
      "form",
      { class: "memory-form" },
      segments("mode", this.#title, MODES),
      labelled("Recall chosen by", select("selector", selectors), "which of the kept chunks suit the view best"),
      labelled("Chunks recalled", number("recalled", 0, slots || now.recalled || MANY), "at most, for each picture"),
      labelled("Tokens kept", range("keep", 0.05, 1, 0.05), "share of a chunk that is stored"),
      labelled("Stored as", select("codec", codecs), "codec of keys and values, from now on"),
      labelled("Budget, chunks", number("budgetChunks", 0, MOST), "of the others only latents are kept; 0: no limit"),
    ));
    this.#status = made("p", { class: "memory-status", role: "status" });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", ({ target }) => this.#changed(target));
    this.#element.replaceChildren(form, this.#status);
  }

  /** The controls say what is in force. */
  #fill() {
    const now = this.#walk.memory ?? {};
    const { mode, selector, recalled, keep, codec, budgetChunks } = this.#form.elements;
    mode.value = now.mode ?? "MEMORY_MODE_WORLDKV";
    selector.value = now.selector ?? "";
    recalled.value = now.recalled ?? 0;
    keep.value = now.keep ?? 1;
    codec.value = now.codec ?? "";
    budgetChunks.value = now.budgetChunks ?? 0;
    this.#label();
  }

  #label() {
    const { mode, keep } = this.#form.elements;
    keep.nextElementSibling.textContent = `${Math.round(keep.value * 100)} %`;
    for (const row of this.#form.querySelectorAll(".row")) row.hidden = mode.value !== "MEMORY_MODE_WORLDKV";
  }

  #lock() {
    for (const control of this.#form?.elements ?? []) control.disabled = !this.#walk.up || this.#walk.watching;
  }

  #changed({ name, value, type, validity }) {
    this.#label();
    if (!validity.valid || value === "") return;
    this.#wanted[name] = ["number", "range"].includes(type) ? Number(value) : value;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tell(), SETTLE);
  }

  #tell() {
    const settings = this.#wanted;
    this.#wanted = {};
    this.#asked.set(this.#walk.configure(settings), settings);
    this.#say("pending", "Asked for. It applies from the next chunk on.");
  }

  #applied({ number, chunk = 0 }) {
    if (!this.#asked.delete(number)) return;
    this.#say("applied", `In force from chunk ${chunk} on.`);
    if (!this.#asked.size) this.#fill();
  }

  #refused({ number, text }) {
    if (!this.#asked.delete(number)) return;
    this.#fill();
    this.#say("refused", `Refused: ${text}`);
  }

  #say(state, text) {
    this.#status.dataset.state = state;
    this.#status.textContent = text;
  }
}
