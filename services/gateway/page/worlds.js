// Where to walk: rooms of a seed, or a world that is remembered.

import { labelled, number, select } from "./fields.js";
import { firstPicture } from "./first.js";
import { made } from "./made.js";
import { areRooms } from "./start.js";

/** Rooms there are, of as many seeds. */
const SEEDS = 2 ** 32;
/** Of these, those that are taken by chance: numbers that one can keep in mind. */
const FEW = 10_000;

/** Characters of a prompt; a message to the service has room for as many. */
const WORDS = 2000;

const TOURS = { R360: "once round", R180: "half round", "": "none: the model begins at once" };

/** A dialog that opens walks.
 *
 * about  of the service: `scenes`, what new worlds can begin as, for example; `pictures`, whether from a picture
 * walk   is given an OpenRequest
 */
export class Worlds {
  #dialog;
  #service;
  #walk;
  #list = made("ul", { class: "worlds-list" });
  #more = made("button", { type: "button", hidden: true }, "More");
  #next = "";

  constructor(dialog, service, about, walk) {
    this.#dialog = dialog;
    this.#service = service;
    this.#walk = walk;
    const close = made("form", { method: "dialog" }, made("button", {}, "Cancel"));
    dialog.append(
      made("h2", { id: "worlds-title" }, "Where do you want to walk?"),
      this.#anew(about),
      made("h3", {}, "Worlds that are remembered"),
      this.#list,
      this.#more,
      close,
    );
    this.#more.addEventListener("click", () => this.#load());
  }

  open() {
    this.#list.replaceChildren();
    this.#next = "";
    this.#load();
    this.#dialog.showModal();
  }

  /** A form for a new world. */
  #anew(about) {
    const noise = number("seed", 0, Number.MAX_SAFE_INTEGER);
    noise.value = 0;
    const { rows, request } = areRooms(about.scenes) ? this.#rooms() : this.#scenes(about);
    const seed = labelled("Seed", noise, "of the model's noise: the same draws the same");
    const form = made("form", { class: "memory-form" }, ...rows, seed, made("button", { class: "chief" }, "Walk here"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const wanted = await request();
      if (wanted && this.#dialog.open) this.#go({ ...wanted, seed: noise.value }); // it was not begun or cancelled meanwhile
    });
    return form;
  }

  /** Words of one's own, and a picture, as far as the model is told by these; without words, the first example. */
  #scenes({ scenes, pictures }) {
    const [first = ""] = scenes;
    const examples = made("datalist", { id: "scenes" }, ...scenes.map((value) => made("option", { value })));
    const scene = made("input", { name: "scene", list: "scenes", placeholder: first, maxlength: WORDS });
    const field = made("span", { class: "range" }, scene, examples);
    const rows = scenes.length ? [labelled("Scene", field, "what the world begins as, in your own words")] : [];
    const picture = made("input", { type: "file", name: "picture", accept: "image/*" });
    picture.addEventListener("change", () => picture.setCustomValidity(""));
    if (pictures) rows.push(labelled("Picture", picture, "what is seen first"));
    const request = async () => {
      const [file] = picture.files;
      const given = file && (await firstPicture(file).catch(() => picture.setCustomValidity("This is no picture.")));
      return picture.reportValidity() ? { scene: scene.value || first, ...(given && { picture: given }) } : null;
    };
    return { rows, request };
  }

  #rooms() {
    const seed = number("rooms", 0, SEEDS - 1);
    seed.value = 1;
    const tour = select("tour", Object.keys(TOURS), TOURS);
    const roll = () => (seed.value = Math.floor(Math.random() * FEW));
    const any = made("button", { type: "button", onclick: roll }, "Any");
    const rows = [
      labelled("Rooms", made("span", { class: "range" }, seed, any), "every number has rooms of its own"),
      labelled("Tour", tour, "what the model is shown first, in true pictures"),
    ];
    return { rows, request: () => ({ scene: `rooms:${seed.value}`, tour: tour.value }) };
  }

  async #load() {
    this.#more.hidden = true;
    try {
      const page = await this.#service.json("/v1/worlds", { page_token: this.#next || null });
      this.#next = page.nextPageToken ?? "";
      this.#list.append(...(page.worlds ?? []).map((world) => this.#item(world)));
      if (!this.#list.children.length) this.#say("None yet: what you walk now will be the first.");
    } catch (problem) {
      this.#say(problem.status === "NOT_FOUND" ? "This service does not list its worlds." : problem.message);
    }
    this.#more.hidden = !this.#next;
  }

  #item({ name, chunks = 0 }) {
    const enter = made("button", { type: "button", onclick: () => this.#go({ world: name }) }, name);
    return made("li", {}, enter, made("small", {}, `${chunks} chunks when last counted`));
  }

  #say(text) {
    this.#list.append(made("li", {}, text));
  }

  #go(request) {
    this.#dialog.close();
    this.#walk(request);
  }
}
