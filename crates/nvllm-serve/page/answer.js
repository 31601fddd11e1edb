// An answer as it comes: chunks of a stream folded into a message, and what the request asks for.

/** How many of the likeliest tokens are asked for. */
const ALTERNATIVES = 5;

/** A new answer, before its first chunk. `state` is running, done, stopped or failed. */
export function newAnswer(model) {
  return { role: "assistant", model, state: "running", content: "" };
}

/** Adds a chunk that came at `now`, in milliseconds, to an answer that was asked for at `asked`. */
export function addChunk(answer, chunk, asked, now) {
  if (chunk.model) answer.model = chunk.model;
  if (chunk.usage) answer.usage = { prompt: chunk.usage.prompt_tokens, output: chunk.usage.completion_tokens };
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning, reasoning_content: oldReasoning, tool_calls: calls } = choice.delta ?? {};
  const thought = reasoning ?? oldReasoning;
  if (content) answer.content += content;
  if (thought) answer.reasoning = (answer.reasoning ?? "") + thought;
  for (const call of calls ?? []) addToolCall((answer.tools ??= []), call);
  for (const token of choice.logprobs?.content ?? []) (answer.tokens ??= []).push(shortToken(token));
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  if (content || thought || calls || choice.logprobs?.content?.length) {
    answer.first ??= Math.round(now - asked);
    answer.time = Math.round(now - asked);
    answer.pieces = (answer.pieces ?? 0) + 1;
  }
}

function addToolCall(tools, { index = 0, function: called = {} }) {
  const tool = (tools[index] ??= { name: "", arguments: "" });
  tool.name += called.name ?? "";
  tool.arguments += called.arguments ?? "";
}

/** `[text, log-probability, alternatives]`: answers are kept in a small storage. */
function shortToken({ token, bytes, logprob, top_logprobs: top }) {
  const short = (text, bytes, logprob) => [readable(text, bytes), Math.round(logprob * 1e4) / 1e4];
  return [...short(token, bytes, logprob), (top ?? []).map((other) => short(other.token, other.bytes, other.logprob))];
}

/** A token's text; its bytes if it is a part of a character. */
function readable(text, bytes) {
  if (!text.includes("\ufffd") || !bytes) return text;
  return bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
}

/** Output tokens, as far as the stream has told. */
const numTokens = (answer) => answer.usage?.output ?? answer.tokens?.length ?? answer.pieces ?? 0;

/** Tokens, tokens/s after the first, and milliseconds to the first; `rate` and `first` where known. */
export function speed(answer) {
  const tokens = numTokens(answer);
  const seconds = (answer.time - answer.first) / 1000;
  return { tokens, first: answer.first, rate: seconds > 0 && tokens > 1 ? (tokens - 1) / seconds : undefined };
}

/** Thoughts and answer apart, whether the server or the model's own tags tell them. */
export function thoughtsAndText(answer) {
  const content = answer.content;
  // Some templates open the tag in the prompt.
  const close = content.indexOf("</think>");
  if (close >= 0) {
    const thoughts = content.slice(0, close).replace(/^\s*<think>/, "");
    return { thoughts: (answer.reasoning ?? "") + thoughts.trim(), text: content.slice(close + 8).trimStart(), thinking: false };
  }
  const open = /^\s*<think>/.exec(content);
  if (open) return { thoughts: content.slice(open[0].length).trimStart(), text: "", thinking: answer.state === "running" };
  const thinking = answer.state === "running" && Boolean(answer.reasoning) && !content;
  return { thoughts: answer.reasoning ?? "", text: content, thinking };
}

/** The body that asks for the answer to these messages under a conversation's settings. */
export function requestBody(messages, settings, model) {
  const { system, sampling, thinking, json, logprobs } = settings;
  // Models do not see their earlier thoughts.
  const turns = messages.map(({ role, content, ...rest }) =>
    role === "assistant" ? { role, content: thoughtsAndText({ content, ...rest }).text } : { role, content });
  return {
    ...(model && { model }),
    messages: system.trim() ? [{ role: "system", content: system }, ...turns] : turns,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    ...sampling,
    ...(thinking && { chat_template_kwargs: { enable_thinking: thinking === "on" } }),
    ...(json && { response_format: { type: "json_object" } }),
    ...(logprobs && { logprobs: true, top_logprobs: ALTERNATIVES }),
  };
}
