// Live numbers of one walk, as charts and as a table.

import { Chart } from "./chart.js";
import { made } from "./made.js";
import { onceAFrame } from "./once.js";
import { PARTS, RECALL, Series, TIERS } from "./series.js";

/** Rows of the table: the newest. */
const TABLE_ROWS = 12;

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Bytes in words. */
export function bytes(value) {
  const power = value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(value) / 3));
  const shown = value / 1000 ** power;
  return `${shown.toFixed(power && shown < 100 ? 1 : 0)} ${UNITS[power]}`;
}

const milliseconds = (seconds) => `${Math.round(1000 * seconds)} ms`;
const whole = (value) => (Number.isInteger(value) ? `${value}` : value.toFixed(1));

const lines = (names, prefix) =>
  Object.fromEntries(Object.entries(names).map(([name, words]) => [name, { words, colour: `--${prefix}-${name}` }]));

/** FPS, the parts of a chunk's time, bytes by tier and what became of recall. */
export class Numbers {
  #walk;
  #series = new Series();
  #charts;
  #details;
  #table = made("table");
  #later = onceAFrame(() => this.#show());

  constructor(element, walk) {
    this.#walk = walk;
    element.classList.add("numbers");
    const played = { words: "as it is played", colour: "--soft", dashed: true };
    this.#charts = {
      fps: new Chart({ title: "Pictures a second", lines: { fps: { words: "as fast as it draws", colour: "--accent" }, played }, format: whole }),
      spent: new Chart({ title: "Time of a chunk", lines: lines(PARTS, "part"), stack: true, format: milliseconds }),
      held: new Chart({ title: "Keys and values", lines: lines(TIERS, "tier"), stack: true, format: bytes }),
      recall: new Chart({ title: "Recall, chunks", lines: lines(RECALL, "recall"), stack: true, format: whole }),
    };
    const details = (this.#details = made("details", { class: "as-table", ontoggle: () => this.#later() },
      made("summary", {}, "As a table"), made("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers of the newest chunks" }, this.#table)));
    const charts = made("div", { class: "charts" }, ...Object.values(this.#charts).map((chart) => chart.element));
    element.replaceChildren(charts, details);
    walk.addEventListener("opened", () => this.#do(() => this.#series.clear()));
    walk.addEventListener("rewound", ({ detail }) => this.#do(() => this.#series.rewind(detail.at)));
    walk.addEventListener("drawn", ({ detail }) => this.#do(() => this.#series.take(detail, walk.opened)));
  }

  #do(change) {
    change();
    this.#later();
  }

  #show() {
    const { rows } = this.#series;
    this.#charts.fps.show(rows);
    for (const name of ["spent", "held", "recall"]) this.#charts[name].show(rows.map((row) => ({ chunk: row.chunk, ...row[name] })));
    if (this.#details.open) this.#tabulate(rows.slice(-TABLE_ROWS).reverse());
  }

  #tabulate(rows) {
    const columns = [
      ["Pictures a second", (row) => (row.fps === null ? "–" : whole(row.fps))],
      ["Time", (row) => milliseconds(row.seconds)],
      ...Object.entries(PARTS).map(([name, words]) => [words, (row) => milliseconds(row.spent[name])]),
      ...Object.entries(TIERS).map(([name, words]) => [`KV ${words}`, (row) => bytes(row.held[name])]),
      ...Object.entries(RECALL).map(([name, words]) => [words, (row) => whole(row.recall[name])]),
    ];
    const head = made("tr", {}, ...["Chunk", ...columns.map(([title]) => title)].map((title) => made("th", { scope: "col" }, title)));
    const body = rows.map((row) =>
      made("tr", {}, made("th", { scope: "row" }, `${row.chunk}`), ...columns.map(([, told]) => made("td", {}, told(row)))));
    this.#table.replaceChildren(made("caption", {}, "The newest chunks first"), made("thead", {}, head), made("tbody", {}, ...body));
  }
}
