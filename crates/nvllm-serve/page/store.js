// Conversations in this browser's storage, an entry each.

const PREFIX = "nvllm.conversation.";
const CURRENT = "nvllm.current";
const SETTINGS = "nvllm.settings";

/** Keeps a text. False if the browser has no room for it. */
function put(key, text) {
  try {
    localStorage.setItem(key, text);
    return true;
  } catch {
    return false;
  }
}

/** All conversations by id. */
export function load() {
  const conversations = new Map();
  for (const key of Object.keys(localStorage).filter((key) => key.startsWith(PREFIX))) {
    const conversation = read(localStorage.getItem(key));
    if (conversation) conversations.set(conversation.id, conversation);
  }
  return conversations;
}

function read(json) {
  try {
    const conversation = JSON.parse(json);
    return conversation?.id && Array.isArray(conversation.next) ? conversation : undefined;
  } catch {
    return undefined;
  }
}

/** Keeps a conversation. False if the browser has no room for it. */
export const save = (conversation) => put(PREFIX + conversation.id, JSON.stringify(conversation));

export const remove = (id) => localStorage.removeItem(PREFIX + id);

/** Log-probabilities are most of what an answer takes: without them there may be room. */
export function dropTokens(node) {
  delete node.tokens;
  node.next.forEach(dropTokens);
}

export const currentId = () => sessionStorage.getItem(CURRENT) ?? localStorage.getItem(CURRENT);

/** The conversation that is open: of this tab, and of the next that is opened. */
export function setCurrentId(id) {
  sessionStorage.setItem(CURRENT, id);
  put(CURRENT, id);
}

/** What the next conversation begins with: the settings of the last. */
export const lastSettings = () => JSON.parse(localStorage.getItem(SETTINGS) ?? "null") ?? undefined;
export const setLastSettings = (settings) => put(SETTINGS, JSON.stringify(settings));

/** Calls back with an id and what another tab made of it: nothing if it was deleted. */
export function onOtherTab(callback) {
  addEventListener("storage", ({ key, newValue }) => {
    if (key?.startsWith(PREFIX)) callback(key.slice(PREFIX.length), newValue ? read(newValue) : undefined);
  });
}
