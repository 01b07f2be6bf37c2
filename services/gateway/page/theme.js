// Dark, light, or as the system has it.

import { made } from "./made.js";

const KEY = "worldkv.theme";
const NAMES = { "": "Auto", dark: "Dark", light: "Light" };

/** Makes a button go through the themes; what was chosen is kept for the next visit. */
export function themed(button) {
  const show = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.replaceChildren("◐", made("span", { class: "wide" }, ` ${NAMES[theme]}`));
    button.setAttribute("aria-label", `Dark or light: ${NAMES[theme]}`);
  };
  button.addEventListener("click", () => {
    const themes = Object.keys(NAMES);
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "") + 1) % themes.length];
    localStorage.setItem(KEY, next);
    show(next);
  });
  const kept = localStorage.getItem(KEY);
  show(kept in NAMES ? kept : "");
}
