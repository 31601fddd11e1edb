// Answers that are being made: one for each conversation at most, whichever of them is shown.

import { CallError, streamChat } from "./api.js";
import { addChunk, requestBody } from "./answer.js";

/** Milliseconds between two times that a growing answer is kept. */
const SAVE_INTERVAL = 500;

const running = new Map();

// As the page goes its connections break: that is no error of the server.
let isLeaving = false;
addEventListener("pagehide", () => { isLeaving = true; });
addEventListener("pageshow", () => { isLeaving = false; });

/** Whether this answer is being made, here and now. */
export const isRunning = (node) => [...running.values()].some((run) => run.node === node);

/** Whether an answer is being made in this conversation. */
export const runsIn = (conversation) => running.has(conversation.id);

/** Stops the answer that is being made in a conversation, if one is. */
export const stop = (conversation) => running.get(conversation.id)?.controller.abort();

/**
 * Has the answer `node` made to `messages`, and returns at its end. `changed(node)` is called
 * whenever it has grown, `keep()` when it should be saved. Returns the `CallError` that ended it.
 */
export async function run(conversation, node, messages, model, { changed, keep }) {
  const controller = new AbortController();
  running.set(conversation.id, { controller, node });
  const asked = performance.now();
  let kept = asked;
  let problem;
  try {
    for await (const chunk of streamChat(requestBody(messages, conversation.settings, model), controller.signal)) {
      const now = performance.now();
      addChunk(node, chunk, asked, now);
      changed(node);
      if (now - kept > SAVE_INTERVAL) {
        kept = now;
        keep();
      }
    }
    node.state = "done";
  } catch (error) {
    if (error.name === "AbortError") {
      node.state = "stopped";
    } else if (!isLeaving) {
      problem = error instanceof CallError ? error : new CallError(`The page failed at this answer: ${error.message}`);
      node.state = "failed";
      node.error = problem.message;
    }
  } finally {
    running.delete(conversation.id);
  }
  return problem;
}
