// Elements, made in one line each. What is said in them is text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element with attributes (null and false: not set; true: set) and children, elements or words. */
export function made(name, attributes = {}, ...children) {
  return dressed(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function drawn(name, attributes = {}, ...children) {
  return dressed(document.createElementNS(SVG, name), attributes, children);
}

function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Shows a picture in an `img` or SVG `image`, and holds on to no more than is shown. */
export function show(image, blob) {
  const url = URL.createObjectURL(blob);
  const done = () => URL.revokeObjectURL(url);
  image.addEventListener("load", done, { once: true });
  image.addEventListener("error", done, { once: true });
  image.setAttribute(image.namespaceURI === SVG ? "href" : "src", url);
}
