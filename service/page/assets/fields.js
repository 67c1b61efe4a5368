// A form made from a schema of the API: what can be set is what the service says, so no field is forgotten.

import { ask } from "./api.js";
import { h } from "./dom.js";

let described = null;

export async function schemaOf(name) {
  described ??= ask("openapi.json").catch((error) => { described = null; throw error; });
  return (await described).components.schemas[name];
}

export const said = (name) => {
  const words = name.replace(/_s$/, ", seconds").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
};

// Of each kind of field: the element, from what is set now, and what is read from it; undefined where it says nothing.
const KINDS = {
  choice: {
    make: (of, now) => h("select", {}, of.enum.map((one) => h("option", { value: one, selected: one === now }, one))),
    read: (element) => element.value,
  },
  switch: {
    make: (of, now) => h("select", {}, [["", "as otherwise"], ["true", "yes"], ["false", "no"]].map(([value, words]) =>
      h("option", { value, selected: value === String(now ?? "") }, words))),
    read: (element) => (element.value ? element.value === "true" : undefined),
  },
  list: {
    make: (of, now) => h("input", { value: (now ?? []).join(", "), placeholder: "one, another" }),
    read: (element) => parts(element.value),
  },
  names: {
    make: (of, now) => h("input", { value: Object.entries(now ?? {}).map((one) => one.join("=")).join(", "), placeholder: "site=north, line=3" }),
    read: (element) => {
      const given = parts(element.value)?.map((one) => [one.split("=", 1)[0].trim(), one.slice(one.indexOf("=") + 1).trim()]);
      return given && Object.fromEntries(given);
    },
  },
  number: {
    make: (of, now) => h("input", { type: "number", step: "any", min: of.minimum, max: of.maximum, value: now }),
    read: (element) => (element.value === "" ? undefined : Number(element.value)),
  },
  text: { make: (of, now) => h("input", { value: now }), read: (element) => element.value || undefined },
};

function parts(text) {
  const found = text.split(",").map((one) => one.trim()).filter(Boolean);
  return found.length ? found : undefined;
}

function kindOf(of) {
  if (of.enum) return "choice";
  return { boolean: "switch", array: "list", object: "names", number: "number", integer: "number" }[of.type] ?? "text";
}

// A form with a field for each property; `save` is given all that is set.
export function form(schema, now, save, word = "Save") {
  const required = (name) => schema.required?.includes(name) ?? false;
  const sorted = Object.entries(schema.properties).sort(([one], [other]) => required(other) - required(one));
  const fields = sorted.map(([name, whole]) => {
    const of = whole.anyOf?.find((one) => one.type !== "null") ?? whole;
    const kind = KINDS[kindOf(of)], element = kind.make(of, now[name]);
    element.required = required(name);
    if (whole.description) element.title = whole.description;
    return { name, element, read: () => kind.read(element) };
  });
  return h("form", {
    class: "row",
    onsubmit: (event) => {
      event.preventDefault();
      save(Object.fromEntries(fields.map(({ name, read }) => [name, read()]).filter(([, value]) => value !== undefined)));
    },
  }, fields.map(({ name, element }) => h("label", {}, said(name), element)), h("button", {}, word));
}

// What is set, in words.
export function words(set) {
  const shown = (value) => (Array.isArray(value) ? value.join(", ")
    : value && typeof value === "object" ? Object.entries(value).map((one) => one.join("=")).join(", ")
      : value === true ? "yes" : value === false ? "no" : String(value));
  return Object.entries(set).map(([name, value]) => `${said(name)}: ${shown(value)}`).join("; ");
}
