// Draws no more often than the screen does.

/** A function that has `draw` called once with the next frame of the screen, however often it is called until then. */
export function onceAFrame(draw) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      draw();
    });
  };
}
