// The page: which conversation is shown, and what happens to it.

import { newAnswer, thoughtsAndText } from "./answer.js";
import { Composer } from "./composer.js";
import { append, branch, exported, newConversation, parentOf, replace, titleOf } from "./conversation.js";
import { byId, icon, placeIcons } from "./dom.js";
import { announce, ask, Drawer, toast } from "./panels.js";
import { isRunning, run, runsIn, stop } from "./run.js";
import { askForKey, connect, selectedModel, selectModel } from "./server.js";
import { Settings } from "./settings.js";
import { showConversations } from "./sidebar.js";
import * as store from "./store.js";
import { onSystemTheme, switchTheme, theme } from "./theme.js";
import { Transcript } from "./transcript.js";

placeIcons();

const conversations = store.load();
let current = conversations.get(store.currentId()) ?? newConversation(store.lastSettings());

const transcript = new Transcript({
  isRunning,
  wantsTokens: () => current.settings.logprobs,
  regenerate: (node) => answer(parentOf(current, node)),
  // What failed makes room for the second try, unless the conversation went on from it.
  retry: (node) => answer(parentOf(current, node), node.next.length === 0 ? node : undefined),
  edit: (node) => composer.edit(node),
  pick(parent, at) {
    if (runsIn(current)) return;
    parent.pick = at;
    save(current);
    show();
    transcript.focusVersions(parent.next[at], current);
  },
});

const composer = new Composer({
  send(text, edited) {
    if (runsIn(current)) return false;
    const parent = edited ? parentOf(current, edited) : (branch(current).at(-1) ?? current);
    if (!parent) return false;
    answer(append(parent, { role: "user", content: text }));
    return true;
  },
  editLast() {
    const last = branch(current).findLast(({ role }) => role === "user");
    if (last && !runsIn(current)) composer.edit(last);
    return Boolean(last);
  },
  stop: () => stop(current),
});

const settings = new Settings((changed) => changeSettings(changed));
const sidebar = new Drawer("sidebar", "open-sidebar", "close-sidebar", true);
const settingsPanel = new Drawer("settings", "open-settings", "close-settings");

/** Has the answer to `parent` made, in the place of `failed` if there is one. */
async function answer(parent, failed) {
  const conversation = current;
  if (!parent || runsIn(conversation)) return;
  const message = newAnswer(selectedModel());
  const node = failed ? replace(parent, failed, message) : append(parent, message);
  const before = branch(conversation).slice(0, -1);
  // An answer that failed before its first token is no turn.
  const messages = before.filter((turn) => turn.role === "user" || thoughtsAndText(turn).text);
  conversation.updated = Date.now();
  conversations.set(conversation.id, conversation);
  store.setCurrentId(conversation.id);
  const running = run(conversation, node, messages, selectedModel(), {
    changed: (node) => transcript.update(node),
    keep: () => save(conversation),
  });
  save(conversation);
  show();
  transcript.scrollToEnd();
  announce("The model is answering.");
  const problem = await running;
  save(conversation);
  transcript.update(node);
  transcript.updateNow();
  showState();
  announce(node.state === "stopped" ? "Stopped." : problem ? "" : "The answer is complete.");
  if (problem?.status === 401 && (await askForKey("The server refused the key.")) && conversation === current) {
    connect(() => current.settings.model);
    answer(parentOf(current, node), node);
  }
}

/** Keeps a conversation, if need be without the log-probabilities of the oldest. */
function save(conversation) {
  // It is not kept before its first message, nor once it is deleted.
  if (!conversations.has(conversation.id) || store.save(conversation)) return;
  for (const old of [...conversations.values()].sort((a, b) => a.updated - b.updated)) {
    if (runsIn(old)) continue;
    old.next.forEach(store.dropTokens);
    store.save(old);
    if (store.save(conversation)) return;
  }
  toast("This browser's storage is full. Export conversations and delete them.");
}

