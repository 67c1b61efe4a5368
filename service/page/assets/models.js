// Models: versions and aliases, which rule gives a stream its model; promote and roll back.

import { ask } from "./api.js";
import { h, moment, table } from "./dom.js";

export async function models({ room, signal, say, fail }) {
  const [ready, found] = await Promise.all([
    ask("readyz", { signal }).catch(() => null),
    ask("v1/models", { signal }).catch((error) => { if (error.status === 404) return null; throw error; }),
  ]);
  room.append(h("h1", {}, "Models"));
  if (ready) room.append(h("dl", {}, h("dt", {}, "Serving"), h("dd", {}, ready.model ?? "–")));
  if (!found) {
    room.append(h("p", { class: "soft" }, "This service has no repository of models (GATEWATCH_MODELS)."));
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
  for (const model of found.models) {
    const path = `v1/models/${encodeURIComponent(model.name)}`;
    room.append(h("h2", {}, model.name), table(`Versions of ${model.name}`, [
      { name: "Version", number: true, of: (one) => one.version },
      { name: "Aliases", of: (one) => (one.aliases ?? []).join(", ") },
      { name: "Added", of: (one) => moment(one.added) },
      { name: "Digest", of: (one) => one.digest },
      { name: "", of: (one) => h("button", {
        disabled: (one.aliases ?? []).includes("champion"),
        onclick: act(`${path}/promote`, { version: one.version, alias: "champion" }, `${model.name} ${one.version} is champion`),
      }, "Promote") },
    ], model.versions ?? []), h("p", {}, h("button", {
      onclick: act(`${path}/rollback`, { alias: "champion" }, `${model.name} is rolled back`),
    }, "Roll back")));
  }
  const rules = await ask("v1/rules", { signal }).catch(() => null);
  if (rules) room.append(h("h2", {}, "Rules, the first that fits decides"), table("Rules", [
    { name: "Streams", of: (one) => one.pattern }, { name: "Model", of: (one) => one.model },
  ], rules.rules));
}
