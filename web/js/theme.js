// @ts-check
/** Light and dark: the system decides until the button is pressed; the choice is remembered. */

import { byId } from "./dom.js";
import { recall, remember } from "./storage.js";

/** @param {() => void} onChange called when colours may have changed */
export function setUpTheme(onChange) {
  const button = byId("theme", HTMLButtonElement);
  const iconUse = byId("theme-icon");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

  const show = () => {
    button.setAttribute("aria-label", isDark() ? "Use the light theme" : "Use the dark theme");
    iconUse.setAttribute("href", isDark() ? "#i-sun" : "#i-moon");
    onChange();
  };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    remember("theme", theme);
    show();
  });
  system.addEventListener("change", show);
  const stored = recall("theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
  show();
}