/** Shows the current conversation from anew. */
function show() {
  transcript.show(current);
  settings.show(current.settings);
  selectModel(current.settings.model);
  showState();
}

/** Shows what runs, and what all is called. */
function showState() {
  composer.setRunning(runsIn(current));
  transcript.setRunning(runsIn(current));
  showConversations(conversations.values(), current, { open, runsIn });
  const title = titleOf(current);
  const hasBegun = current.next.length > 0;
  byId("title").textContent = title;
  byId("title").classList.toggle("hidden", !hasBegun);
  byId("more").hidden = !hasBegun;
  document.title = hasBegun ? `${title} · nvLLM` : "nvLLM";
}

function open(conversation) {
  composer.cancelEdit();
  current = conversation;
  store.setCurrentId(current.id);
  sidebar.uncover();
  show();
  transcript.scrollToEnd();
  composer.focus();
}

function changeSettings(changed) {
  Object.assign(current.settings, changed);
  store.setLastSettings(current.settings);
  save(current);
}

const openNew = () => open(newConversation(store.lastSettings()));

/** Deletes conversations, which may be taken back for a while. */
function remove(removed, words) {
  for (const conversation of removed) {
    stop(conversation);
    conversations.delete(conversation.id);
    store.remove(conversation.id);
  }
  openNew();
  toast(words, "Undo", () => {
    for (const conversation of removed) {
      conversations.set(conversation.id, conversation);
      save(conversation);
    }
    if (removed.length > 0) open(removed[0]);
  });
}

function download(value, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  link.download = `${name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "conversation"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function rename() {
  const conversation = current;
  const title = await ask({ title: "Rename", label: "Name", value: titleOf(conversation), ok: "Rename" });
  if (title === null) return;
  conversation.title = title;
  save(conversation);
  showState();
}

function showTheme() {
  const isDark = theme() === "dark";
  byId("theme").replaceChildren(icon(isDark ? "sun" : "moon"));
  byId("theme").ariaLabel = byId("theme").title = isDark ? "Light colours" : "Dark colours";
}

const onClick = (id, run) => byId(id).addEventListener("click", run);

onClick("new", openNew);
onClick("rename", () => { byId("menu").hidePopover(); rename(); });
onClick("export", () => { byId("menu").hidePopover(); download(exported(current), titleOf(current)); });
onClick("delete", () => { byId("menu").hidePopover(); remove([current], "The conversation is deleted."); });
onClick("export-all", () => download([...conversations.values()].map(exported), "conversations"));
onClick("delete-all", () => remove([...conversations.values()], "All conversations are deleted."));
onClick("change-key", async () => { if (await askForKey()) connect(() => current.settings.model); });
onClick("theme", () => { switchTheme(); showTheme(); });
onSystemTheme(showTheme);

byId("model").addEventListener("change", () => {
  changeSettings({ model: selectedModel() });
  selectModel(selectedModel());
});

byId("menu").addEventListener("toggle", () => {
  const { left, bottom } = byId("more").getBoundingClientRect();
  Object.assign(byId("menu").style, { left: `${left}px`, top: `${bottom + 4}px` });
});

addEventListener("keydown", (event) => {
  // The dialog and the menu have their own.
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open], :popover-open")) return;
  if (!settingsPanel.uncover() && !sidebar.uncover() && !composer.cancelEdit()) stop(current);
});

// What has come of an answer is kept when the page goes.
addEventListener("pagehide", () => [...conversations.values()].filter(runsIn).forEach(save));

store.onOtherTab((id, conversation) => {
  if (runsIn({ id })) return;
  if (conversation) conversations.set(id, conversation);
  else conversations.delete(id);
  if (current.id !== id || !conversation) return showState();
  composer.cancelEdit();
  current = conversation;
  show();
});

showTheme();
show();
transcript.scrollToEnd();
composer.focus();
connect(() => current.settings.model);
