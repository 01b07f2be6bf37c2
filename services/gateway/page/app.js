// Puts the page together.

import { Compare } from "./compare.js";
import { Controls } from "./controls.js";
import { Driver } from "./driver.js";
import { Fitting } from "./fitting.js";
import { Guide } from "./guide.js";
import { Keys } from "./keys.js";
import { Live } from "./live.js";
import { made } from "./made.js";
import { Pane } from "./pane.js";
import { asked } from "./service.js";
import { first, keep, kept, simplest } from "./start.js";
import { Walk } from "./state.js";
import { themed } from "./theme.js";
import { Trouble } from "./trouble.js";
import { viewed } from "./views.js";
import { milliseconds } from "./words.js";
import { Worlds } from "./worlds.js";

const place = (id) => document.getElementById(id);
const button = (command) => document.querySelector(`[data-command=${command}]`);

document.documentElement.dataset.runs = ""; // check.js looks for it
themed(place("theme"));

const { service, wanted } = asked();
const about = await service.about().catch((problem) => ({ scenes: ["rooms:0"], problem })); // it may answer later
const simple = simplest(about.scenes);
const walk = new Walk(service);
const pane = new Pane(walk);
const stage = place("stage");
const keys = new Keys(stage, place("stick"));
const driver = new Driver(keys);
const fitting = new Fitting(place("main"), stage);
const worlds = new Worlds(place("worlds"), service, about, begin);
const controls = new Controls(place("memory").appendChild(made("div")), walk);
const compare = new Compare(service, pane, controls, {
  stage,
  panels: place("memory"),
  changed: show,
  failed: (problem) => trouble.show(problem),
});

/** Begins a walk; beside another one if two are compared, unless it is in a world that there is only once. */
function begin(request) {
  const wanted = { judged: true, ...request };
  if (request.world) compare.end();
  if (compare.on) compare.begin(wanted);
  else pane.open(wanted);
  driver.paused = false;
  stage.focus({ preventScroll: true });
}

/** How the walk that is shown began, to begin it again. */
function origin() {
  const { scene, seed } = walk.opened ?? {};
  const known = pane.request.scene !== undefined || pane.request.world;
  return known ? pane.request : { ...simple, ...(scene && { scene }), ...(seed && { seed }) };
}

/** Two walks from one begin, or the one alone again. */
function versus() {
  if (compare.on) {
    compare.end();
    return;
  }
  const { mode, ...now } = walk.memory ?? {};
  const settings = mode === "MEMORY_MODE_WORLDKV" ? now : {};
  const { world, at, ...begun } = origin();
  const same = world ? { ...simple, ...(walk.opened?.scene && { scene: walk.opened.scene }) } : begun;
  compare.begin({ ...same, judged: true, settings, mode: "MEMORY_MODE_WORLDKV" });
}

/** These panes are led by the keys. */
function show(panes) {
  driver.panes = panes;
  fitting.fit();
  button("compare").setAttribute("aria-pressed", panes.length > 1);
}

const commands = {
  round: () => driver.turnRound(),
  pause: () => (driver.paused = !driver.paused),
  step: () => driver.step(),
  reset: () => begin(origin()),
  worlds: () => worlds.open(),
  compare: versus,
  help: () => place("help").showModal(),
};

/** Does what a key or a button asks for, if that can be done now. */
function obey(name) {
  if (!document.querySelector("dialog[open]") && !button(name)?.disabled) commands[name]();
}

keys.addEventListener("command", ({ detail }) => obey(detail.name));
for (const each of document.querySelectorAll("[data-command]")) {
  each.addEventListener("click", () => obey(each.dataset.command));
}
place("help-open").addEventListener("click", commands.help);
driver.addEventListener("changed", () => button("pause").setAttribute("aria-pressed", driver.paused));
pane.latency.addEventListener("measured", () => {
  place("latency-words").hidden = false;
  place("latency").textContent = milliseconds(pane.latency.last);
  place("latency").title = `median ${milliseconds(pane.latency.median)}`;
});

walk.addEventListener("opened", ({ detail }) => {
  driver.forget();
  fitting.fit();
  if (walk.watching) return;
  keep(detail.session, detail.world.name, pane.request);
  if (detail.next) walk.pause(); // whoever walked here before may have held a key
});
for (const again of ["rewound", "up"]) walk.addEventListener(again, () => driver.resume());
const lead = (may) => ["round", "pause", "step", "reset"].forEach((name) => (button(name).disabled = !may));
walk.addEventListener("joined", () => lead(!walk.watching));
walk.addEventListener("ended", () => lead(false));
window.addEventListener("hashchange", () => location.reload());

new Guide(place("guide"), new Live(place("live")), pane, driver);
const trouble = new Trouble(place("trouble"), place("connection"), walk, {
  world: () => kept()?.world ?? null,
  again: () => walk.again(),
  takeBack: () => walk.again(),
  last: () => begin({ world: kept().world }),
  anew: () => begin(simple),
  reload: () => location.reload(),
  alone: () => trouble.hide(),
});
viewed(walk, begin);

stage.prepend(pane.element);
show([pane]);
if (about.problem?.status === "VERSION") trouble.show(about.problem);
else start();

function start() {
  const { open, join, watch, request } = first(wanted, simple);
  if (open) pane.open({ judged: true, ...open });
  else pane.join(join, { watch }, request);
}
