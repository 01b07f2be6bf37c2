// Parts of forms.

let made = 0;

/** An element with these properties and children. */
export function build(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function paragraph(text, className = "") {
  return build("p", { textContent: text, className });
}

/** A row of a form: what a control is for, the control, and in small words what it does. */
export function labelled(name, control, means) {
  made += 1;
  const field = control.matches("input, select") ? control : control.querySelector("input, select");
  field.id = `field-${made}`;
  const small = build("small", { textContent: means, id: `means-${made}` });
  field.setAttribute("aria-describedby", small.id);
  return build("div", { className: "row" }, build("label", { htmlFor: field.id, textContent: name }), control, small);
}

export function select(name, values) {
  return build("select", { name }, ...values.map((value) => build("option", { value, textContent: value })));
}

export function number(name, min, max, step = 1) {
  return build("input", { type: "number", name, min, max, step, inputMode: "numeric", required: true });
}

/** A slider, with room for its value. */
export function range(name, min, max, step) {
  return build("span", { className: "range" }, build("input", { type: "range", name, min, max, step }), build("output"));
}

/** One of several, side by side; `choices` by value, each with its name and what it means. */
export function segments(name, title, choices) {
  const options = Object.entries(choices).map(([value, { name: text, means }]) => {
    const input = build("input", { type: "radio", name, value });
    return build("label", { title: means }, input, build("span", { textContent: text }));
  });
  const group = build("div", { className: "segments" }, ...options);
  return build("fieldset", { className: "choice" }, build("legend", { textContent: title }), group);
}
