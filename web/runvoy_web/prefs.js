/** What a reader likes, kept in localStorage. A browser that keeps nothing has the defaults. */

const PREFIX = "runvoy.";

export function preference(name, otherwise) {
  try {
    return localStorage.getItem(PREFIX + name) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Several that are kept together, as an object; empty where somebody else's text, or none, is there. */
export function preferences(name) {
  try {
    return JSON.parse(preference(name, "{}")) ?? {};
  } catch {
    return {};
  }
}

export function setPreference(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // Private windows may refuse: the choice holds for as long as the page is open.
  }
}

export function forgetPreferences() {
  try {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
    for (const name of names) localStorage.removeItem(name);
  } catch {
    // There is nothing to forget.
  }
}

/** `auto`, `light` or `dark`. */
export function applyTheme(theme = preference("theme", "auto")) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
