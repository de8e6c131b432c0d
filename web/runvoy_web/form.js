/** The page that submits a run: the command line's options as a form. */
import { ApiError } from "./api.js";
import { field, fill, h, problem } from "./dom.js";
import { requestOf } from "./form_values.js";
import { kinds, playbookView } from "./playbooks.js";
import { send, tryOut } from "./submission.js";
import { maySign, watchFields } from "./unseen_fields.js";

export function formView(app, host, parameters, signal) {
  if (parameters.has("playbook")) return void playbookView(app, host, parameters.get("playbook"), signal);
  const draft = app.draft ?? {};
  const failure = h("div");
  const form = h("form", { class: "run-form", novalidate: true, on: { submit: (event) => { event.preventDefault(); submit(app, form, failure); } } }, fields(draft));
  form.elements.dry.addEventListener("click", () => submit(app, form, failure, true));
  form.elements.clear.addEventListener("click", () => {
    form.dataset.done = "cleared";
    app.navigate("?view=new");
  });
  fill(host, h("h1", {}, "New run"), kinds("command"), draft.from ? again(draft) : null, failure, form);
  watchFields(form);
  suggest(app, form, signal);
  form.elements.command.focus();
  const initial = JSON.stringify(valuesOf(form));
  // Who looks something up elsewhere finds what was typed. What was sent is done with.
  signal.addEventListener("abort", () => {
    const values = valuesOf(form);
    if (form.dataset.done) app.draft = null;
    else if (app.client && JSON.stringify(values) !== initial) app.draft = { ...draft, ...values };
  });
}

const valuesOf = (form) => Object.fromEntries(new FormData(form));

function again(draft) {
  const link = h("a", { href: `?execution_id=${draft.from}` }, h("code", {}, draft.from));
  const strong = (words) => h("p", {}, h("strong", {}, words));
  return h(
    "div",
    { class: "note" },
    draft.missing
      ? h("p", {}, "This is what the status tells of ", link, `. Its request is not to be had: ${draft.missing.replace(/\.$/, "")}. Variables, secrets, whether it waits for locks and for how long, and a size are missing: fill them in if it had any.`)
      : h("p", {}, "All that was signed for ", link, ". Change what you like; nothing is sent before you say so."),
    draft.isCut ? strong("The command is longer than what is shown of it. Complete it before you submit.") : null,
    draft.playbook ? h("p", {}, `It was a call of the playbook ${draft.playbook}. This would be a run of its own, with what the playbook had made of it.`) : null,
  );
}

function fields(draft) {
  const text = (name, options = {}) => h("input", { name, type: "text", autocomplete: "off", spellcheck: "false", value: draft[name] ?? "", ...options });
  const area = (name, rows, options = {}) => h("textarea", { name, rows, autocomplete: "off", spellcheck: "false", ...options }, draft[name] ?? "");
  const choice = (name, options) => h("select", { name }, options.map(([value, words]) => h("option", { value, selected: (draft[name] ?? "") === value }, words)));
  const mode = choice("mode", [["line", "a line for /bin/sh"], ["words", "an argv, one word a line"], ["json", "an argv, as JSON"]]);
  const more = ["gitRepo", "cpu", "memory", "queueTimeout", "isolation"].some((name) => draft[name]);
  return [
    field("Command", area("command", 4, { required: true, class: "code" })),
    field("The command is", mode),
    h(
      "div",
      { class: "columns-2" },
      field("Image", text("image", { list: "images" }), "Empty: the deployment's default."),
      field("Name", text("name"), "What to know the run by."),
      field("Locks", text("locks", { placeholder: "prod-db prod-dns" }), "Names, by spaces. The run waits until it holds all."),
      field("If a lock is held", choice("ifLocked", [["wait", "wait for it"], ["fail", "refuse the run"]])),
      field("Timeout", text("timeout", { placeholder: "10m" }), "Such as 30s, 10m, 1h30m."),
      field("Secrets", text("secrets", { list: "secrets", placeholder: "db-password" }), "Names, by spaces. The values never reach this page."),
      field("Variables", area("env", 3, { placeholder: "NAME=value", class: "code" }), "One a line; or JSON, for values of several lines."),
      field("Labels", area("labels", 3, { placeholder: "team=data", class: "code" }), "One a line."),
    ),
    h("datalist", { id: "images" }),
    h("datalist", { id: "secrets" }),
    h(
      "details",
      { open: more },
      h("summary", {}, "Repository, size, queue"),
      h(
        "div",
        { class: "columns-2" },
        field("Git repository", text("gitRepo", { placeholder: "https://example.com/infra.git" }), "Cloned before the command, which runs in it."),
        field("Branch, tag or commit", text("gitRef")),
        field("Folder in it", text("gitPath")),
        field("CPU", text("cpu", { inputmode: "numeric", placeholder: "1024" }), "In units; 1024 are one vCPU."),
        field("Memory, MiB", text("memory", { inputmode: "numeric", placeholder: "2048" })),
        field("Queue timeout", text("queueTimeout", { placeholder: "1h" }), "How long it may wait for its locks."),
        field("Runs as", choice("isolation", [["", "the deployment decides"], ["process", "a process of the machine"], ["container", "a container"]])),
      ),
    ),
    h(
      "div",
      { class: "row" },
      h("button", { type: "submit", class: "primary" }, "Run"),
      h("button", { type: "button", name: "dry" }, "Dry run"),
      h("button", { type: "button", name: "clear", class: "quiet" }, "Clear the form"),
    ),
  ];
}

/** What images and secrets there are, for the fields that name them; who may not see them types. */
async function suggest(app, form, signal) {
  const lists = [
    ["images", (answer) => answer.images.map((image) => image.name)],
    ["secrets", (answer) => answer.secrets.map((secret) => secret.name)],
  ];
  for (const [what, namesOf] of lists) {
    try {
      const names = namesOf(await app.client.call("GET", `/${what}`, { signal }));
      fill(form.querySelector(`#${what}`), names.map((value) => h("option", { value })));
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
    }
  }
}

async function submit(app, form, failure, isDryRun = false) {
  const values = valuesOf(form);
  const { request, problems } = requestOf(values, app.client);
  for (const control of form.elements) control.removeAttribute?.("aria-invalid");
  if (problems.length) {
    for (const [name] of problems) form.elements[name].setAttribute("aria-invalid", "true");
    fill(failure, problem(new Error(problems.map(([, words]) => words).join(" "))));
    form.elements[problems[0][0]].focus();
    return;
  }
  if (!isDryRun && !(await maySign(form))) return;
  const buttons = [...form.querySelectorAll("button")];
  buttons.forEach((button) => (button.disabled = true));
  try {
    if (isDryRun) return void fill(failure, await tryOut(app, request));
    await send(app, request);
    app.sent = { ...values, requestId: request.requestId };
    form.dataset.done = "sent";
    app.navigate(app.runAddress(request.requestId));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    fill(failure, problem(error));
    failure.scrollIntoView({ block: "nearest" });
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}
