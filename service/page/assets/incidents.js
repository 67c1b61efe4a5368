// Incidents: what is open, what was, and what a person says of each.

import { ask, listen } from "./api.js";
import { duration, h, moment, number, streamLink, table } from "./dom.js";
import { drawEntries } from "./stream.js";

const REASONS = {
  event: "a reading far from the forecast", level: "the level has moved, or how much it moves",
  still: "a value stands still", absent: "a value is missing", range: "outside what the stream has ever shown",
  shape: "a cycle that is not like those before",
  limit: "outside the limits that its policy sets",
  silent: "the stream sends no more",
};
const LABELS = { true: "a real fault", false_alarm: "a false alarm", expected: "expected" };

export function summary(one) {
  const worst = one.channels?.[0];
  const what = REASONS[one.reason] ?? one.reason ?? "";
  if (!worst) return what;
  const [low, , high] = worst.expected ?? [];
  const band = low === undefined || low === null ? "" : `, expected ${number(low)} to ${number(high)}`;
  const actual = worst.actual === null || worst.actual === undefined ? "" : `: ${number(worst.actual)}${band}`;
  return `${worst.channel} ${worst.direction ?? ""}${actual}; ${what}`;
}

function length(one) {
  if (one.reason === "silent" && one.state === "open") return ["last heard ", moment(one.last)];
  if (one.start === one.last) return [one.judged === 1 ? "one reading" : `${one.judged} readings of one time`];
  return [duration(one.start, one.last)];
}

function person() {
  return localStorage.getItem("gatewatch-person") ?? "";
}

function actions(one, changed, fail) {
  const act = (path, body) => async () => {
    try {
      changed(await ask(`v1/incidents/${encodeURIComponent(one.id)}/${path}`, { method: "POST", body: { ...body, by: person() } }));
    } catch (error) {
      fail(error);
    }
  };
  const note = h("input", { "aria-label": "Note", placeholder: "a note", maxlength: 1000 });
  const label = h("select", { "aria-label": "Label" }, h("option", { value: "" }, "label as…"),
    Object.entries(LABELS).map(([value, words]) => h("option", { value, selected: value === one.label }, words)));
  label.addEventListener("change", () => label.value && act("label", { label: label.value })());
  return h("form", {
    class: "row",
    onsubmit: (event) => { event.preventDefault(); if (note.value.trim()) act("note", { text: note.value.trim() })(); },
  },
  h("button", { type: "button", disabled: Boolean(one.acknowledged), onclick: act("acknowledge", {}) },
    one.acknowledged ? "Acknowledged" : "Acknowledge"),
  one.state === "open" && one.reason !== "silent" ? h("button", { type: "button", onclick: act("close", {}) }, "Close") : null,
  label, note, h("button", {}, "Add note"));
}

function card(one, changed, fail) {
  const open = one.state === "open";
  return h("article", { class: `card ${one.state}`, "data-id": one.id },
    h("h2", {}, streamLink(one.stream), " ", h("span", { class: open ? "anomalous" : "soft" }, open ? "open" : "ended")),
    h("p", {}, summary(one)),
    h("p", { class: "soft" }, "Since ", moment(one.start), ", ", ...length(one), `, highest score ${number(one.peak_score)}. `,
      h("a", { href: `#/incidents/${encodeURIComponent(one.id)}` }, "Details")),
    one.told === false ? h("p", { class: "soft" }, one.untold === "window"
      ? `Nobody is told: maintenance${one.window ? ` (${one.window})` : ""}` : "Nobody is told yet: the incident before has just ended") : null,
    one.acknowledged ? h("p", { class: "soft" }, `Acknowledged by ${one.acknowledged.by || "somebody"}`) : null,
    one.closed ? h("p", { class: "soft" }, `Closed by ${one.closed.by || "somebody"}`) : null,
    one.label ? h("p", { class: "soft" }, `Labelled as ${LABELS[one.label] ?? one.label}`) : null,
    (one.notes ?? []).map((note) => h("p", { class: "soft" }, `${note.by || "Somebody"}: ${note.text}`)),
    actions(one, changed, fail));
}

