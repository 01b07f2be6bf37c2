// The same keys lead two walks through the same rooms, of which one remembers otherwise.

import { ALONE, Controls } from "./controls.js";
import { made } from "./made.js";
import { Pane } from "./pane.js";
import { Problem } from "./problems.js";
import { Walk } from "./state.js";

/** A second pane beside the first, for as long as it is wanted.
 *
 * controls  of the first pane's memory
 * stage     holds the panes
 * panels    holds the controls of memory
 * changed   is given the panes that are shown
 * failed    is given the Problem that ended the second one
 */
export class Compare {
  #service;
  #main;
  #controls;
  #stage;
  #panels;
  #changed;
  #failed;
  #rival = null;
  #panel = null;

  constructor(service, main, controls, { stage, panels, changed, failed }) {
    this.#service = service;
    this.#main = main;
    this.#controls = controls;
    this.#stage = stage;
    this.#panels = panels;
    this.#changed = changed;
    this.#failed = failed;
    main.walk.addEventListener("judged", () => this.#measure());
    main.walk.addEventListener("rewound", () => this.end()); // the other one would not be where it is
  }

  get on() {
    return this.#rival !== null;
  }

  /** Both walks begin at once, from the same; `request` is an OpenRequest for the first. */
  begin(request) {
    this.#build();
    const { settings, mode, ...same } = request;
    this.#main.open({ ...same, settings });
    this.#rival.open({ ...same, mode: "MEMORY_MODE_WINDOW" });
    this.#changed([this.#rival, this.#main]);
  }

  /** The first pane is alone again, and walks on. */
  end() {
    if (!this.on) return;
    this.#rival.walk.retire();
    this.#rival.element.remove();
    this.#panel.remove();
    this.#rival = null;
    this.#stage.classList.remove("two");
    this.#controls.title = ALONE;
    this.#main.lead(null);
    this.#changed([this.#main]);
  }

  #build() {
    if (this.on) return;
    this.#rival = new Pane(new Walk(this.#service));
    this.#panel = made("div", { class: "rival-memory" });
    this.#panels.prepend(this.#panel);
    new Controls(this.#panel, this.#rival.walk, "Left, the model sees");
    this.#controls.title = "Right, the model sees";
    this.#rival.walk.addEventListener("judged", () => this.#measure());
    this.#rival.walk.addEventListener("ended", ({ detail }) => this.#lost(detail));
    this.#stage.prepend(this.#rival.element);
    this.#stage.classList.add("two");
  }

  #lost(problem) {
    this.end();
    this.#failed(new Problem("NO_SECOND", problem.words));
  }

  /** Says which of the two is nearer to the truth, once both were compared with it. */
  #measure() {
    const [ours, theirs] = [this.#main.likeness, this.#rival?.likeness];
    if (!ours || !theirs) return;
    const lead = ours - theirs;
    this.#main.lead(lead > 0 ? lead : null);
    this.#rival.lead(lead < 0 ? -lead : null);
  }
}
