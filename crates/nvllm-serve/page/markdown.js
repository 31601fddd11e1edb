// A small and safe part of Markdown, as elements: paragraphs, headings, lists, quotes, tables, code,
// emphasis, links. HTML in it is text; links go to http and https only; pictures are links.

import { copy, el, iconButton } from "./dom.js";

/** Lists and quotes in each other, at most. */
const MAX_DEPTH = 8;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +)(?=\S)/;
const DELIMITERS = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Shows a text that grows: blocks that did not change keep their elements. */
export class Markdown {
  #root;
  #blocks = [];

  constructor(root) {
    this.#root = root;
  }

  render(text) {
    const blocks = split(text.split("\n"));
    let same = 0;
    while (same < blocks.length && blocks[same].source === this.#blocks[same]?.source) same += 1;
    this.#blocks.splice(same).forEach(({ element }) => element.remove());
    for (const block of blocks.slice(same)) {
      block.element = block.build();
      this.#root.append(block.element);
      this.#blocks.push(block);
    }
  }
}

/** Lines as blocks, each with its source and with what builds its element. */
function split(lines, depth = 0) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const begun = at;
    const [end, build] = blockAt(lines, at, depth);
    at = end;
    blocks.push({ source: lines.slice(begun, end).join("\n"), build });
  }
  return blocks;
}

/** The end of the block at a line, and what builds it. */
function blockAt(lines, at, depth) {
  const line = lines[at];
  let match;
  if ((match = FENCE.exec(line))) return code(lines, at, match[1], match[2]);
  if ((match = HEADING.exec(line))) {
    const [, marks, text] = match;
    return [at + 1, () => el(`h${Math.min(marks.length + 2, 6)}`, {}, inline(text))];
  }
  if (RULE.test(line)) return [at + 1, () => el("hr")];
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && lines[at + 1]?.includes("-") && DELIMITERS.test(lines[at + 1])) return table(lines, at);
  return paragraph(lines, at, depth);
}

const elements = (lines, depth) => split(lines, depth).map((block) => block.build());

function code(lines, at, fence, language) {
  const closes = (line) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");
  let end = at + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).join("\n");
  const build = () => {
    const button = iconButton("copy", "Copy code", () => copy(text, button));
    const head = el("div", { class: "code-head" }, el("span", {}, language), button);
    // To be scrolled with keys.
    const block = el("pre", { tabindex: "0", role: "region", "aria-label": language ? `Code, ${language}` : "Code" }, el("code", {}, text));
    return el("div", { class: "code" }, head, block);
  };
  return [Math.min(end + 1, lines.length), build];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => QUOTE.exec(line)[1]);
  return [end, () => el("blockquote", {}, elements(inner, depth + 1))];
}

function list(lines, at, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const isNext = (line) => {
    const item = ITEM.exec(line ?? "");
    return item && /\d/.test(item[2]) === ordered && !RULE.test(line);
  };
  const items = [];
  let end = at;
  let isLoose = false;
  while (isNext(lines[end])) {
    const [marker, indent] = ITEM.exec(lines[end]);
    const width = Math.min(marker.length, indent.length + 4);
    const item = [lines[end].slice(marker.length)];
    end += 1;
    while (end < lines.length) {
      const line = lines[end];
      const isIndented = line.trim() && line.length - line.trimStart().length >= Math.min(width, indent.length + 2);
      const isBlank = !line.trim();
      // What follows without a blank line goes on with the item, unless it begins something.
      if (!isIndented && !isBlank && (lines[end - 1].trim() === "" || begins(line))) break;
      item.push(line.slice(Math.min(width, line.length - line.trimStart().length)));
      end += 1;
    }
    let blank = 0;
    while (item.at(-1)?.trim() === "") blank += 1, item.pop();
    if (blank && isNext(lines[end])) isLoose = true;
    else end -= blank;
    items.push(item);
  }
  const start = ordered ? Number.parseInt(ITEM.exec(lines[at])[2], 10) : 1;
  const build = () => {
    const entries = items.map((item) => el("li", {}, elements(item, depth + 1)));
    return el(ordered ? "ol" : "ul", { class: isLoose && "loose", start: start !== 1 && start }, entries);
  };
  return [end, build];
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const alignment = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : undefined));
  const row = (line, tag) => el("tr", {}, cells(line).map((cell, column) => el(tag, { class: alignment[column] }, inline(cell))));
  const build = () => {
    const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
    const element = el("table", {}, el("thead", {}, row(lines[at], "th")), el("tbody", {}, body));
    return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, element);
  };
  return [end, build];
}

const begins = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line));

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return [end, () => el("p", {}, inline(text))];
}

// Bounded, so that no text takes long.
const INLINE = new RegExp([
  String.raw`\\(?<escaped>[!-\/:-@\[-\x60{-~])`,
  String.raw`(?<ticks>\x60+)(?!\x60)(?<code>.{1,2000}?)(?<!\x60)\k<ticks>(?!\x60)`,
  String.raw`!?\[(?<label>[^\[\]]{1,500})\]\(\s*(?<href>[^\s()<>]{1,2000}(?:\([^\s()]{0,500}\)[^\s()]{0,500})?)(?:\s+"[^"]{0,500}")?\s*\)`,
  String.raw`(?<url>https?:\/\/[^\s<>]{0,2000}[^\s<>.,:;!?'")\]*_\x60])`,
  String.raw`(?<star>\*{1,3})(?=[^\s*])(?<starred>.{1,1000}?)(?<=[^\s*])\k<star>(?!\*)`,
  String.raw`(?<![\p{L}\p{N}_])(?<under>_{1,3})(?=[^\s_])(?<undered>.{1,1000}?)(?<=[^\s_])\k<under>(?![\p{L}\p{N}_])`,
  String.raw`~~(?=\S)(?<struck>.{1,1000}?)(?<=\S)~~`,
  String.raw`(?<newline>\n)`,
].join("|"), "su");

/** The nodes of a text within a block. */
function inline(text) {
  const nodes = [];
  let rest = text;
  let match;
  while (rest && (match = INLINE.exec(rest))) {
    if (match.index > 0) nodes.push(rest.slice(0, match.index));
    nodes.push(span(match));
    rest = rest.slice(match.index + match[0].length);
  }
  if (rest) nodes.push(rest);
  return nodes;
}

function span({ 0: whole, groups }) {
  const { escaped, code, label, href, url, star, starred, under, undered, struck, newline } = groups;
  if (escaped) return escaped;
  if (code) return el("code", {}, code.length > 2 ? code.replace(/^ (.+) $/s, "$1") : code);
  if (label) return link(href, inline(label), whole);
  if (url) return link(url, [url], whole);
  if (struck) return el("s", {}, inline(struck));
  if (newline) return el("br");
  const content = inline(starred ?? undered);
  const strength = (star ?? under).length;
  if (strength === 1) return el("em", {}, content);
  return strength === 2 ? el("strong", {}, content) : el("strong", {}, el("em", {}, content));
}

/** A link, or its source where it would lead elsewhere than into the web. */
function link(href, content, source) {
  if (!/^https?:/i.test(href) || !URL.canParse(href)) return source;
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, content);
}