function whoField() {
  const field = h("input", { name: "person", value: person(), autocomplete: "name", maxlength: 64 });
  field.addEventListener("change", () => localStorage.setItem("gatewatch-person", field.value.trim()));
  return h("label", {}, "Your name, for what you acknowledge", field);
}

export async function incidents({ room, signal, query, fail }) {
  const state = query.get("state") ?? "", stream = query.get("stream") ?? "";
  const asked = new URLSearchParams({ limit: "50", ...(state && { state }), ...(stream && { stream }) });
  const page = await ask(`v1/incidents?${asked}`, { signal });
  const known = new Map(page.incidents.map((one) => [one.id, one]));
  const list = h("div", { "aria-live": "polite" }), next = h("p");
  const changed = (one) => { known.set(one.id, one); draw(); };
  function draw() {
    if (list.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return; // somebody writes
    const all = [...known.values()].sort((one, other) =>
      (one.state === "open") === (other.state === "open") ? other.start.localeCompare(one.start) : one.state === "open" ? -1 : 1);
    list.replaceChildren(...(all.length ? all.map((one) => card(one, changed, fail))
      : [h("p", {}, "Nothing is wrong: no incident is open and none is kept.")]));
  }
  room.append(h("h1", {}, "Incidents"),
    h("form", {
      class: "row", role: "search",
      onsubmit: (event) => {
        event.preventDefault();
        const given = new FormData(event.target);
        given.delete("person");
        location.hash = `#/incidents?${new URLSearchParams(given)}`;
      },
    },
    h("label", {}, "Stream, * for anything", h("input", { type: "search", name: "stream", value: stream })),
    h("label", {}, "State", h("select", { name: "state" }, ["", "open", "ended"].map((one) =>
      h("option", { value: one, selected: one === state }, one || "any")))),
    h("button", {}, "Search"), whoField()), list, next);
  if (page.next) next.append(h("button", {
    onclick: async (event) => {
      asked.set("after", page.next);
      const more = await ask(`v1/incidents?${asked}`, { signal }).catch(fail);
      if (!more) return;
      for (const one of more.incidents) known.set(one.id, one);
      page.next = more.next;
      if (!more.next) event.target.remove();
      draw();
    },
  }, "Older ones"));
  draw();
  listen("v1/incidents/stream", signal, (one) => {
    const fits = (!state || one.state === state) && (!stream || matches(stream, one.stream));
    if (fits || known.has(one.id)) changed(one);
  }, (connected, error) => { if (!connected && error) fail(error); });
}

function matches(pattern, name) {
  const literal = pattern.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join(".*");
  return new RegExp(`^${literal}$`).test(name);
}

export async function incident({ room, signal, fail }, id) {
  const path = `v1/incidents/${encodeURIComponent(id)}`;
  let one = await ask(path, { signal });
  const place = h("div"), charts = h("div");
  const changed = (next) => { one = { ...one, ...next }; draw(); };
  function draw() {
    place.replaceChildren(card(one, changed, fail),
      table("Channels", [
        { name: "Channel", of: (of) => of.channel }, { name: "Direction", of: (of) => of.direction ?? "–" },
        { name: "Share", number: true, of: (of) => (of.share === undefined ? "–" : `${(100 * of.share).toFixed(0)} %`) },
        { name: "Actual at the peak", number: true, of: (of) => number(of.actual) },
        { name: "Expected", of: (of) => (of.expected ?? []).map((value) => number(value)).join(" … ") },
      ], (one.channels ?? []).filter((of, at) => at === 0 || of.share >= 0.005)));
  }
  draw();
  room.append(h("h1", {}, `Incident of ${one.stream}`), place, h("h2", {}, "Readings around it"), charts, whoField());
  room.addEventListener("shown", () => {
    if (!one.readings?.length) charts.append(h("p", { class: "soft" }, "Its readings are not kept any more."));
    else {
      const plots = drawEntries(charts, one.readings, id);
      signal.addEventListener("abort", () => plots.end());
    }
  }, { once: true });
}
