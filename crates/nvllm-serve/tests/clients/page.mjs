// Uses the chat page of a server in a headless Chromium as people do, and checks what it shows.
//
//     npm install playwright-core axe-core     (in this directory, or in one above it)
//     nvllm serve --port 8000 --api-key sk-page
//     node crates/nvllm-serve/tests/clients/page.mjs http://127.0.0.1:8000 [directory for screenshots]
//
// The server has the demo model, for which the screenshots are made too. Prints a line for each
// case, and ends with an error at the first that fails. PACKAGES names another directory that has
// the packages.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const require = createRequire(process.env.PACKAGES ? resolve(process.env.PACKAGES, "x.js") : import.meta.url);
const { chromium } = require("playwright-core");
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");

const base = (process.argv[2] ?? "http://127.0.0.1:8000").replace(/\/+$/, "");
const screenshots = process.argv[3];
const KEY = "sk-page";
const CHAT = "**/v1/chat/completions";
const PHONE = { width: 320, height: 640 };
const WIDE = { width: 1280, height: 800 };

/** Requests to other places, and what the browser complained of; none but what a case expects. */
const complaints = [];
const pages = [];

/** A page with a storage of its own. `key: null` leaves the server's key to be asked for. */
async function open({ key = KEY, settings, ...options } = {}) {
  const context = await browser.newContext({ viewport: WIDE, colorScheme: "light", reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  pages.push(context);
  page.on("pageerror", (error) => complaints.push(`error: ${error.stack}`));
  page.on("console", (message) => {
    // The browser itself tells of answers with an error's status.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) complaints.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(`${base}/`) && !request.url().startsWith("blob:")) complaints.push(`asks for ${request.url()}`);
  });
  await page.addInitScript(([key, settings]) => {
    if (key && !localStorage.getItem("nvllm.key")) localStorage.setItem("nvllm.key", key);
    if (settings && !localStorage.getItem("nvllm.settings")) localStorage.setItem("nvllm.settings", settings);
  }, [key, settings && JSON.stringify({ model: "", system: "", sampling: {}, thinking: "", json: false, logprobs: false, ...settings })]);
  await page.goto(`${base}/`);
  if (key) await page.waitForFunction(() => document.querySelector("#model").value);
  return page;
}

const GREEDY = { sampling: { temperature: 0, max_tokens: 48 } };

async function write(page, text) {
  await page.fill("#input", text);
  await page.click("#send");
}

const atRest = (page) => page.waitForSelector("#stop", { state: "hidden" });
const answer = (page) => page.locator(".message.assistant").last();
const text = (page) => answer(page).locator(".text").innerText();

/** Sends a message and waits for the end of the answer. */
async function say(page, message) {
  await write(page, message);
  await page.waitForSelector(".message.assistant");
  await atRest(page);
}

/** Lets every answer of the server be long. */
const lengthen = (page) => page.route(CHAT, (route) => {
  const body = { ...route.request().postDataJSON(), ignore_eos: true, max_tokens: 1500 };
  return route.continue({ postData: JSON.stringify(body) });
});

const data = (value) => `data: ${JSON.stringify(value)}\n\n`;
const delta = (delta, finish_reason = null) => data({ choices: [{ index: 0, delta, finish_reason }] });

/** Has the next requests answered with these events. */
async function script(page, ...events) {
  await page.unroute(CHAT);
  await page.route(CHAT, (route) => route.fulfill({ contentType: "text/event-stream", body: events.join("") }));
}

/** What axe finds wrong, in words. */
async function faults(page, { isCovered = false } = {}) {
  await page.evaluate(axe);
  const runOnly = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  // What a panel covers cannot be reached, the main part too.
  const rules = isCovered && { "landmark-one-main": { enabled: false }, "page-has-heading-one": { enabled: false } };
  const { violations } = await page.evaluate((options) => axe.run(options), { runOnly, rules: rules || {} });
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id} ${target} ${failureSummary}`));
}

/** Pixels by which the page is wider than its window. */
const overflow = (page) => page.evaluate(() => {
  const scroller = document.querySelector("#scroller");
  return Math.max(document.documentElement.scrollWidth - innerWidth, scroller.scrollWidth - scroller.clientWidth);
});

const cases = {
  async the_key_is_asked_for_and_kept() {
    const page = await open({ key: null });
    await page.fill("#ask-input", "sk-wrong");
    await page.keyboard.press("Enter");
    await page.getByText("The server refused this key.").waitFor();
    await page.fill("#ask-input", KEY);
    await page.click("#ask-ok");
    await page.getByText(/context of [\d,]+ tokens/).waitFor();
    await page.reload();
    await page.getByText(/context of [\d,]+ tokens/).waitFor();
    assert.equal(await page.locator("#ask").isVisible(), false);
    // One that was good once and is not any more.
    await page.evaluate(() => localStorage.setItem("nvllm.key", "sk-old"));
    await write(page, "What is the sea?");
    await page.fill("#ask-input", KEY);
    await page.keyboard.press("Enter");
    await page.getByText(/to first token/).waitFor();
    assert.equal(await page.locator(".message").count(), 2);
  },

  async a_model_that_is_being_loaded_is_waited_for() {
    const page = await open({ key: null });
    await page.waitForSelector("#ask-input");
    await page.keyboard.press("Escape");
    await page.getByText("This server asks for an API key").waitFor();
    const loading = { status: 503, json: { status: "loading", progress: 0.4, error: { message: "the model is being loaded" } } };
    await page.route(/v1\/models|health\/ready/, (route) => route.fulfill(loading));
    await page.evaluate((key) => localStorage.setItem("nvllm.key", key), KEY);
    await page.reload();
    await page.getByText("The model is being loaded: 40 %").waitFor();
    await page.unroute(/v1\/models|health\/ready/);
    await page.getByText(/context of [\d,]+ tokens/).waitFor();
    await page.waitForSelector("#banner", { state: "hidden" });
  },

  async an_answer_is_what_the_server_says_and_survives_a_reload() {
    const page = await open({ settings: GREEDY });
    await say(page, "What is the capital of France?");
    const shown = await text(page);
    const response = await fetch(`${base}/v1/chat/completions`, {
      method: "POST",
      headers: { Authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ ...GREEDY.sampling, messages: [{ role: "user", content: "What is the capital of France?" }] }),
    });
    const { choices, usage } = await response.json();
    const { reasoning, content } = choices[0].message;
    assert.equal(shown.trim(), content.trim());
    assert.ok(reasoning && !content.includes("think>"), content);
    assert.equal(await answer(page).locator(".thoughts").textContent(), reasoning);
    assert.equal(await answer(page).locator(".thinking").getAttribute("open"), null, "folded");
    assert.equal(await page.locator(".problem:visible").count(), 0);
    const stats = await answer(page).locator(".stats").innerText();
    // Without a rate where all tokens came at once.
    assert.match(stats, new RegExp(`^${usage.completion_tokens} tokens ·( [\\d.]+ tokens/s ·)? [\\d.]+ m?s to first token`));
    await page.reload();
    assert.equal(await text(page), shown);
    assert.equal(await page.title(), "What is the capital of France? · nvLLM");
    // The next turn has the first in it.
    const [request] = await Promise.all([page.waitForRequest(CHAT), write(page, "And of Italy?")]);
    assert.deepEqual(request.postDataJSON().messages.map(({ role }) => role), ["user", "assistant", "user"]);
    await atRest(page);
  },

  async an_answer_is_stopped() {
    const page = await open();
    await lengthen(page);
    await write(page, "Tell me a long story.");
    await page.waitForFunction(() => document.querySelector(".text")?.textContent.length > 20);
    assert.equal(await answer(page).getAttribute("aria-busy"), "true");
    assert.equal(await page.getAttribute("#transcript", "aria-live"), "polite");
    await page.keyboard.press("Escape");
    await atRest(page);
    assert.match(await answer(page).locator(".stats").innerText(), / [\d.]+ tokens\/s · .* · stopped$/);
    const length = (await text(page)).length;
    await write(page, "Go on.");
    await page.click("#stop");
    await atRest(page);
    assert.equal(await page.locator(".message").count(), 4);
    assert.ok(length > 0);
  },

  async a_reload_in_mid_stream_loses_nothing() {
    const page = await open();
    await lengthen(page);
    await write(page, "Tell me a long story.");
    await page.waitForFunction(() => document.querySelector(".text")?.textContent.length > 40);
    const before = await text(page);
    await page.reload();
    assert.ok((await text(page)).startsWith(before.slice(0, 40)));
    await page.getByText("This answer is not complete.").waitFor();
    await page.unroute(CHAT);
    await page.getByRole("button", { name: "Retry" }).click();
    await atRest(page);
    assert.equal(await page.locator(".problem:visible").count(), 0);
    assert.equal(await page.locator(".message").count(), 2);
  },

  async regenerated_and_edited_messages_are_versions() {
    const page = await open({ settings: GREEDY });
    await say(page, "What is the sea?");
    const first = await text(page);
    await page.getByRole("button", { name: "Regenerate answer" }).click();
    await page.getByText("2/2").waitFor();
    await atRest(page);
    assert.equal(await text(page), first);
    await page.getByRole("button", { name: "Previous version" }).click();
    await page.getByText("1/2").waitFor();
    await page.focus("#input");
    await page.keyboard.press("ArrowUp");
    assert.equal(await page.inputValue("#input"), "What is the sea?");
    await page.keyboard.press("Escape");
    assert.equal(await page.inputValue("#input"), "");
    await page.keyboard.press("ArrowUp");
    await say(page, "What is the moon?");
    assert.equal(await page.locator(".bubble").innerText(), "What is the moon?");
    const user = page.locator(".message.user");
    await user.hover();
    await user.getByRole("button", { name: "Previous version" }).click();
    assert.equal(await page.locator(".bubble").innerText(), "What is the sea?");
    assert.equal(await text(page), first);
    await page.reload();
    assert.equal(await page.locator(".bubble").innerText(), "What is the sea?");
  },

  async what_is_set_is_asked_for_and_what_is_empty_is_not() {
    const page = await open();
    await page.click("#open-settings");
    await page.fill("[name=system]", "Be brief.");
    for (const [name, value] of Object.entries({ temperature: "0.5", top_p: "0.9", top_k: "40", seed: "7", max_tokens: "8" })) {
      await page.fill(`[name=${name}]`, value);
    }
    const asked = async (message) => {
      const [request] = await Promise.all([page.waitForRequest(CHAT), say(page, message)]);
      return request.postDataJSON();
    };
    const { messages, stream_options: _, ...rest } = await asked("Hello");
    assert.deepEqual(messages, [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello" }]);
    assert.deepEqual(rest, { model: "nvllm-tiny", stream: true, temperature: 0.5, top_p: 0.9, top_k: 40, seed: 7, max_tokens: 8 });
    const same = await text(page);
    await page.getByRole("button", { name: "Regenerate answer" }).click();
    await page.getByText("2/2").waitFor();
    await atRest(page);
    assert.equal(await text(page), same, "the seed makes the answer the same");
    await page.click("#reset");
    assert.deepEqual(Object.keys(await asked("And now?")).sort(), ["messages", "model", "stream", "stream_options"]);
    await page.fill("[name=temperature]", "-1");
    await say(page, "Hello");
    await page.getByText("`temperature` is -1").waitFor();
  },

  async errors_are_told_and_can_be_tried_again() {
    const page = await open({ settings: { json: true, sampling: { max_tokens: 8 } } });
    const alert = page.getByRole("alert").last();
    await page.route(CHAT, (route) => route.fulfill({ status: 429, json: { error: { message: "the queue is full" } } }));
    await say(page, "Hello");
    assert.equal(await alert.innerText(), "the queue is full");
    const again = async (words) => {
      await page.getByRole("button", { name: "Retry" }).click();
      await page.getByText(words).waitFor();
      await atRest(page);
      assert.equal(await page.locator(".message").count(), 2);
    };
    await script(page, delta({ role: "assistant", content: "" }), delta({ content: "It was" }), 'event: error\ndata: {"error": {"message": "the engine failed"}}\n\n');
    await again("the engine failed");
    assert.equal(await text(page), "It was");
    await script(page, delta({ content: "It is" }));
    await again("The answer is not complete.");
    await script(page, "data: {nothing}\n\n");
    await again("something that is not JSON");
    await page.unroute(CHAT);
    await page.route(CHAT, (route) => route.fulfill({ status: 502, contentType: "text/html", body: "<h1>Bad gateway</h1>" }));
    await again("status 502");
    await page.unroute(CHAT);
    await page.route(CHAT, (route) => route.abort());
    await again("The server cannot be reached.");
    await page.unroute(CHAT);
    // JSON is asked for: the answer, or the server's word that it cannot.
    const [request] = await Promise.all([page.waitForRequest(CHAT), page.getByRole("button", { name: "Retry" }).click()]);
    assert.deepEqual(request.postDataJSON().response_format, { type: "json_object" });
    await atRest(page);
    if ((await (await request.response()).status()) !== 200) await page.getByText("response_format").waitFor();
  },

  async tokens_show_their_probabilities_and_what_else_was_likely() {
    const page = await open({ settings: { ...GREEDY, logprobs: true } });
    await say(page, "What is the capital of France?");
    const tokens = page.locator(".token");
    const doubts = await tokens.evaluateAll((all) => all.map((token) => Number(token.style.getPropertyValue("--doubt"))));
    assert.ok(doubts.length > 2 && doubts.every((doubt) => doubt >= 0 && doubt <= 1) && new Set(doubts).size > 1, `${doubts}`);
    await tokens.first().click();
    const rows = page.locator(".alternatives tr");
    assert.equal(await rows.count(), 5);
    const chosen = page.locator(".alternatives tr[aria-current]");
    assert.match(await chosen.locator("td").last().innerText(), /%$/);
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.at), "1");
    await page.keyboard.press("Escape");
    assert.equal(await page.locator(".alternatives").isVisible(), false);
    const joined = (await tokens.allInnerTexts()).join("").replaceAll("⏎", "");
    await page.getByRole("button", { name: "Token probabilities" }).click();
    // The tokens have the thoughts and the end among them.
    assert.ok(joined.split("</think>")[1].includes((await text(page)).trim()), joined);
    await page.reload();
    assert.equal(await tokens.count(), doubts.length);
  },

  async a_stream_is_read_wherever_it_is_cut() {
    const page = await open();
    const read = await page.evaluate(async () => {
      const { events } = await import("/page/sse.js");
      const stream = ": ping\r\n\r\nevent: error\r\ndata: é\r\ndata:  two\r\n\r\ndata: a\n\nid: 1\n\ndata: b\r\rdata: cut off";
      const bytes = new TextEncoder().encode(stream);
      const body = new ReadableStream({
        start(controller) {
          for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
          controller.close();
        },
      });
      const read = [];
      for await (const { event, data } of events(body)) read.push([event, data]);
      return read;
    });
    assert.deepEqual(read, [["error", "é\n two"], ["message", "a"], ["message", "b"]]);
  },

  async thoughts_and_tool_calls_are_apart_from_the_answer() {
    const page = await open();
    await script(page, delta({ content: "<think>\nFirst," }), delta({ content: " the sea.\n</think>\n\nIt is deep." }), delta({}, "stop"), "data: [DONE]\n\n");
    await say(page, "Think.");
    assert.equal(await text(page), "It is deep.");
    await page.getByText("Thoughts").click();
    assert.equal(await page.locator(".thoughts").innerText(), "First, the sea.");
    for (const field of ["reasoning", "reasoning_content"]) {
      await script(page, delta({ [field]: "I " }), delta({ [field]: "think." }), delta({ content: "So." }), delta({}, "stop"), "data: [DONE]\n\n");
      const [request] = await Promise.all([page.waitForRequest(CHAT), say(page, "Again.")]);
      assert.equal(request.postDataJSON().messages[1].content, "It is deep.");
      assert.deepEqual([await answer(page).locator(".thoughts").textContent(), await text(page)], ["I think.", "So."]);
    }
    const call = (id, name, args) => delta({ tool_calls: [{ index: 0, id, type: "function", function: { name, arguments: args } }] });
    await script(page, call("a", "weather", '{"place":'), call(undefined, undefined, '"Brest"}'), delta({}, "tool_calls"), "data: [DONE]\n\n");
    await say(page, "What is the weather?");
    assert.equal(await answer(page).locator(".tool summary").innerText(), "Calls weather");
    assert.equal(await answer(page).locator(".tool pre").innerText(), '{\n  "place": "Brest"\n}');
  },

  async what_a_model_writes_is_shown_and_never_run() {
    const page = await open();
    const written = [
      "# Head", "A *b* **c** `d` <img src=x onerror=alert(1)> <script>alert(1)</script>", "",
      "[good](https://example.org/a_b) [bad](javascript:alert(1)) ![picture](http://example.org/p.png) <https://example.org>", "",
      "- one", "  1. two", "", "```js", "alert(1) // **not bold**", "```", "", "|a|b|", "|-|-|", "|1|2|", "", "> said", "", "```", "not closed",
    ].join("\n");
    await script(page, ...written.match(/[^]{1,7}/g).map((content) => delta({ content })), delta({}, "stop"), "data: [DONE]\n\n");
    await say(page, "<b>Write</b> **this**");
    assert.equal(await page.locator(".bubble").innerText(), "<b>Write</b> **this**");
    const shown = answer(page).locator(".text");
    assert.equal(await shown.locator("img, script, b").count(), 0);
    assert.ok((await shown.innerText()).includes("<img src=x onerror=alert(1)> <script>alert(1)</script>"));
    const links = await shown.locator("a").evaluateAll((all) => all.map((link) => [link.getAttribute("href"), link.rel]));
    assert.deepEqual(links.map(([href]) => href), ["https://example.org/a_b", "http://example.org/p.png", "https://example.org"]);
    assert.ok(links.every(([, rel]) => rel.includes("noopener")));
    for (const [selector, expected] of [["h3", "Head"], ["em", "b"], ["strong", "c"], ["p code", "d"], ["ul > li > ol > li", "two"], ["td >> nth=1", "2"], ["blockquote", "said"]]) {
      assert.equal(await shown.locator(selector).innerText(), expected, selector);
    }
    assert.deepEqual(await shown.locator("pre").allInnerTexts(), ["alert(1) // **not bold**", "not closed"]);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await shown.getByRole("button", { name: "Copy code" }).first().click();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "alert(1) // **not bold**");
  },

  async conversations_are_kept_named_exported_and_deleted() {
    const page = await open({ settings: GREEDY });
    await say(page, "What is the sea?");
    await page.click("#new");
    await say(page, "What is the moon?");
    const names = () => page.locator(".conversations button").allInnerTexts();
    assert.deepEqual(await names(), ["What is the moon?", "What is the sea?"]);
    await page.getByRole("button", { name: "What is the sea?" }).click();
    await page.click("#more");
    await page.click("#rename");
    await page.fill("#ask-input", "Water");
    await page.keyboard.press("Enter");
    await page.reload();
    assert.deepEqual((await names()).sort(), ["Water", "What is the moon?"]);
    await page.click("#more");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
    assert.equal(download.suggestedFilename(), "Water.json");
    const exported = JSON.parse(await readFile(await download.path(), "utf8"));
    assert.deepEqual(exported.messages, [{ role: "user", content: "What is the sea?" }, { role: "assistant", content: exported.tree.next[0].next[0].content }]);
    await page.click("#more");
    await page.click("#delete");
    assert.deepEqual(await names(), ["What is the moon?"]);
    await page.getByRole("button", { name: "Undo" }).click();
    assert.equal(await page.locator(".bubble").innerText(), "What is the sea?");
    await page.click("#open-settings");
    await page.click("#delete-all");
    await page.reload();
    assert.deepEqual(await names(), []);
  },

  async a_full_storage_is_told_and_costs_no_answer() {
    const page = await open({ settings: GREEDY });
    await page.evaluate(() => {
      for (let size = 1 << 20; size > 0; size >>= 1) {
        for (let at = 0; ; at += 1) {
          try {
            localStorage.setItem(`full.${size}.${at}`, "x".repeat(size));
          } catch {
            break;
          }
        }
      }
    });
    await say(page, "What is the sea?");
    await page.getByText("This browser's storage is full.").waitFor();
    assert.ok((await text(page)).length > 0);
    await page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith("full.")).forEach((key) => localStorage.removeItem(key)));
    await say(page, "What is the moon?");
    await page.reload();
    assert.equal(await page.locator(".message").count(), 4);
  },

  async keys_do_what_the_page_says() {
    const page = await open({ settings: GREEDY });
    await page.keyboard.type("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    await page.keyboard.press("Enter");
    await atRest(page);
    assert.equal(await page.locator(".bubble").innerText(), "one\ntwo");
    // Every control is reached, and is seen to be.
    const reached = new Set();
    for (let step = 0; step < 40; step += 1) {
      await page.keyboard.press("Tab");
      const [name, width] = await page.evaluate(() => {
        const { outlineWidth, outlineStyle } = getComputedStyle(document.activeElement);
        return [document.activeElement.ariaLabel ?? document.activeElement.id, outlineStyle === "none" ? "0" : outlineWidth];
      });
      reached.add(name);
      assert.ok(Number.parseFloat(width) >= 1 || ["", "Message"].includes(name), `${name} ${width}`);
    }
    for (const name of ["new", "model", "Settings", "Conversations", "Regenerate answer", "Edit message", "Copy answer"]) {
      assert.ok(reached.has(name), `${name} in ${[...reached]}`);
    }
  },

  async a_phone_shows_all_without_scrolling_sideways() {
    const page = await open({ viewport: PHONE, isMobile: true, hasTouch: true });
    assert.equal(await overflow(page), 0);
    const wide = ["x".repeat(300), "", "```", "y".repeat(300), "```", "", `| ${"z".repeat(60)} | b |`, "|-|-|", "| 1 | 2 |", "", "https://example.org/" + "w".repeat(200)].join("\n");
    await script(page, delta({ content: wide }), delta({}, "stop"), "data: [DONE]\n\n");
    await page.fill("#input", "v".repeat(200));
    await page.tap("#send");
    await atRest(page);
    assert.equal(await overflow(page), 0);
    const isWithin = async (selector) => {
      const box = await page.locator(selector).boundingBox();
      assert.ok(box.x >= 0 && box.x + box.width <= PHONE.width, `${selector} ${JSON.stringify(box)}`);
    };
    for (const button of ["#open-sidebar", "#open-settings", "#model", "#more", "#send", ".code"]) await isWithin(button);
    await page.tap("#open-settings");
    await isWithin("#settings");
    await page.touchscreen.tap(5, 300);
    assert.equal(await page.locator("#settings").isVisible(), false);
    await page.tap("#open-sidebar");
    await isWithin("#sidebar");
    await page.tap("#new");
    assert.equal(await page.locator("#sidebar").isVisible(), false);
    assert.equal(await page.locator("#welcome").isVisible(), true);
  },

  async dark_and_light_are_the_systems_until_the_switch_says_otherwise() {
    const page = await open({ colorScheme: "dark" });
    const shows = (isDark) => page.waitForFunction((isDark) => {
      const light = getComputedStyle(document.body).backgroundColor.match(/\d+/g).reduce((sum, part) => sum + Number(part), 0) / 765;
      return isDark ? light < 0.2 : light > 0.8;
    }, isDark);
    await shows(true);
    await page.emulateMedia({ colorScheme: "light" });
    await shows(false);
    await page.getByRole("button", { name: "Dark colours" }).click();
    await shows(true);
    await page.reload();
    await shows(true);
    await page.getByRole("button", { name: "Light colours" }).click();
    await shows(false);
  },

  async names_roles_and_contrasts_are_in_order() {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open({ colorScheme, settings: { ...GREEDY, logprobs: true } });
      const inOrder = async (state, options) => assert.deepEqual(await faults(page, options), [], `${state}, ${colorScheme}`);
      await inOrder("empty");
      await say(page, "What is the sea?");
      await page.locator(".token").nth(1).click();
      await page.click("#open-settings");
      await inOrder("tokens and settings");
      await script(page, delta({ content: "<think>x</think>a `b`\n\n```c\nd\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n[l](http://a.b)" }));
      await say(page, "Hello");
      await page.click("#more");
      await inOrder("an error and the menu");
      await page.click("#rename");
      await inOrder("the dialog");
      await page.keyboard.press("Escape");
      await page.setViewportSize(PHONE);
      await inOrder("narrow");
      await page.click("#open-sidebar");
      await inOrder("narrow, conversations", { isCovered: true });
    }
  },
};

