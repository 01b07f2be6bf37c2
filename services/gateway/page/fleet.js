// The whole service, for whoever runs it: its parts, its generators, and what they carry.

import { made } from "./made.js";
import { bytes } from "./numbers.js";
import { Problem } from "./problems.js";

/** Milliseconds between two looks, while somebody sees them. */
const BETWEEN = 2_000;

const REFUSED = {
  PERMISSION_DENIED: "Only who runs the service sees this.",
  UNAUTHENTICATED: "Only who runs the service sees this.",
  NOT_FOUND: "This gateway does not know of the whole service: it was started by itself.",
  UNIMPLEMENTED: "This gateway does not know of the whole service: it was started by itself.",
};

/** What is told of a generator: titles, and values in words. */
const GENERATOR = [
  ["Sessions", ({ sessions = [] }) => `${sessions.length}`],
  ["Walked in", ({ sessions = [] }) => `${sessions.filter(({ joined }) => joined).length}`],
  ["Room for", ({ room = 0 }) => `${room} more`],
  ["A step", ({ stepSeconds = 0 }) => (stepSeconds ? `${Math.round(1000 * stepSeconds)} ms` : "–")],
  ["Held", ({ residentBytes = 0 }) => bytes(Number(residentBytes))],
  ["Chunks", ({ chunks = 0 }) => `${chunks}`],
];

/** Looks at the whole service again and again, as long as it is in sight; where the gateway does not know of it, it is not
 * asked. */
export class Fleet {
  #service;
  #element;
  #summary = made("p", { class: "fleet-summary" });
  #generators = made("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Generators" });
  #parts = made("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Parts of the service" });
  #known;
  #seen = false;
  #timer = null;
  #open = new Set();

  constructor(element, service) {
    this.#element = element;
    this.#service = service;
    element.classList.add("fleet");
    element.append(this.#summary, this.#generators, this.#parts);
    new IntersectionObserver((entries) => this.#sighted(entries.at(-1).isIntersecting)).observe(element);
    document.addEventListener("visibilitychange", () => this.#again());
  }

  #sighted(seen) {
    this.#seen = seen;
    this.#again();
  }

  #again() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#seen && !document.hidden) this.look();
  }

  /** Looks once. */
  async look() {
    try {
      this.#known ??= this.#service.json("/v1/about").then(({ fleet }) => fleet);
      if (!(await this.#known)) throw new Problem("NOT_FOUND");
      this.#show(await this.#service.json("/v1/fleet"));
    } catch (problem) {
      this.#element.dataset.state = problem.status;
      this.#known = problem.passing ? undefined : this.#known;
      this.#summary.textContent = REFUSED[problem.status] ?? problem.message;
      this.#generators.replaceChildren();
      this.#parts.replaceChildren();
      if (problem.status in REFUSED) return; // that does not change by itself
    }
    clearTimeout(this.#timer);
    if (this.#seen && !document.hidden) this.#timer = setTimeout(() => this.#again(), BETWEEN);
  }

  #show({ generators = [], parts = [], trouble = "" }) {
    this.#element.dataset.state = "well";
    const sessions = generators.reduce((sum, { sessions: held = [] }) => sum + held.length, 0);
    const ill = parts.filter(({ state }) => !WELL.has(state));
    const count = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;
    const said = [count(sessions, "session"), `on ${count(generators.length, "generator")}`];
    if (parts.length) said.push(ill.length ? `${ill.map(({ name }) => name).join(", ")}: not well` : `${count(parts.length, "part")}, all well`);
    this.#summary.textContent = `${said.join(", ")}.${trouble && ` Of the parts nobody tells: ${trouble}`}`;
    this.#generators.replaceChildren(table("Generators", ["Name", ...GENERATOR.map(([title]) => title)],
      generators.map((each) => [each.generator ?? "–", ...GENERATOR.map(([, told]) => told(each))])));
    const focused = this.#parts.contains(document.activeElement) ? document.activeElement.closest("details")?.dataset.part : null;
    this.#parts.replaceChildren(...(parts.length ? [table("Parts", ["Name", "Kind", "State", "Address", "Restarts", "Figures"], parts.map((part) => this.#row(part)))] : []));
    const again = [...this.#parts.querySelectorAll("details")].find(({ dataset }) => dataset.part === focused);
    again?.querySelector("summary").focus({ preventScroll: true });
  }

  #row({ name, kind, state, address, restarts = 0, figures = {}, metrics = {} }) {
    const health = made("span", { class: "health", "data-well": WELL.has(state) ? "yes" : "no" }, state ?? "–");
    return [name, kind, health, address || "–", `${restarts}`, this.#figures(name, figures, metrics)];
  }

  /** What a part says of itself in short; all that its own page of metrics says, to be opened. */
  #figures(name, figures, metrics) {
    const short = Object.entries(figures).map(([figure, value]) => `${figure} ${value}`).join(", ");
    const entries = Object.entries(metrics).sort(([one], [other]) => OWN.test(other) - OWN.test(one));
    if (!entries.length) return short || "–";
    const details = made("details", { open: this.#open.has(name), "data-part": name },
      made("summary", {}, short || `${entries.length} figures`),
      made("dl", {}, ...entries.map(([figure, value]) => made("div", {}, made("dt", {}, figure), made("dd", {}, told(figure, value))))));
    details.addEventListener("toggle", () => (details.open ? this.#open.add(name) : this.#open.delete(name)));
    return details;
  }
}

/** Names of the service's own figures: those of its processes and calls come after them. */
const OWN = /^worldkv_/;

/** States of parts that serve. */
const WELL = new Set(["ready", "elsewhere"]);

function told(figure, value) {
  if (typeof value !== "number") return `${value}`;
  if (figure.includes("bytes")) return bytes(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(3);
}

function table(caption, titles, rows) {
  return made("table", {}, made("caption", {}, caption),
    made("thead", {}, made("tr", {}, ...titles.map((title) => made("th", { scope: "col" }, title)))),
    made("tbody", {}, ...rows.map(([first, ...rest]) =>
      made("tr", {}, made("th", { scope: "row" }, first), ...rest.map((each) => made("td", {}, each))))));
}
