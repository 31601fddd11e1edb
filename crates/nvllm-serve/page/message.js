// One message as an element: what was said, and what can be done with it.

import { speed, thoughtsAndText } from "./answer.js";
import { copy, el, icon, iconButton } from "./dom.js";
import { Markdown } from "./markdown.js";
import { Tokens } from "./tokens.js";

/**
 * What a message's buttons do: `regenerate(node)`, `retry(node)`, `edit(node)`, `pick(parent, at)`;
 * whether an answer is being made, `isRunning(node)`; whether its tokens are wanted, `wantsTokens()`.
 *
 * @typedef {object} Actions
 */

/** Buttons that change the conversation, which they cannot while an answer is being made. */
const CHANGES = { class: "icon small changes" };

/** The element of a user's message. */
export function userMessage(node, parent, actions) {
  const copyButton = iconButton("copy", "Copy message", () => copy(node.content, copyButton));
  return el("article", { class: "message user" },
    el("h2", { class: "hidden" }, "You"),
    el("div", { class: "bubble" }, node.content),
    el("div", { class: "actions" },
      versions(node, parent, actions),
      copyButton,
      iconButton("edit", "Edit message", () => actions.edit(node), CHANGES)));
}

/** Which of several versions is shown, and the way to the others. */
function versions(node, parent, actions) {
  const count = parent.next.length;
  if (count < 2) return null;
  const at = parent.next.indexOf(node);
  const step = (name, label, by) => iconButton(name, label, () => actions.pick(parent, at + by), { disabled: !parent.next[at + by] });
  return el("span", { class: "versions changes", role: "group", "aria-label": "Versions" },
    step("back", "Previous version", -1),
    el("span", { "aria-label": `Version ${at + 1} of ${count}` , role: "img" }, `${at + 1}/${count}`),
    step("forward", "Next version", 1));
}

/** An answer's element, which follows the answer as it grows. */
export class AnswerView {
  #node;
  #actions;
  #showTokens;
  #thoughts = el("div", { class: "thoughts" });
  #thinkingName = el("span");
  #thinking = el("details", { class: "thinking", hidden: true }, el("summary", {}, this.#thinkingName), this.#thoughts);
  #text = el("div", { class: "text" });
  #markdown = new Markdown(this.#text);
  #tokens = null;
  #tools = el("div", { class: "tools" });
  #waiting = el("span", { class: "waiting", role: "img", "aria-label": "Waiting for the answer" });
  #problem = el("div", { class: "problem", hidden: true });
  #stats = el("span", { class: "stats quiet" });
  #buttons = el("span", { class: "buttons" });
  #copy = iconButton("copy", "Copy answer", () => copy(thoughtsAndText(this.#node).text, this.#copy));
  #regenerate = iconButton("retry", "Regenerate answer", () => this.#actions.regenerate(this.#node), CHANGES);
  #toggle = iconButton("tokens", "Token probabilities", () => this.#toggleTokens(), { "aria-pressed": "false" });

  constructor(node, parent, actions) {
    this.#node = node;
    this.#actions = actions;
    this.#showTokens = Boolean(node.tokens) || (node.state === "running" && actions.wantsTokens());
    this.#buttons.append(...[versions(node, parent, actions), this.#copy, this.#regenerate, this.#toggle].filter(Boolean));
    this.element = el("article", { class: "message assistant" },
      el("h2", { class: "hidden" }, node.model || "Answer"),
      this.#thinking, this.#text, this.#tools, this.#waiting, this.#problem,
      el("div", { class: "actions" }, this.#buttons, this.#stats));
    this.update();
  }

  /** Shows what the answer is now. */
  update() {
    const node = this.#node;
    const isRunning = this.#actions.isRunning(node);
    const { thoughts, text, thinking } = thoughtsAndText(node);
    this.element.setAttribute("aria-busy", String(isRunning));
    const tokens = this.#showTokens && node.tokens;
    // The tokens have the thoughts among them.
    this.#thinking.hidden = !thoughts || Boolean(tokens);
    this.#thinking.classList.toggle("active", thinking && isRunning);
    this.#thinkingName.textContent = thinking && isRunning ? "Thinking" : "Thoughts";
    if (this.#thoughts.textContent !== thoughts) this.#thoughts.textContent = thoughts;
    this.#showText(text, tokens);
    this.#tools.replaceChildren(...(node.tools ?? []).map(toolCall));
    this.#waiting.hidden = !isRunning || Boolean(text || thoughts || node.tools);
    this.#showProblem(isRunning);
    this.#stats.textContent = stats(node, isRunning);
    this.#buttons.hidden = isRunning;
    this.#copy.hidden = !text;
    this.#regenerate.hidden = !this.#problem.hidden;
  }

  #showText(text, tokens) {
    this.#toggle.hidden = !this.#node.tokens;
    this.#toggle.setAttribute("aria-pressed", String(Boolean(tokens)));
    if (tokens) {
      if (!this.#tokens) {
        this.#tokens = new Tokens();
        this.#text.before(this.#tokens.element);
      }
      this.#tokens.render(tokens);
    } else {
      this.#markdown.render(text);
    }
    this.#text.hidden = Boolean(tokens);
    if (this.#tokens) this.#tokens.element.hidden = !tokens;
  }

  #toggleTokens() {
    this.#showTokens = !this.#showTokens;
    this.update();
  }

  #showProblem(isRunning) {
    const { state, error } = this.#node;
    let words = null;
    if (state === "failed") words = error;
    else if (state === "running" && !isRunning) words = "This answer is not complete.";
    const isSame = this.#problem.firstChild?.textContent === words;
    this.#problem.hidden = !words;
    if (words && !isSame) {
      const retry = el("button", { type: "button", class: "changes", onclick: () => this.#actions.retry(this.#node) }, icon("retry"), "Retry");
      this.#problem.replaceChildren(el("p", { role: state === "failed" ? "alert" : null }, words), retry);
    }
  }
}

function toolCall({ name, arguments: given }) {
  let shown = given;
  try {
    shown = JSON.stringify(JSON.parse(given), null, 2);
  } catch {
    // It is still coming, or the model wrote it wrong: shown as it is.
  }
  return el("details", { class: "tool", open: true }, el("summary", {}, "Calls ", el("code", {}, name)), el("pre", { tabindex: "0" }, shown));
}

/** How fast an answer came, and how it ended where that is not by itself. */
function stats(node, isRunning) {
  if (node.first === undefined) return "";
  const { tokens, rate, first } = speed(node);
  const parts = [`${tokens} token${tokens === 1 ? "" : "s"}`];
  if (rate) parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
  parts.push(`${first < 1000 ? `${first} ms` : `${(first / 1000).toFixed(1)} s`} to first token`);
  if (node.state === "stopped") parts.push("stopped");
  else if (node.finish === "length" && !isRunning) parts.push("reached max tokens");
  return parts.join(" · ");
}