/** The pictures of the documentation. */
async function takeScreenshots(directory) {
  const sampling = { temperature: 0, max_tokens: 64 };
  const shoot = async (name, options, messages, act) => {
    const page = await open({ settings: { sampling }, ...options });
    await say(page, "Write a list of three animals.");
    await page.evaluate(() => document.querySelector("#new").click());
    for (const message of messages) await say(page, message);
    await act?.(page);
    await page.evaluate(() => document.activeElement.blur());
    await page.mouse.move(0, 0);
    await page.screenshot({ path: join(directory, `page-${name}.png`) });
  };
  const facts = ["What is the capital of Italy?", "How many people live in Kenya?", "What is 12 plus 30?"];
  const desktop = { viewport: { width: 1200, height: 760 } };
  const thoughts = (page) => answer(page).getByText("Thoughts").click();
  await shoot("light", desktop, facts, thoughts);
  const tokens = { ...desktop, colorScheme: "dark", settings: { sampling, logprobs: true } };
  await shoot("dark", tokens, ["Write a short story about the sea."], async (page) => {
    await page.locator(".token").nth(17).click();
  });
  await shoot("phone", { viewport: { width: 390, height: 760 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }, facts, thoughts);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
console.log(`Chromium ${browser.version()}`);
try {
  for (const [name, run] of Object.entries(cases)) {
    try {
      await run();
      assert.deepEqual(complaints, []);
    } catch (error) {
      console.log(`FAILED ${name}`);
      throw error;
    }
    console.log(`ok ${name}`);
    for (const context of pages.splice(0)) await context.close();
  }
  if (screenshots) await takeScreenshots(screenshots);
} finally {
  await browser.close();
}
