// Parts of forms.

import { made } from "./made.js";

let fields = 0;

/** A row of a form: what a control is for, the control, and in small words what it does. */
export function labelled(name, control, means) {
  fields += 1;
  const [id, describedby] = [`field-${fields}`, `means-${fields}`];
  const field = control.matches("input, select") ? control : control.querySelector("input, select");
  field.id = id;
  field.setAttribute("aria-describedby", describedby);
  const small = made("small", { id: describedby }, means);
  return made("div", { class: "row" }, made("label", { for: id }, name), control, small);
}

/** One of several; `words` says for some values what they are called. */
export function select(name, values, words = {}) {
  return made("select", { name }, ...values.map((value) => made("option", { value }, words[value] ?? value)));
}

export function number(name, min, max, step = 1) {
  return made("input", { type: "number", name, min, max, step, inputmode: "numeric", required: true });
}

/** A slider, with room for its value. */
export function range(name, min, max, step) {
  return made("span", { class: "range" }, made("input", { type: "range", name, min, max, step }), made("output"));
}

/** One of several, side by side; `choices` by value, each with its name and what it means. */
export function segments(name, title, choices) {
  const options = Object.entries(choices).map(([value, { name: text, means }]) => {
    const input = made("input", { type: "radio", name, value });
    return made("label", { title: means }, input, made("span", {}, text));
  });
  const group = made("div", { class: "segments" }, ...options);
  return made("fieldset", { class: "choice" }, made("legend", {}, title), group);
}
