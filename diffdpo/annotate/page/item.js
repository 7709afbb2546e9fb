// One pair: its two sides as elements, which load as soon as it is known. Who votes, what is before
// them and how it comes to the screen is in page.js.
"use strict";

const NAMES = ["A", "B"];
const SMALL = 128; // pixels of a picture whose own ones are shown, enlarged

class Item {
  constructor(data) {
    this.data = data;
    this.key = `${data.pair}/${data.visit}`;
    this.ready = false;
    this.broken = false;
    this.since = null; // when it was seen
    this.sides = data.sides.map((side, place) => this.side(side, place));
    Promise.all(this.loading).then(() => {
      this.ready = true;
      if (items[0] === this && document.body.dataset.state === "loading") show();
    });
  }

  get loading() {
    return this.sides.map((side) => side.loaded);
  }

  side(side, place) {
    if (side.kind === "text") {
      const element = document.createElement("div");
      element.className = "text";
      element.dir = "auto";
      element.tabIndex = 0;
      element.textContent = side.text;
      return { element, loaded: Promise.resolve() };
    }
    const made = side.kind === "video" ? video() : new Image();
    const found = { element: made, loaded: null };
    const { pair, visit } = this.data;
    const address = `/media/${pair}/${visit}/${place}?as=${encodeURIComponent(annotator)}`;
    found.loaded = load(made, address).then(
      () => made.classList.toggle("small", (made.naturalWidth || SMALL + 1) <= SMALL),
      () => {
        this.broken = true;
        found.element = document.createElement("p");
        found.element.className = "broken";
        found.element.textContent = "This one cannot be shown. Skip the pair.";
      },
    );
    if (side.kind !== "video") made.alt = `Picture ${NAMES[place]}`;
    return found;
  }
}

function video() {
  const made = document.createElement("video");
  Object.assign(made, { muted: true, loop: true, autoplay: true, playsInline: true });
  return made;
}

function load(element, address) {
  return new Promise((resolve, reject) => {
    element.addEventListener(element instanceof Image ? "load" : "canplaythrough", resolve);
    element.addEventListener("error", reject);
    element.src = address;
    if (!(element instanceof Image)) element.load();
  }).then(() => (element instanceof Image ? element.decode() : undefined));
}
