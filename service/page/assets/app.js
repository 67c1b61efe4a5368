// The page: which view an address shows, what stands in the header, and the key where one is needed.

import { ask, key, Problem } from "./api.js";
import { h, problem } from "./dom.js";
import { health } from "./health.js";
import { incident, incidents } from "./incidents.js";
import { models } from "./models.js";
import { policies } from "./policies.js";
import { stream } from "./stream.js";
import { streams } from "./streams.js";

const VIEWS = [
  [/^\/incidents$/, incidents], [/^\/incidents\/([^/]+)$/, incident],
  [/^\/streams$/, streams], [/^\/streams\/([^/]+)$/, stream],
  [/^\/policies$/, policies], [/^\/models$/, models], [/^\/health$/, health],
];
const main = document.getElementById("main"), status = document.getElementById("status");
let shown = new AbortController(), waiting = false;

export function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

async function show(focus) {
  shown.abort();
  shown = new AbortController();
  waiting = false;
  const { signal } = shown, [path, query] = (location.hash.slice(1) || "/incidents").split("?");
  for (const link of document.querySelectorAll("nav a"))
    if (path.startsWith(link.hash.slice(1)) && link.hash) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  const room = h("div");
  const [pattern, view] = VIEWS.find(([pattern]) => pattern.test(path)) ?? [/./, null];
  try {
    if (view === null) throw new Problem(404, `There is no view at ${path}.`);
    const given = pattern.exec(path).slice(1).map(decodeURIComponent);
    await view({ room, signal, say, query: new URLSearchParams(query), fail, change: (act, what) => change(room, act, what) }, ...given);
  } catch (error) {
    if (signal.aborted) return;
    fail(error);
    if (!room.querySelector("h1")) room.append(h("h1", {}, "Not shown"));
    room.append(problem(error));
    waiting = error.status === 0 || error.status === 503;
    if (waiting) room.append(h("p", { class: "soft" }, "It is asked again by itself."));
    if (error.status === 401) room.append(h("p", {}, h("button", { onclick: () => signIn(error.message) }, "Sign in")));
  }
  if (signal.aborted) return;
  main.replaceChildren(room);
  room.dispatchEvent(new Event("shown"));
  document.title = `${room.querySelector("h1")?.textContent ?? "Gatewatch"} · Gatewatch`;
  if (focus) main.focus();
}

// Changes what the service holds, and shows it anew. What is shown takes no second change meanwhile: it would be asked by what no longer is.
async function change(room, act, what) {
  if (room.inert) return;
  room.inert = true;
  try {
    await act();
    say(what);
    await show(false);
  } catch (error) {
    fail(error);
    if (error.status === 412) await show(false);
  }
  room.inert = false;
}

function fail(error) {
  if (error.status === 401) signIn(error.message);
  say(error.message, true);
}

function signIn(why) {
  if (document.querySelector("dialog")) return;
  const field = h("input", { type: "password", name: "key", autocomplete: "off", required: true });
  const dialog = h("dialog", { "aria-labelledby": "sign-in" },
    h("form", {
      onsubmit: (event) => { event.preventDefault(); key.set(field.value.trim()); dialog.close(); },
    }, h("h2", { id: "sign-in" }, "This service needs a key"), h("p", { class: "soft" }, why),
    h("label", {}, "API key (kept in this tab only)", field), h("p", {}, h("button", {}, "Sign in")),
    h("p", { class: "soft" }, "Whoever runs the service makes one: ", h("code", {}, "gatewatch keys create --scopes read,operate"))));
  dialog.addEventListener("close", () => { dialog.remove(); if (key.get()) show(true); });
  document.body.append(dialog);
  dialog.showModal();
}

async function watch() {
  try {
    const ready = await ask("readyz");
    say(ready.warnings?.length ? `Ready, with ${ready.warnings.length} warnings` : "Ready");
    if (waiting) show(false);
  } catch (error) {
    if (error.status !== 401) say(error.status ? `Not ready: ${error.message}` : error.message, true);
  }
}

addEventListener("hashchange", () => show(true));
show(false);
watch();
let turn = 0;
setInterval(() => { if (!document.hidden && (++turn % 3 === 0 || waiting)) watch(); }, 5000);
