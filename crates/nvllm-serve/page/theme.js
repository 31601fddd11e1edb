// Dark or light: as the system says, until the switch says otherwise. It runs before the page is
// shown, so that nothing flashes.

const KEY = "nvllm.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

const systemTheme = () => (system.matches ? "dark" : "light");

/** The theme that is shown. */
export const theme = () => localStorage.getItem(KEY) ?? systemTheme();

function show() {
  document.documentElement.dataset.theme = theme();
}

/** Changes to the other theme, and keeps that unless it is the system's. */
export function switchTheme() {
  const other = theme() === "dark" ? "light" : "dark";
  if (other === systemTheme()) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, other);
  show();
}

/** Calls back when the system's theme changes, which is shown first. */
export function onSystemTheme(callback) {
  system.addEventListener("change", callback);
}

system.addEventListener("change", show);
show();
