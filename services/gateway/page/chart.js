// One live chart with its title, its newest values, and words for who does not see it.

import { made } from "./made.js";
import { stacked } from "./series.js";

const HEIGHT = 150;
const FONT = "11px system-ui, sans-serif";

const uplot = () => import("./vendor/uplot/uPlot.esm.js").then(({ default: uPlot }) => uPlot);

/** A chart over chunk numbers.
 *
 * title   what it shows
 * lines   by name: `{words, colour}`, the colour a CSS variable; `dashed` for what is only to compare with
 * stack   whether each line is put on those before it
 * format  a value in words
 */
export class Chart {
  #options;
  #plot = null;
  #columns = [[]];
  #canvas = made("div", { class: "plot" });
  #values = {};
  #built = null;

  constructor({ title, lines, stack = false, format }) {
    this.#options = { title, lines, stack, format };
    const entries = Object.entries(lines).map(([name, { words, colour, dashed }]) => {
      const swatch = made("span", { class: dashed ? "swatch dashed" : "swatch", "aria-hidden": "true" });
      swatch.style.setProperty("--colour", `var(${colour})`);
      this.#values[name] = made("span", { class: "value" }, "–");
      return made("li", {}, swatch, `${words} `, this.#values[name]);
    });
    this.#canvas.setAttribute("role", "img");
    this.element = made("figure", { class: "chart" }, made("figcaption", {}, title), this.#canvas, made("ul", {}, ...entries));
    new ResizeObserver(() => this.#sized()).observe(this.#canvas);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.#plot?.redraw(false));
    new MutationObserver(() => this.#plot?.redraw(false)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  /** Shows rows: `{chunk, NAME: value}`. */
  show(rows) {
    const names = Object.keys(this.#options.lines);
    const columns = names.map((name) => rows.map((row) => row[name]));
    this.#columns = [rows.map(({ chunk }) => chunk), ...(this.#options.stack ? stacked(columns) : columns)];
    this.#tell(rows.length - 1, rows);
    this.rows = rows;
    if (!this.#canvas.clientWidth) return; // nobody sees it
    this.#built ??= this.#build();
    this.#plot?.setData(this.#data());
  }

  /** What is painted last lies on top: the stack's lowest. */
  #data() {
    const [x, ...columns] = this.#columns;
    return [x, ...(this.#options.stack ? columns.reverse() : columns)];
  }

  #tell(at, rows) {
    const { title, lines, format } = this.#options;
    const row = rows[at];
    const told = Object.entries(lines).map(([name, { words }]) => {
      const value = row && row[name] !== null ? format(row[name]) : "–";
      this.#values[name].textContent = value;
      return `${words} ${value}`;
    });
    this.#canvas.setAttribute("aria-label", row ? `${title}, chunk ${row.chunk}: ${told.join(", ")}` : `${title}: nothing yet`);
  }

  async #build() {
    const uPlot = await uplot();
    const { lines, stack, format } = this.#options;
    const series = Object.entries(lines).map(([, { colour, dashed }]) => ({
      stroke: () => resolved(this.element, colour),
      fill: stack ? () => resolved(this.element, colour) : undefined,
      width: stack ? 0 : 1.5,
      dash: dashed ? [4, 4] : undefined,
      points: { show: false },
    }));
    const axis = {
      stroke: () => resolved(this.element, "--soft"),
      grid: { stroke: () => resolved(this.element, "--line"), width: 1 },
      ticks: { show: false },
      font: FONT,
    };
    const options = {
      width: this.#canvas.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: false }, y: { range: (_, least, most) => [0, most > 0 ? most * 1.08 : 1] } },
      series: [{}, ...(stack ? series.reverse() : series)],
      axes: [
        { ...axis, size: 24, incrs: [1, 2, 5, 10, 20, 50, 100] },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => format(tick)) },
      ],
      hooks: { setCursor: [(plot) => this.rows && this.#tell(plot.cursor.idx ?? this.rows.length - 1, this.rows)] },
    };
    this.#plot = new uPlot(options, this.#data(), this.#canvas);
  }

  #sized() {
    const width = this.#canvas.clientWidth;
    if (this.#plot && width) this.#plot.setSize({ width, height: HEIGHT });
    else if (this.rows?.length) this.show(this.rows);
  }
}

const PROBES = new WeakMap();

/** A colour variable as a canvas takes it: `light-dark()` and its like are worked out. */
function resolved(element, name) {
  let probe = PROBES.get(element);
  if (!probe) {
    probe = made("span", { class: "probe", "aria-hidden": "true" });
    element.append(probe);
    PROBES.set(element, probe);
  }
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
