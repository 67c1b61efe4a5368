// Models: versions and aliases, which rule gives a stream its model; promote and roll back.

import { ask } from "./api.js";
import { h, moment, table } from "./dom.js";

const CHAMPION = "champion";

export async function models({ room, signal, say, fail }) {
  const found = await ask("v1/models", { signal });
  room.append(h("h1", {}, "Models"),
    h("dl", {}, h("dt", {}, "Default"), h("dd", {}, found.default)));
  if (!found.models.length) {
    room.append(h("p", { class: "soft" }, "The repository (GATEWATCH_MODELS) has no model, or there is none."));
    return;
  }
  const act = (path, body, what) => async () => {
    try {
      await ask(path, { method: "POST", body });
      say(what);
      dispatchEvent(new HashChangeEvent("hashchange"));
    } catch (error) {
      fail(error);
    }
  };
  for (const { model } of found.models) {
    const path = `v1/models/${encodeURIComponent(model)}`, one = await ask(path, { signal });
    const aliasesOf = (version) => Object.entries(one.aliases).filter(([, to]) => to.version === version).map(([name]) => name);
    const champion = one.aliases[CHAMPION];
    room.append(h("h2", {}, model), table(`Versions of ${model}`, [
      { name: "Version", number: true, of: (of) => of.version },
      { name: "Aliases", of: (of) => aliasesOf(of.version).join(", ") },
      { name: "Digest", of: (of) => of.digest },
      { name: "", of: (of) => h("button", {
        disabled: champion?.version === of.version,
        onclick: act(`${path}/promote`, { version: of.version }, `${model} ${of.version} is champion`),
      }, `Promote ${of.version}`) },
    ], one.versions), h("p", {}, h("button", {
      disabled: !champion?.before?.length,
      onclick: act(`${path}/rollback`, {}, `${model} is rolled back`),
    }, `Roll ${model} back`)));
  }
  const rules = await ask("v1/rules", { signal });
  room.append(h("h2", {}, "Rules, the first that fits decides"),
    rules.rules.length ? table("Rules", [
      { name: "Streams", of: (of) => of.pattern }, { name: "Model", of: (of) => of.model },
    ], rules.rules) : h("p", { class: "soft" }, "None: every stream has the default."),
    h("p", { class: "soft" }, "Changed ", moment(rules.changed_at), rules.changed_by ? ` by ${rules.changed_by}` : ""));
}
