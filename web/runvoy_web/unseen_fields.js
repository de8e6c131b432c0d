/** Fields show no letters that have no shape, and letters in another order than they have: it is told beside them, before one signs. */
import { announce, confirm, fill, h } from "./dom.js";
import { unseenIn, withoutUnseen } from "./unseen.js";

/**
 * An element for a place below a text's field: it tells what of it is not seen, and takes that out if one wants it. What a field
 * keeps secret is told without the text around. `read` gives the field, which may be replaced by another; the field has an id.
 */
export function unseenNote(read, { isSecret = false } = {}) {
  const id = `${read().id}-unseen`;
  const note = h("div", { class: "unseen", id, hidden: true });
  const takeOut = () => {
    const control = read();
    control.value = withoutUnseen(control.value);
    control.dispatchEvent(new Event("input", { bubbles: true }));
    control.focus();
    announce("Taken out");
  };
  let told = "";
  const look = (isFirst) => {
    const found = unseenIn(read().value);
    const words = found ? `${found.count === 1 ? "One character" : `${found.count} characters`} here cannot be seen: ${found.words}.` : "";
    const reads = found && !isSecret ? [" It reads: ", h("code", {}, found.excerpt)] : null;
    note.hidden = !found;
    fill(note, found && [h("p", {}, h("strong", {}, words), reads), h("button", { type: "button", class: "small", on: { click: takeOut } }, found.count === 1 ? "Take it out" : "Take them out")]);
    if (found) note.closest("details")?.setAttribute("open", "");
    if (words && words !== told && !isFirst) announce(words);
    told = words;
  };
  describe(read(), id);
  look(true);
  return { note, look: () => look(false) };
}

function describe(control, id) {
  const known = control.getAttribute("aria-describedby");
  control.setAttribute("aria-describedby", known ? `${known} ${id}` : id);
}

/** Have each field of a form watched that holds a text: those that dom.js's `field` made. */
export function watchFields(form) {
  for (const control of form.querySelectorAll(".field > :is(textarea, input:not([type=checkbox], [type=number]))")) {
    const { note, look } = unseenNote(() => control);
    control.after(note);
    look();
    control.addEventListener("input", look);
  }
}

/** Whether a form may be signed: nothing in it is unseen, or one says so. Who does not is led to the first such field. */
export async function maySign(form) {
  const notes = [...form.querySelectorAll(".unseen:not([hidden])")];
  if (!notes.length) return true;
  const names = notes.map((note) => note.closest(".field").querySelector("label").firstChild.textContent);
  const text = `What stands in ${names.join(", ")} has characters that cannot be seen there. What is run may be other than what it looks like.`;
  if (await confirm("Sign what cannot be seen?", text, "Run it all the same")) return true;
  notes[0].closest("details")?.setAttribute("open", "");
  notes[0].closest(".field").querySelector("input, textarea").focus();
  return false;
}
