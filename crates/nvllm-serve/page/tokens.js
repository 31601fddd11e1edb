// An answer as its tokens, coloured by probability. The one that is chosen shows what else might
// have been said. One token is in the order of tabs; arrow keys go to the others.

import { el } from "./dom.js";

const percent = (probability) => {
  const share = probability * 100;
  return share >= 99.95 ? "100 %" : share >= 10 ? `${share.toFixed(0)} %` : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};

/** White space that can be seen. */
const visible = (text) => (text === "" ? "(end)" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (blanks) => "␣".repeat(blanks.length)));

/** Shows the tokens of an answer that grows. */
export class Tokens {
  #root;
  #panel;
  #shown = 0;
  #tokens = [];

  constructor() {
    this.#panel = el("div", { class: "alternatives", role: "status", hidden: true });
    this.#root = el("div", {
      class: "tokens",
      role: "group",
      "aria-label": "Tokens by probability",
      onclick: ({ target }) => this.#choose(target.closest(".token")),
      onfocusin: ({ target }) => this.#choose(target.closest(".token")),
      onkeydown: (event) => this.#move(event),
    });
    this.element = el("div", { class: "tokens-view" }, this.#root, this.#panel);
  }

  render(tokens) {
    this.#tokens = tokens;
    for (; this.#shown < tokens.length; this.#shown += 1) {
      const [text, logprob] = tokens[this.#shown];
      // A button element would not break across lines as text does.
      const token = el("span", {
        class: "token",
        role: "button",
        tabindex: this.#shown === 0 ? "0" : "-1",
        data: { at: this.#shown },
        "aria-label": `${visible(text)}, ${percent(Math.exp(logprob))}`,
      }, text.replaceAll("\n", "⏎\n"));
      token.style.setProperty("--doubt", (1 - Math.exp(logprob)).toFixed(3));
      this.#root.append(token);
    }
  }

  #move(event) {
    const token = event.target.closest(".token");
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" && !this.#panel.hidden) {
      this.#panel.hidden = true;
      event.stopPropagation();
    } else if (token && step) {
      event.preventDefault();
      this.#root.querySelector(`[data-at="${Number(token.dataset.at) + step}"]`)?.focus();
    }
  }

  #choose(token) {
    if (!token) return;
    for (const other of this.#root.querySelectorAll("[tabindex='0'], [aria-current]")) {
      other.tabIndex = -1;
      other.removeAttribute("aria-current");
    }
    token.tabIndex = 0;
    token.setAttribute("aria-current", "true");
    const [text, logprob, top] = this.#tokens[token.dataset.at];
    this.#panel.replaceChildren(table([text, logprob], top));
    this.#panel.hidden = false;
    this.#place(token);
  }

  /** Below the token, within the width of the answer. */
  #place(token) {
    const rect = token.getClientRects()[0];
    const around = this.element.getBoundingClientRect();
    const left = Math.min(rect.left - around.left, around.width - this.#panel.offsetWidth);
    this.#panel.style.left = `${Math.max(0, left)}px`;
    this.#panel.style.top = `${rect.bottom - around.top + 6}px`;
  }
}

/** What was likely where `said` was drawn, which is among them or comes last. */
function table(said, top) {
  const isSaid = ([text, logprob]) => text === said[0] && logprob === said[1];
  const rows = top.some(isSaid) ? top : [...top, said];
  return el("table", {},
    el("caption", { class: "hidden" }, `Likely tokens in the place of ${visible(said[0])}`),
    el("tbody", {}, rows.map((row) => {
      const [text, logprob] = row;
      const bar = el("span", { class: "bar" });
      bar.style.setProperty("--share", Math.exp(logprob).toFixed(3));
      return el("tr", { "aria-current": isSaid(row) && "true" },
        el("th", { scope: "row" }, visible(text)),
        el("td", {}, bar),
        el("td", { title: `log-probability ${logprob}` }, percent(Math.exp(logprob))));
    })));
}
