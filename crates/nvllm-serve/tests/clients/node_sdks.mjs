// Runs the Node SDKs of OpenAI and Anthropic against a server, and checks what they return.
//
//     npm install openai @anthropic-ai/sdk     (in this directory, or in one above it)
//     nvllm serve --port 8000
//     node crates/nvllm-serve/tests/clients/node_sdks.mjs http://127.0.0.1:8000
//
// Any model will do: what is checked is shapes, and that a stream and a whole answer agree. Prints
// a line for each case, and ends with an error at the first that fails. NODE_SDKS names another
// directory that has the packages.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(process.env.NODE_SDKS ? join(process.env.NODE_SDKS, "x.js") : import.meta.url);
const OpenAI = require("openai").default;
const Anthropic = require("@anthropic-ai/sdk").default;

const base = (process.argv[2] ?? "http://127.0.0.1:8000").replace(/\/+$/, "");
const options = { apiKey: "none", maxRetries: 0, timeout: 120_000 };
const openai = new OpenAI({ baseURL: `${base}/v1`, ...options });
const anthropic = new Anthropic({ baseURL: base, ...options });
const model = (await openai.models.list()).data[0].id;

const user = [{ role: "user", content: "What is the sea?" }];
const sampling = { model, temperature: 0, seed: 1, max_tokens: 24 };
const version = (name) => `${name} ${require(`${name}/version`).VERSION}`;
console.log(`${version("openai")}, ${version("@anthropic-ai/sdk")}, model ${model}`);
const chat = { ...sampling, enable_thinking: false, messages: [{ role: "system", content: "Be brief." }, ...user] };
const text = { ...sampling, prompt: "The sea is" };
const response = {
  model, input: "What is the sea?", instructions: "Be brief.", temperature: 0, seed: 1, max_output_tokens: 24,
  enable_thinking: false,
};
const message = { model, system: "Be brief.", messages: user, max_tokens: 24, temperature: 0 };

