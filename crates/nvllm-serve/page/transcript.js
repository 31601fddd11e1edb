// The messages of the conversation that is shown, and how they scroll.

import { byId } from "./dom.js";
import { AnswerView, userMessage } from "./message.js";
import { branch } from "./conversation.js";

/** Pixels from the end within which a reader is taken to follow. */
const NEAR = 80;

export class Transcript {
  #list = byId("transcript");
  #scroller = byId("scroller");
  #toEnd = byId("to-end");
  #actions;
  #views = new Map();
  #changed = new Set();
  #follows = true;

  constructor(actions) {
    this.#actions = actions;
    this.#scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.#toEnd.addEventListener("click", () => this.scrollToEnd());
    new ResizeObserver(() => this.#follow()).observe(this.#list);
  }

  /** Shows the messages of a conversation from anew. */
  show(conversation) {
    this.#views.clear();
    let parent = conversation;
    const elements = branch(conversation).map((node) => {
      const before = parent;
      parent = node;
      if (node.role === "user") return userMessage(node, before, this.#actions);
      const view = new AnswerView(node, before, this.#actions);
      this.#views.set(node, view);
      return view.element;
    });
    this.#list.replaceChildren(...elements);
    byId("welcome").hidden = elements.length > 0;
  }

  /** Gives the focus to the versions of a message. */
  focusVersions(node, conversation) {
    const element = this.#list.children[branch(conversation).indexOf(node)];
    element?.querySelector(".versions button:not(:disabled)")?.focus();
  }

  /** Shows what an answer is now, with the next frame. */
  update(node) {
    if (this.#changed.size === 0) requestAnimationFrame(() => this.updateNow());
    this.#changed.add(node);
  }

  /** Shows what has changed without waiting for the next frame. */
  updateNow() {
    for (const node of this.#changed) this.#views.get(node)?.update();
    this.#changed.clear();
  }

  /** Shows whether an answer is being made. */
  setRunning(isRunning) {
    this.#list.classList.toggle("running", isRunning);
  }

  scrollToEnd() {
    this.#follows = true;
    this.#follow();
  }

  #follow() {
    if (this.#follows) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else this.#onScroll();
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR;
    this.#toEnd.hidden = this.#follows;
  }
}
