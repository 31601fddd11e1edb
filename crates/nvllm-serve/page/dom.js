// Elements and icons. Texts become text nodes: nothing here or elsewhere reads HTML from a string.

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. Attributes that begin with `on` are listeners, `data` is a dataset; true is an
 * attribute without a value; false, null and undefined are left out, among the children too.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== false && child != null));
  return element;
}

// Strokes in a square of 24.
const ICONS = {
  back: "M14 7l-5 5 5 5",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v10H9zM5 15V5h10",
  done: "M5 12l5 5L20 7",
  down: "M12 5v14M6 13l6 6 6-6",
  download: "M12 4v11M7 10l5 5 5-5M5 20h14",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  forward: "M10 7l5 5-5 5",
  moon: "M19 14a8 8 0 0 1-9-9 8 8 0 1 0 9 9z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  plus: "M12 5v14M5 12h14",
  retry: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  sidebar: "M4 7h16M4 12h16M4 17h10",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  stop: "M7 7h10v10H7z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1 1M17.4 17.4l1 1M5.6 18.4l1-1M17.4 6.6l1-1",
  tokens: "M4 7h6v4H4zM14 7h6v4h-6zM4 15h10v4H4z",
  trash: "M5 7h14M10 4h4M7 7l1 13h8l1-13",
  up: "M12 19V5M6 11l6-6 6 6",
};

/** A picture that means nothing by itself: its button has the name. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon-${name}`);
  return svg;
}

/** A button that is only a picture. */
export function iconButton(name, label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "icon small", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

/** Puts the pictures into the elements that name one in `data-icon`. */
export function placeIcons() {
  for (const element of document.querySelectorAll("[data-icon]")) {
    element.prepend(icon(element.dataset.icon));
    if (element.ariaLabel) element.title = element.ariaLabel;
  }
}

/** Copies a text; shows for a moment on `button` that it did. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that came without TLS from another machine have no clipboard of that kind.
    const area = el("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = [...button.childNodes];
  button.replaceChildren(icon("done"));
  setTimeout(() => button.replaceChildren(...before), 1200);
}
