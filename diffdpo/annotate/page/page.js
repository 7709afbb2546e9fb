// The page on which people choose. What comes from data is put into the page as text and never as
// markup. A choice shows the next pair at once, which was loaded before; it is then sent, and
// where it cannot be saved everything stops and says so.
"use strict";

const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie",
  b: "both_bad", s: "skip", u: "undo", f: "full",
};
const SAID = {
  left: "A is better", right: "B is better", tie: "Equal", both_bad: "Both bad", skip: "Skipped",
};
const LONG = 240; // letters of a prompt that is set smaller
const FAST = 300; // milliseconds in which nobody looks at two pictures
const PAUSE = 150; // choices after which a pause is suggested
const WAIT = 5000; // milliseconds, then pairs that others gave back are asked for

const byId = (id) => document.getElementById(id);
const frames = [...document.querySelectorAll("figure .frame")];
const buttons = new Map(
  [...document.querySelectorAll("nav [data-act]")].map((button) => [button.dataset.act, button]),
);

let annotator = remembered();
let items = []; // before the annotator; the first is on the screen
let outbox = []; // what is not saved yet, oldest first
let sending = false;
let undoing = false;
let undoable = false;
let chosen = 0; // in this sitting
let timer = 0;

// ---- the screen ----

function state(name, title = "", text = "") {
  document.body.dataset.state = name;
  byId("notice-title").textContent = title;
  byId("notice-text").textContent = text;
  byId("alert").textContent = name === "stopped" ? `${title} ${text}` : "";
  for (const [act, button] of buttons) {
    const choice = act !== "undo" && act !== "full";
    const spoilt = items[0]?.broken && choice && act !== "skip";
    const idle = choice ? name !== "pair" : act === "undo" && !undoable;
    button.disabled = name === "stopped" || idle || Boolean(spoilt);
  }
}

function show() {
  const item = items[0];
  if (!item) return;
  if (!item.ready) {
    state("loading");
    return;
  }
  const prompt = byId("prompt");
  prompt.textContent = item.data.prompt;
  prompt.classList.toggle("long", item.data.prompt.length > LONG);
  item.sides.forEach(({ element }, place) => {
    frames[place].classList.toggle("media", element.matches("img, video"));
    frames[place].replaceChildren(element);
    frames[place].scrollTo(0, 0);
    if (element.matches("video")) element.play().catch(() => {});
  });
  item.since ??= performance.now();
  state("pair");
}

function tell(progress) {
  const all = progress.seen + progress.open;
  const bar = byId("bar");
  bar.max = all || 1;
  bar.value = progress.seen;
  byId("count").textContent = `${progress.seen} of ${all}`;
  const pace = progress.pace_ms;
  const minutes = pace && Math.ceil((pace * progress.open) / 60000);
  byId("pace").textContent =
    pace && progress.open ? `${(pace / 1000).toFixed(1)} s each, ${left(minutes)} left` : "";
  const agreed = progress.agreement;
  byId("agreement").textContent = agreed
    ? `${Math.round(100 * agreed.share)} % agreement on ${agreed.pairs} shared pairs`
    : "";
}

function left(minutes) {
  return minutes > 90 ? `${Math.round(minutes / 60)} h` : `${minutes} min`;
}

function say(text) {
  byId("status").textContent = text;
}

// ---- what is sent ----

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    keepalive: true,
  });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(content.error), { status: answer.status });
  return content;
}

function send(path, body, key = null) {
  outbox.push({ path, body: { annotator, ...body }, key });
  flush();
}

async function flush() {
  if (sending) return;
  sending = true;
  while (outbox.length) {
    const { path, body } = outbox[0];
    try {
      const answer = await post(path, body);
      outbox.shift();
      receive(answer);
    } catch (error) {
      if (error.status === 409) {
        outbox.shift();
        say(`Not counted: ${error.message}.`);
        if (!outbox.length) outbox.push({ path: "/api/next", body: { annotator }, key: null });
      } else {
        stop(error, path);
        break;
      }
    }
  }
  undoing = outbox.some(({ path }) => path === "/api/undo");
  sending = false;
}

function stop(error, path) {
  const why = error.status ? `The server says: ${error.message}.` : "The server cannot be reached.";
  const lost = path === "/api/vote" ? "Your last choice is not saved." : "The page has stopped.";
  state("stopped", lost, `${why} All choices before are safe; try again once that is mended.`);
  say("");
  byId("retry").focus();
}

