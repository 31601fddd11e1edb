// Where messages are written.

import { byId } from "./dom.js";

/** On a screen keyboard Enter is for lines: there is a button to send. */
const HAS_KEYS = matchMedia("(hover: hover) or (pointer: fine)");

export class Composer {
  #input = byId("input");
  #edited = null;
  #draft = "";
  #actions;

  /** `send(text, edited)` is called with what was written, `editLast()` for the key that edits. */
  constructor(actions) {
    this.#actions = actions;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => actions.stop());
    byId("cancel-edit").addEventListener("click", () => this.cancelEdit());
    this.#input.addEventListener("input", () => this.#fit());
    this.#input.addEventListener("keydown", (event) => this.#onKey(event));
  }

  #onKey(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && HAS_KEYS.matches) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "ArrowUp" && this.#input.value === "") {
      if (this.#actions.editLast()) event.preventDefault();
    }
  }

  #send() {
    const text = this.#input.value.trim();
    if (!text || !this.#actions.send(text, this.#edited)) return;
    this.#leaveEdit("");
  }

  /** Puts a message here to be changed. What was written here comes back if that is cancelled. */
  edit(node) {
    if (!this.#edited) this.#draft = this.#input.value;
    this.#edited = node;
    this.#input.value = node.content;
    byId("editing").hidden = false;
    this.#fit();
    this.#input.focus();
    this.#input.setSelectionRange(node.content.length, node.content.length);
  }

  /** Whether there was an edit to cancel. */
  cancelEdit() {
    if (!this.#edited) return false;
    this.#leaveEdit(this.#draft);
    this.focus();
    return true;
  }

  #leaveEdit(text) {
    this.#edited = null;
    this.#draft = "";
    this.#input.value = text;
    byId("editing").hidden = true;
    this.#fit();
  }

  /** To write on, unless that would raise a screen keyboard that nobody asked for. */
  focus() {
    if (HAS_KEYS.matches) this.#input.focus({ preventScroll: true });
  }

  /** Shows whether there is an answer to stop, or a message to send. */
  setRunning(isRunning) {
    const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
    byId("send").hidden = isRunning;
    byId("stop").hidden = !isRunning;
    if (hadFocus) this.focus();
  }

  /** As many lines as there are, up to what the style allows. */
  #fit() {
    this.#input.style.height = "auto";
    this.#input.style.height = `${this.#input.scrollHeight}px`;
  }
}
