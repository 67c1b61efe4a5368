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
    make: (of, now) => h("select", {}, [...(of.optional ? [""] : []), ...of.enum].map((one) =>
      h("option", { value: one, selected: one === (now ?? of.default ?? "") }, one || "either"))),
    read: (element, of) => element.value || (of.required ? null : undefined),
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
  entries: { // several of the same kind, each with fields of its own
    make: (of, now, name) => {
      const one = said(name).replace(/s$/, ""), list = h("div", { class: "entries" }), element = h("fieldset", {}, h("legend", {}, said(name)));
      const number = () => [...list.children].forEach((entry, at) => {
        entry.setAttribute("aria-label", `${one} ${at + 1}`);
        entry.querySelector(":scope > button").setAttribute("aria-label", `Take ${one.toLowerCase()} ${at + 1} away`);
      });
      const add = (values) => {
        const fields = fieldsOf(of.items, values);
        const entry = h("div", { class: "row entry", role: "group" }, fields.map(labelled), h("button", {
          type: "button", onclick: () => { entry.remove(); number(); more.focus(); },
        }, "Take away"));
        entry.read = () => readAll(fields);
        list.append(entry);
        number();
        return entry;
      };
      const more = h("button", { type: "button", onclick: () => add({}).querySelector("input, select").focus() }, `Add a ${one.toLowerCase()}`);
      (now ?? []).forEach(add);
      element.append(list, more);
      return element;
    },
    read: (element) => {
      const entries = [...element.querySelector(".entries").children].map((entry) => entry.read());
      return entries.length ? entries : undefined;
    },
  },
  text: {
    make: (of, now) => h("input", { value: now, ...(of.format === "date-time" && { placeholder: "2026-05-04T10:00:00+02:00", size: 27 }) }),
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
  if (of.type === "array" && of.items.type === "object") return "entries";
  if (of.properties) return "measure";
  return { boolean: "switch", array: "list", object: "names", number: "number", integer: "number" }[of.type] ?? "text";
}

// A field for each property of a schema: its name, its element, and what is read from it.
function fieldsOf(schema, now) {
  const required = (name) => schema.required?.includes(name) ?? false;
  const first = (name) => required(name) || name === "channel"; // whose it is, before what is asked
  const sorted = Object.entries(schema.properties).sort(([one], [other]) => first(other) - first(one));
  return sorted.map(([name, whole]) => {
    const optional = whole.anyOf?.some((one) => one.type === "null") && (whole.default ?? null) === null;
    const of = { default: whole.default, optional, required: required(name), ...resolved(whole.anyOf?.find((one) => one.type !== "null") ?? whole) };
    if (of.items) of.items = resolved(of.items);
    const kind = KINDS[kindOf(of)], element = kind.make(of, now[name], name);
    element.required = required(name) && !optional;
    if (whole.description) element.title = whole.description;
    return { name, element, read: () => kind.read(element, of) };
  });
}

const labelled = ({ name, element }) => (element.tagName === "FIELDSET" ? element : h("label", {}, said(name), element));

const readAll = (fields) =>
  Object.fromEntries(fields.map(({ name, read }) => [name, read()]).filter(([, value]) => value !== undefined));

// A form with a field for each property; `save` is given all that is set.
export function form(schema, now, save, word = "Save") {
  const fields = fieldsOf(schema, now);
  return h("form", {
    class: "row",
    onsubmit: (event) => {
      event.preventDefault();
      save(readAll(fields));
    },
  }, fields.map(labelled), h("button", {}, word));
}

// What is set, in words.
export function words(set) {
  const shown = (value) => (Array.isArray(value) ? value.map((one) => (typeof one === "object" ? `(${shown(one)})` : one)).join(", ")
    : value && typeof value === "object" ? Object.entries(value).filter((one) => one[1] !== null).map((one) => one.join("=")).join(", ")
      : value === true ? "yes" : value === false ? "no" : String(value));
  const empty = (value) => value === "" || value === null || (typeof value === "object" && !Object.keys(value).length);
  return Object.entries(set).filter(([, value]) => !empty(value)).map(([name, value]) => `${said(name)}: ${shown(value)}`).join("; ");
}
