// A conversation: a tree of messages of which one branch is shown. Regenerating an answer or editing
// a message adds a branch, and nothing is lost.
//
// A node is a message with `next`, the messages that may follow it, and `pick`, which of them does.
// The conversation itself is the root.

/** Letters that no other conversation has: good enough for one browser. */
const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 8);

export const NO_SETTINGS = { model: "", system: "", sampling: {}, thinking: "", json: false, logprobs: false };

export function newConversation(settings = NO_SETTINGS) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, settings: structuredClone(settings), next: [], pick: 0 };
}

/** The nodes of the branch that is shown, without the root. */
export function branch(conversation) {
  const nodes = [];
  for (let node = conversation; node.next.length > 0; ) {
    node = node.next[node.pick];
    nodes.push(node);
  }
  return nodes;
}

/** The node that `node` follows. */
export function parentOf(conversation, node) {
  return [conversation, ...branch(conversation)].find((parent) => parent.next.includes(node));
}

/** Adds a message after `parent` and shows it. */
export function append(parent, message) {
  const node = { ...message, next: [], pick: 0 };
  parent.pick = parent.next.push(node) - 1;
  return node;
}

/** Puts a message in a node's place: what failed is not kept beside its second try. */
export function replace(parent, node, message) {
  const other = { ...message, next: [], pick: 0 };
  parent.next[parent.next.indexOf(node)] = other;
  return other;
}

/** What the list calls it: its own name, or how it begins. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.next[conversation.pick]?.content.trim().split("\n")[0] ?? "";
  return first.length > 60 ? `${first.slice(0, 60).trimEnd()}…` : first || "New conversation";
}

/** The conversation as a file holds it: the shown branch as OpenAI writes messages, and the tree. */
export function exported(conversation) {
  const { id, created, updated, settings, next, pick } = conversation;
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  const messages = [...system, ...branch(conversation).map(({ role, content }) => ({ role, content }))];
  return { format: "nvllm-conversation", version: 1, title: titleOf(conversation), id, created, updated, settings, messages, tree: { next, pick } };
}
