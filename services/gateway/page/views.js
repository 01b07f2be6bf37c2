// The views besides the picture: map, time, numbers, the service, and what can be shared.

import { Fleet } from "./fleet.js";
import { MapView } from "./map.js";
import { Numbers } from "./numbers.js";
import { Share } from "./share.js";
import { Strip } from "./strip.js";

/** Shows all views of a walk in their places; `begin` is given an OpenRequest where a view leads to another world. */
export function viewed(walk, begin) {
  const place = (id) => document.getElementById(id);
  const map = new MapView(place("map"), walk);
  const strip = new Strip(place("strip"), walk);
  place("map").addEventListener("chosen", ({ detail }) => strip.choose(detail.index));
  place("strip").addEventListener("chosen", ({ detail }) => map.choose(detail.index));
  place("strip").addEventListener("walk", ({ detail }) => begin({ world: detail.world }));
  new Numbers(place("numbers"), walk);
  new Share(place("share"), walk);
  new Fleet(place("fleet"), walk.service);
}