async function gather(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

const middle = (said) => said.slice(said.length / 2).slice(0, 4);
const before = (said, stop) => said.slice(0, said.indexOf(stop));

const tool = (name, description, properties) =>
  ({ name, description, parameters: { type: "object", properties, required: Object.keys(properties) } });
// What the demo model calls, as its golden text has it.
const functions = [
  tool("get_weather", "Get the current weather for a city", { city: { type: "string", description: "City name" } }),
  tool("add", "Add two numbers", { a: { type: "integer" }, b: { type: "integer" } }),
];
const weather = { role: "user", content: "What is the weather in Paris?" };
const result = "mild, 18 degrees";
const greedy = { model, temperature: 0, repetition_penalty: 1, enable_thinking: false };

const cases = {
  async chat_calls_a_tool() {
    const tools = functions.map((called) => ({ type: "function", function: called }));
    const asked = { ...greedy, max_tokens: 64, tools };
    const final = await openai.chat.completions.stream({ ...asked, messages: [weather] }).finalChatCompletion();
    const { message: said, finish_reason: reason } = final.choices[0];
    // The first delta has an empty text, which the helper keeps.
    assert.deepEqual([reason, said.content], ["tool_calls", ""]);
    const [{ id, function: called }] = said.tool_calls;
    assert.deepEqual([called.name, JSON.parse(called.arguments)], ["get_weather", { city: "Paris" }]);
    const whole = await openai.chat.completions.create({ ...asked, messages: [weather] });
    assert.equal(whole.choices[0].message.tool_calls[0].function.arguments, called.arguments);
    const turns = [weather, said, { role: "tool", tool_call_id: id, content: result }];
    const answer = await openai.chat.completions.create({ ...asked, messages: turns });
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.ok(answer.choices[0].message.content);
  },

  async responses_call_a_tool() {
    const tools = functions.map((called) => ({ type: "function", strict: false, ...called }));
    const asked = { ...greedy, max_output_tokens: 64, tools };
    const stream = openai.responses.stream({ ...asked, input: [weather] });
    let streamed = "";
    stream.on("response.function_call_arguments.delta", (event) => { streamed += event.delta; });
    const final = await stream.finalResponse();
    const [{ type, name, call_id: id, arguments: given }] = final.output;
    assert.deepEqual([type, name, JSON.parse(given), streamed], ["function_call", "get_weather", { city: "Paris" }, given]);
    const input = [weather, ...final.output, { type: "function_call_output", call_id: id, output: result }];
    const answer = await openai.responses.create({ ...asked, input });
    assert.equal(answer.status, "completed");
    assert.ok(answer.output_text);
  },

  async messages_call_a_tool() {
    const tools = functions.map(({ name, description, parameters }) => ({ name, description, input_schema: parameters }));
    const asked = { model, temperature: 0, repetition_penalty: 1, max_tokens: 64, tools };
    const final = await anthropic.messages.stream({ ...asked, messages: [weather] }).finalMessage();
    const [{ type, id, name, input }] = final.content;
    assert.deepEqual([final.stop_reason, type, name, input], ["tool_use", "tool_use", "get_weather", { city: "Paris" }]);
    const results = [{ type: "tool_result", tool_use_id: id, content: result }];
    const turns = [weather, { role: "assistant", content: final.content }, { role: "user", content: results }];
    const answer = await anthropic.messages.create({ ...asked, messages: turns });
    assert.equal(answer.stop_reason, "end_turn");
    assert.ok(answer.content[0].text);
  },

  async messages_think() {
    const messages = [{ role: "user", content: "What is the capital of France?" }];
    const thinking = { type: "enabled", budget_tokens: 100 };
    const asked = { model, temperature: 0, repetition_penalty: 1, max_tokens: 200, messages, thinking };
    const final = await anthropic.messages.stream(asked).finalMessage();
    assert.deepEqual(final.content.map((block) => block.type), ["thinking", "text"]);
    const whole = await anthropic.messages.create(asked);
    assert.equal(final.content[0].thinking, whole.content[0].thinking);
  },

  async chat_stream_is_the_whole_in_parts() {
    const whole = await openai.chat.completions.create(chat);
    const streamed = { ...chat, stream: true, stream_options: { include_usage: true } };
    const chunks = await gather(openai.chat.completions.create(streamed));
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
    const said = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
    assert.equal(said, whole.choices[0].message.content);
    assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
  },

  async chat_stream_helper_accumulates() {
    const whole = await openai.chat.completions.create(chat);
    const said = whole.choices[0].message.content;
    const stop = middle(said);
    const stream = openai.chat.completions.stream({
      ...chat, stop, logprobs: true, top_logprobs: 2, stream_options: { include_usage: true },
    });
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].message.role, "assistant");
    assert.equal(final.choices[0].message.content, before(said, stop));
    assert.equal(final.choices[0].finish_reason, "stop");
    assert.ok(final.usage.completion_tokens > 0);
    assert.ok(final.choices[0].logprobs.content.every((token) => token.top_logprobs.length === 2));
  },

  async chat_n() {
    const asked = { ...chat, temperature: 1, n: 2 };
    const whole = await openai.chat.completions.create(asked);
    const texts = ["", ""];
    for (const chunk of await gather(openai.chat.completions.create({ ...asked, stream: true }))) {
      texts[chunk.choices[0].index] += chunk.choices[0].delta.content ?? "";
    }
    assert.deepEqual(texts, whole.choices.map((choice) => choice.message.content));
  },

  async completions() {
    const whole = await openai.completions.create(text);
    const chunks = await gather(openai.completions.create({ ...text, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
    const echoed = await openai.completions.create({ ...text, echo: true, logprobs: 2 });
    assert.equal(echoed.choices[0].text, text.prompt + whole.choices[0].text);
    const { tokens, token_logprobs: logprobs, top_logprobs: top } = echoed.choices[0].logprobs;
    assert.deepEqual([tokens.length, logprobs[0]], [top.length, null]);
  },

  async responses_whole() {
    const said = (await openai.chat.completions.create(chat)).choices[0].message.content;
    const answer = await openai.responses.create(response);
    assert.ok(["completed", "incomplete"].includes(answer.status));
    assert.equal(answer.output_text, said);
    const input = [{ role: "developer", content: "Be brief." }, ...user];
    assert.equal((await openai.responses.create({ ...response, instructions: null, input })).output_text, said);
    const turn = [...input, ...answer.output, { role: "user", content: "And then?" }];
    const next = await openai.responses.create({ ...response, instructions: null, input: turn });
    assert.ok(next.usage.input_tokens > answer.usage.input_tokens);
  },

  async responses_stream_helper() {
    const said = (await openai.responses.create(response)).output_text;
    const stop = middle(said);
    const stream = openai.responses.stream({ ...response, stop: [stop], max_output_tokens: undefined });
    const deltas = [];
    stream.on("response.output_text.delta", (event) => deltas.push(event.delta));
    const final = await stream.finalResponse();
    assert.equal(final.status, "completed");
    assert.equal(final.output_text, before(said, stop));
    assert.equal(deltas.join(""), final.output_text);
  },

  async responses_cut_are_incomplete() {
    const events = await gather(openai.responses.create({ ...response, max_output_tokens: 2, stream: true }));
    const last = events.at(-1);
    assert.equal(last.type, "response.incomplete");
    assert.equal(last.response.incomplete_details.reason, "max_output_tokens");
    assert.equal(last.response.usage.output_tokens, 2);
  },

  async responses_refusals() {
    const stored = openai.responses.create({ ...response, previous_response_id: "resp_1" });
    await assert.rejects(stored, (error) => error.status === 400 && error.param === "previous_response_id");
    await assert.rejects(openai.responses.retrieve("resp_1"), (error) => error.status === 404);
  },

  async messages_whole_and_stream_helper() {
    const said = (await openai.chat.completions.create(chat)).choices[0].message.content;
    const whole = await anthropic.messages.create(message);
    assert.equal(whole.content[0].text, said);
    const stream = anthropic.messages.stream(message);
    let streamed = "";
    stream.on("text", (delta) => { streamed += delta; });
    const final = await stream.finalMessage();
    assert.equal(streamed, said);
    assert.deepEqual([final.content[0].text, final.stop_reason], [said, whole.stop_reason]);
    const input = (usage) => usage.input_tokens + usage.cache_read_input_tokens;
    assert.equal(input(final.usage), input(whole.usage));
    assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
    const { max_tokens: _, temperature: __, ...counted } = message;
    assert.equal((await anthropic.messages.countTokens(counted)).input_tokens, input(whole.usage));
  },

  async messages_as_coding_clients_send_them() {
    const cache_control = { type: "ephemeral" };
    const answer = await anthropic.beta.messages.create({
      ...message, system: [{ type: "text", text: "Be brief.", cache_control }],
      messages: [{ role: "user", content: [{ type: "text", text: "What is the sea?", cache_control }] }],
      metadata: { user_id: "someone" }, betas: ["context-management-2025-06-27"], tools: [],
    });
    assert.equal(answer.content[0].text, (await anthropic.messages.create(message)).content[0].text);
  },

  async messages_stop_at_a_sequence() {
    const said = (await anthropic.messages.create(message)).content[0].text;
    const stop = middle(said);
    const answer = await anthropic.messages.create({ ...message, stop_sequences: [stop] });
    assert.deepEqual(
      [answer.content[0].text, answer.stop_reason, answer.stop_sequence], [before(said, stop), "stop_sequence", stop],
    );
  },

  async messages_refusals() {
    const none = anthropic.messages.create({ ...message, model: "none" });
    await assert.rejects(none, (error) => error.status === 404 && error.type === "not_found_error");
  },
};

for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
  } catch (error) {
    console.log(`FAILED ${name}`);
    throw error;
  }
  console.log(`ok ${name}`);
}
