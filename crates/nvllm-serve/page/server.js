// What the page knows of its server: whether it is there, which models it has, which key it wants.

import { apiKey, models, readiness, setApiKey } from "./api.js";
import { byId, el } from "./dom.js";
import { ask } from "./panels.js";

const sleep = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Asks for a key and keeps it. Whether one was given, or the wish to have none. */
export async function askForKey(text = "") {
  const key = await ask({ title: "API key", text, label: "Key, kept in this browser only", value: apiKey(), ok: "Use key", type: "password" });
  if (key === null) return false;
  setApiKey(key);
  return true;
}

function showBanner(words) {
  byId("banner").hidden = !words;
  byId("banner").textContent = words;
}

let attempts = 0;

/**
 * Asks for the models until they are known and can be used, and shows them with the one selected
 * that `wanted()` says. A later call takes the place of an earlier one.
 */
export async function connect(wanted) {
  attempts += 1;
  const attempt = attempts;
  let isRefused = false;
  while (attempt === attempts) {
    try {
      showModels(await models(), wanted());
      const { status, progress } = await readiness();
      if (status !== "loading") return showBanner("");
      showBanner(loading(progress));
    } catch (error) {
      if (error.status === 401) {
        if (!(await askForKey(isRefused ? "The server refused this key." : "This server asks for a key."))) {
          return showBanner("This server asks for an API key: give one in the settings.");
        }
        isRefused = true;
        continue;
      }
      const { progress } = error.status === 503 ? await readiness() : {};
      showBanner(error.status === 503 ? loading(progress) : `${error.message} The page tries again.`);
    }
    await sleep(1000);
  }
}

const loading = (progress) => `The model is being loaded${progress ? `: ${Math.round(progress * 100)} %` : ""}.`;

let known = [];

function showModels(list, wanted) {
  known = list;
  byId("model").replaceChildren(...known.map(({ id }) => el("option", { value: id }, id)));
  selectModel(wanted);
}

/** Selects a model, the first if there is none of this name. */
export function selectModel(name) {
  const card = known.find(({ id }) => id === name) ?? known[0];
  if (!card) return;
  byId("model").value = card.id;
  const context = card.max_model_len ? ` · context of ${card.max_model_len.toLocaleString("en")} tokens` : "";
  byId("welcome-model").textContent = card.id + context;
}

/** The model that is asked; empty while none is known. */
export const selectedModel = () => byId("model").value;
