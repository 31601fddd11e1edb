// The panel of settings: a form for what a conversation's requests have beside its messages.

import { NO_SETTINGS } from "./conversation.js";
import { byId, el } from "./dom.js";

// The limits are hints for the arrows; what cannot be met the server refuses in its own words.
const SAMPLING = [
  { name: "temperature", label: "Temperature", min: 0, step: 0.1 },
  { name: "top_p", label: "Top-p", min: 0, max: 1, step: 0.05 },
  { name: "top_k", label: "Top-k", min: -1, step: 1 },
  { name: "min_p", label: "Min-p", min: 0, max: 1, step: 0.05 },
  { name: "max_tokens", label: "Max tokens", min: 1, step: 1 },
  { name: "seed", label: "Seed", step: 1 },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0, step: 0.05 },
];

export class Settings {
  #form = byId("settings-form");

  /** `changed(settings)` is called with all settings when one has changed. */
  constructor(changed) {
    byId("sampling").append(...SAMPLING.map(({ name, label, ...limits }) =>
      el("label", { class: "field" }, label, el("input", { name, type: "number", inputmode: !(limits.min < 0) && "decimal", placeholder: "Default", autocomplete: "off", ...limits }))));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("input", () => changed(this.#read()));
    byId("reset").addEventListener("click", () => {
      this.show(NO_SETTINGS);
      changed(this.#read());
    });
  }

  /** Shows a conversation's settings. */
  show({ system, sampling, thinking, json, logprobs }) {
    const { elements } = this.#form;
    elements.system.value = system;
    elements.thinking.value = thinking;
    elements.json.checked = json;
    elements.logprobs.checked = logprobs;
    for (const { name } of SAMPLING) elements[name].value = sampling[name] ?? "";
  }

  #read() {
    const { elements } = this.#form;
    const sampling = {};
    for (const { name } of SAMPLING) {
      const value = elements[name].valueAsNumber;
      if (!Number.isNaN(value)) sampling[name] = value;
    }
    return {
      system: elements.system.value,
      sampling,
      thinking: elements.thinking.value,
      json: elements.json.checked,
      logprobs: elements.logprobs.checked,
    };
  }
}
