// Elements, times and numbers. Text from the service is only ever set as text, never as markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function table(caption, columns, rows) {
  const cell = (tag, value, column, extra = {}) => h(tag, { class: column.number ? "number" : column.kind, ...extra }, ...[value ?? ""].flat());
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map((column) => cell("th", column.name, column, { scope: "col", "aria-sort": column.sorted })))),
      h("tbody", {}, rows.map((row, at) => h("tr", {}, columns.map((column) => cell("td", column.of(row, at), column)))))));
}

export function number(value, digits = 4) {
  return value === null || value === undefined ? "–" : Number(value).toLocaleString("en", { maximumSignificantDigits: digits });
}

export function moment(text) {
  if (!text) return "–";
  return h("time", { datetime: text, title: text }, new Date(text).toLocaleString());
}

export function duration(from, to) {
  const seconds = Math.max(0, (new Date(to) - new Date(from)) / 1000);
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

export function streamLink(name) {
  return h("a", { href: `#/streams/${encodeURIComponent(name)}` }, name);
}

export function problem(error) {
  return h("p", { class: "error", role: "alert" }, error.message);
}
