// A form made from a schema of the API: what can be set is what the service says, so no field is forgotten.

import { ask } from "./api.js";
import { h } from "./dom.js";

let described = null, schemas = {};

export async function schemaOf(name) {
  described ??= ask("openapi.json").catch((error) => { described = null; throw error; });
  schemas = (await described).components.schemas;
  return schemas[name];
}

export const said = (name) => {
  const words = name.replace(/_s$/, ", seconds").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
};

// Of each kind of field: the element, from what is set now, and what is read from it; undefined where it says nothing.
const KINDS = {
  choice: {
    make: (of, now) => h("select", {}, of.enum.map((one) => h("option", { value: one, selected: one === (now ?? of.default) }, one))),
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
  measure: { // one of several numbers, as so many readings or seconds
    make: (of, now) => {
      const [unit, value] = Object.entries(now ?? {})[0] ?? [];
      return h("span", { class: "measure" }, h("input", { type: "number", step: "any", min: 0, value }),
        h("select", { "aria-label": "Unit" }, Object.keys(of.properties).map((one) => h("option", { value: one, selected: one === unit }, one))));
    },
    read: (element) => {
      const [value, unit] = element.children;
      return value.value === "" ? undefined : { [unit.value]: Number(value.value) };
    },
  },
  json: {
    make: (of, now) => {
      const element = h("textarea", { rows: 2, placeholder: `[{"${Object.keys(of.items?.properties ?? {}).join('": …, "')}": …}]` });
      element.value = now ? JSON.stringify(now) : "";
      element.addEventListener("input", () => {
        let wrong = "";
        try { if (element.value.trim()) JSON.parse(element.value); } catch (error) { wrong = `Not JSON: ${error.message}`; }
        element.setCustomValidity(wrong);
      });
      return element;
    },
    read: (element) => (element.value.trim() ? JSON.parse(element.value) : undefined),
  },
  text: {
    make: (of, now) => h("input", { value: now, placeholder: of.format === "date-time" ? "2026-05-04T10:00:00+02:00" : null }),
    read: (element) => element.value || undefined,
  },
};

function parts(text) {
  const found = text.split(",").map((one) => one.trim()).filter(Boolean);
  return found.length ? found : undefined;
}

const resolved = (of) => (of?.$ref ? schemas[of.$ref.split("/").at(-1)] : of);

function kindOf(of) {
  if (of.enum) return "choice";
  if (of.type === "array" && of.items.type === "object") return "json";
  if (of.properties) return "measure";
  return { boolean: "switch", array: "list", object: "names", number: "number", integer: "number" }[of.type] ?? "text";
}

// A form with a field for each property; `save` is given all that is set.
export function form(schema, now, save, word = "Save") {
  const required = (name) => schema.required?.includes(name) ?? false;
  const sorted = Object.entries(schema.properties).sort(([one], [other]) => required(other) - required(one));
  const fields = sorted.map(([name, whole]) => {
    const of = { default: whole.default, ...resolved(whole.anyOf?.find((one) => one.type !== "null") ?? whole) };
    if (of.items) of.items = resolved(of.items);
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
  const shown = (value) => (Array.isArray(value) ? value.map((one) => (typeof one === "object" ? `(${shown(one)})` : one)).join(", ")
    : value && typeof value === "object" ? Object.entries(value).map((one) => one.join("=")).join(", ")
      : value === true ? "yes" : value === false ? "no" : String(value));
  return Object.entries(set).filter(([, value]) => value !== "" && value !== null).map(([name, value]) => `${said(name)}: ${shown(value)}`).join("; ");
}
