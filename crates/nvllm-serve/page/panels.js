// What lies beside and above the conversation: drawers, the dialog, short messages.

import { byId, el } from "./dom.js";

const NARROW = matchMedia("(max-width: 55rem)");

/** A panel at the side. On narrow screens it lies above all else. */
export class Drawer {
  #panel;
  #opener;

  /** `opensWide`: whether it is open by itself where there is room. */
  constructor(panel, opener, closer, opensWide = false) {
    this.#panel = byId(panel);
    this.#opener = byId(opener);
    this.#opener.addEventListener("click", () => this.toggle(this.#panel.hidden));
    byId(closer).addEventListener("click", () => this.close());
    // A touch beside it.
    byId("stage").addEventListener("pointerdown", (event) => {
      if (this.uncover()) event.preventDefault();
    }, true);
    const reset = () => this.toggle(opensWide && !NARROW.matches);
    NARROW.addEventListener("change", reset);
    reset();
  }

  toggle(isOpen) {
    this.#panel.hidden = !isOpen;
    this.#opener.setAttribute("aria-expanded", String(isOpen));
    const covers = NARROW.matches && isOpen;
    document.body.classList.toggle("covered", covers);
    for (const part of byId("stage").children) part.inert = covers;
    if (covers) this.#panel.querySelector("button, textarea").focus();
  }

  /** Closes it and gives the focus back. */
  close() {
    this.toggle(false);
    this.#opener.focus();
  }

  /** Closes it if it covers the conversation, and says whether it did. */
  uncover() {
    const covered = NARROW.matches && !this.#panel.hidden;
    if (covered) this.close();
    return covered;
  }
}

/** Asks for a line of text. The text, or null if the dialog was left. */
export function ask({ title, text = "", label, value = "", ok, type = "text" }) {
  const dialog = byId("ask");
  const input = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-text").hidden = !text;
  byId("ask-label").textContent = label;
  byId("ask-ok").textContent = ok;
  Object.assign(input, { type, value });
  dialog.returnValue = "cancel";
  if (!dialog.open) dialog.showModal();
  input.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? input.value.trim() : null), { once: true });
  });
}

// A key in the line means the button that agrees, which is not the form's first.
byId("ask-input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  byId("ask").close("ok");
});

let hiding;

/** Says something for a while, with what can be done about it. */
export function toast(text, action, run) {
  const box = byId("toast");
  const button = action && el("button", { type: "button", class: "link", onclick: () => { box.hidden = true; run(); } }, action);
  box.replaceChildren(el("span", {}, text), ...(button ? [button] : []));
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { box.hidden = true; }, action ? 10_000 : 5_000);
}

/** Says something to those who hear the page. */
export const announce = (text) => { byId("announcer").textContent = text; };
