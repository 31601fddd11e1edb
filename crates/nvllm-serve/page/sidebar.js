// The list of conversations.

import { titleOf } from "./conversation.js";
import { byId, el } from "./dom.js";

const DAY = 86_400_000;

/** What a conversation stands under in the list. */
function age(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  return time >= midnight - 7 * DAY ? "Last seven days" : "Earlier";
}

/** Shows conversations, the newest first. `open(conversation)` is called for one that is chosen. */
export function showConversations(conversations, current, { open, runsIn }) {
  const entries = [];
  let before = null;
  for (const conversation of [...conversations].sort((a, b) => b.updated - a.updated)) {
    const now = age(conversation.updated);
    if (now !== before) entries.push(el("li", { class: "age quiet" }, now));
    before = now;
    const button = el("button", {
      type: "button",
      "aria-current": conversation === current && "page",
      class: runsIn(conversation) && "running",
      onclick: () => open(conversation),
    }, titleOf(conversation));
    entries.push(el("li", {}, button));
  }
  byId("conversations").replaceChildren(...entries);
}
