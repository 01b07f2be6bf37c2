// Says so where the page cannot run. Every browser reads this: it is written for old ones.
(function () {
  "use strict";

  function missing() {
    var lacks = [];
    if (!("noModule" in document.createElement("script"))) lacks.push("modules");
    if (!window.WebSocket) lacks.push("WebSockets");
    if (!window.createImageBitmap) lacks.push("createImageBitmap");
    if (!window.ResizeObserver) lacks.push("ResizeObserver");
    if (!window.HTMLDialogElement) lacks.push("dialogs");
    if (!window.CSS || !CSS.supports || !CSS.supports("color", "light-dark(black, white)")) lacks.push("light-dark()");
    return lacks;
  }

  function say(text) {
    var place = document.getElementById("unsupported");
    place.textContent = text;
    place.hidden = false;
    place.removeAttribute("hidden");
  }

  // Modules have run before the page counts as loaded: app.js leaves a mark.
  window.addEventListener("load", function () {
    var lacks = missing();
    if (lacks.length) {
      say("This page needs a newer browser: this one has no " + lacks.join(", no ") + ". Firefox 120, Chrome 123 and " +
        "Safari 17.5 or newer will do.");
    } else if (document.documentElement.getAttribute("data-runs") === null) {
      say("This page could not start. Load it again; if that does not help, a newer browser may.");
    }
  });
})();