function receive(answer) {
  const unsent = new Set(outbox.map(({ key }) => key));
  const known = new Map(items.map((item) => [item.key, item]));
  const before = items[0];
  items = answer.items
    .filter(({ pair, visit }) => !unsent.has(`${pair}/${visit}`))
    .map((data) => known.get(`${data.pair}/${data.visit}`) ?? new Item(data));
  tell(answer.progress);
  undoable = answer.progress.undo;
  buttons.get("undo").disabled = !undoable;
  clearTimeout(timer);
  if (!items.length) {
    nothing(answer.progress);
  } else if (items[0] !== before || document.body.dataset.state !== "pair") {
    show();
  }
}

function nothing(progress) {
  if (outbox.length) {
    state("loading");
  } else if (progress.open) {
    state("waiting", "Others have the last pairs.", "This page goes on when one comes back.");
    timer = setTimeout(() => send("/api/next", {}), WAIT);
  } else {
    state("done", "That was all. Thank you.", "Every choice is saved; you can close the page.");
  }
}

// ---- what a person does ----

function act(name) {
  if (document.body.dataset.state === "stopped") return;
  if (name === "full") {
    const on = document.body.classList.toggle("full");
    buttons.get("full").setAttribute("aria-pressed", String(on));
  } else if (name === "undo") {
    if (undoing || !undoable) return;
    undoing = true;
    say("Taken back; choose again.");
    send("/api/undo", {});
  } else {
    choose(name);
  }
}

function choose(choice) {
  const item = items[0];
  if (!item || undoing || document.body.dataset.state !== "pair") return;
  if (item.broken && choice !== "skip") {
    say("One of the two cannot be shown: this pair can only be skipped.");
    return;
  }
  const ms = Math.round(performance.now() - item.since);
  items.shift();
  undoable = true;
  flash(choice);
  chosen += 1;
  const pause = chosen % PAUSE === 0 ? ` ${chosen} choices in a row: time for a pause?` : "";
  say(`${SAID[choice]}.${ms < FAST ? " That was quick." : ""}${pause}`);
  if (items.length) show();
  else state("loading");
  send("/api/vote", { pair: item.data.pair, visit: item.data.visit, choice, ms }, item.key);
}

function flash(choice) {
  const button = buttons.get(choice);
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 140);
}

document.addEventListener("keydown", (event) => {
  const name = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const busy = byId("who").open || event.ctrlKey || event.metaKey || event.altKey;
  if (!name || busy) return;
  event.preventDefault();
  if (!event.repeat) act(name);
});
for (const [name, button] of buttons) button.addEventListener("click", () => act(name));
frames.forEach((frame, place) => {
  frame.addEventListener("click", () => {
    const whole = !document.body.classList.contains("full");
    if (whole && frame.classList.contains("media")) act(["left", "right"][place]);
  });
  frame.addEventListener("scroll", () => {
    const other = frames[1 - place];
    if (!document.body.classList.contains("full")) return;
    other.scrollTop = frame.scrollTop;
    other.scrollLeft = frame.scrollLeft;
  });
});
byId("retry").addEventListener("click", () => {
  state("loading");
  if (!outbox.length) send("/api/next", {});
  else flush();
});
addEventListener("beforeunload", (event) => {
  if (outbox.some(({ path }) => path !== "/api/next")) event.preventDefault();
});

// ---- under which name ----

function remembered() {
  const own = () => crypto.getRandomValues(new Uint8Array(3)).reduce(
    (text, byte) => text + byte.toString(16).padStart(2, "0"), "person-");
  try {
    const name = localStorage.getItem("annotator") ?? own();
    localStorage.setItem("annotator", name);
    return name;
  } catch {
    return own(); // a browser that keeps nothing
  }
}

byId("name").addEventListener("click", () => {
  byId("who-name").value = annotator;
  byId("who-wrong").textContent = "";
  byId("who").showModal();
  byId("who-name").select();
});
byId("who-leave").addEventListener("click", () => byId("who").close());
byId("who").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = byId("who-name").value.trim();
  try {
    const answer = await post("/api/next", { annotator: name });
    annotator = name;
    try {
      localStorage.setItem("annotator", name);
    } catch {} // as above
    byId("name").textContent = annotator;
    byId("who").close();
    items = [];
    receive(answer);
  } catch (error) {
    byId("who-wrong").textContent = error.message || "The server cannot be reached.";
  }
});

byId("name").textContent = annotator;
state("loading");
send("/api/next", {});
