// How large the pictures are: as large as there is room, by whole screen pixels, so that nothing blurs.

/** Enlarges the canvases of a stage as far as the window has room for them, and gives their column their width.
 *
 * Larger pictures than there is room for are made smaller, smoothly. CSS says of the window's height what a picture may
 * have (`--most-height`), and how many rem stand beside it (`--beside`).
 */
export class Fitting {
  #main;
  #stage;

  constructor(main, stage) {
    this.#main = main;
    this.#stage = stage;
    new ResizeObserver(() => this.fit()).observe(main);
    window.addEventListener("resize", () => this.fit());
  }

  fit() {
    const canvases = [...this.#stage.querySelectorAll("canvas")];
    if (!canvases.length) return;
    const [{ width, height }] = canvases;
    const style = getComputedStyle(this.#main);
    const gap = parseFloat(style.columnGap);
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const beside = Number(style.getPropertyValue("--beside")) * rem;
    const inside = this.#main.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const columns = getComputedStyle(this.#stage).gridTemplateColumns.split(" ").length;
    const room = inside - (beside ? beside + gap : 0) - (columns - 1) * gap;
    const high = Number(style.getPropertyValue("--most-height")) * innerHeight;
    const scale = whole(Math.min(room / columns / width, high / height));
    for (const canvas of canvases) {
      canvas.classList.toggle("enlarged", scale * devicePixelRatio >= 1);
      canvas.style.width = `${width * scale}px`;
      canvas.style.height = `${height * scale}px`;
    }
    this.#main.style.setProperty("--picture", `${columns * width * scale + (columns - 1) * gap}px`);
  }
}

/** The largest scale below that makes a picture's pixel so many whole ones of the screen, if one does. */
function whole(scale) {
  const pixels = scale * devicePixelRatio;
  return pixels >= 1 ? Math.floor(pixels) / devicePixelRatio : scale;
}
