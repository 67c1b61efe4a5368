// Policies: what is asked of streams by pattern, in order, changed in place; and which streams have one of their own.

import { ask } from "./api.js";
import { h, moment, streamLink, table } from "./dom.js";
import { form, schemaOf, words } from "./fields.js";

export async function policies({ room, signal, change }) {
  const [found, { windows }, schema, window] = await Promise.all([
    ask("v1/policies", { signal }), ask("v1/windows", { signal }), schemaOf("PolicyOfPattern"), schemaOf("Window"),
  ]);
  const act = (path, options, what) => () => change(() => ask(path, options), what);
  const put = (policies, what) =>
    act("v1/policies", { method: "PUT", body: { policies, streams: found.streams }, seen: found.number }, what);
  const windowAt = (name) => `v1/windows/${encodeURIComponent(name)}`;
  const without = (at) => found.policies.filter((_, place) => place !== at);
  const earlier = (at) => found.policies.toSpliced(at - 1, 2, found.policies[at], found.policies[at - 1]);
  const asked = ({ pattern, ...rest }) => words(rest);
  room.append(h("h1", {}, "Policies"),
    h("p", { class: "soft" }, "All that fit a stream's name count; a later one replaces what an earlier one said. Every process goes by them within two seconds."),
    found.policies.length ? table("Policies by pattern", [
      { name: "Streams", of: (one) => one.pattern },
      { name: "What is asked", of: asked },
      { name: "Order", of: (one, at) => h("button", {
        disabled: at === 0, "aria-label": `Put ${one.pattern} one earlier`, onclick: put(earlier(at), `${one.pattern} is one earlier`),
      }, "Earlier") },
      { name: "Change", of: (one, at) => h("button", {
        "aria-label": `Take ${one.pattern} away`, onclick: put(without(at), `${one.pattern} is taken away`),
      }, "Take away") },
    ], found.policies) : h("p", {}, "Nothing is asked by pattern."),
    h("h2", {}, "Ask something"),
    form(schema, {}, (entry) => put([...found.policies.filter((one) => one.pattern !== entry.pattern), entry], `${entry.pattern} is asked`)(), "Ask"));
  const own = Object.entries(found.streams);
  room.append(h("h2", {}, "Streams with a policy of their own"),
    own.length ? table("Streams with a policy of their own", [
      { name: "Stream", of: ([name]) => streamLink(name) }, { name: "What is asked", of: ([, one]) => words(one) },
    ], own) : h("p", { class: "soft" }, "None."),
    h("h2", {}, "Maintenance windows"),
    Object.keys(windows).length ? table("Maintenance windows", [
      { name: "Window", of: ([name]) => name },
      { name: "Now", of: ([, one]) => (one.active ? "going on" : "") },
      { name: "What", of: ([, { active, ...one }]) => words(one) },
      { name: "Change", of: ([name]) => h("button", {
        "aria-label": `End the window ${name}`, onclick: act(windowAt(name), { method: "DELETE" }, `${name} is ended`),
      }, "End") },
    ], Object.entries(windows)) : h("p", { class: "soft" }, "None."),
    form({ ...window, properties: { name: { type: "string" }, ...window.properties }, required: ["name"] }, {},
      ({ name, ...rest }) => act(windowAt(name), { method: "PUT", body: rest }, `The window ${name} is set`)(), "Set window"),
    found.at ? h("p", { class: "soft" }, "Changed ", moment(found.at), found.by ? ` by ${found.by}` : "") : "");
}
