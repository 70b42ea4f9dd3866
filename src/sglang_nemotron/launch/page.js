"use strict";
// the table is read as choose.py reads it: what one of them says, the other says, too
const table = JSON.parse(document.getElementById("table").textContent);
const at = (id) => document.getElementById(id);

class Wrong extends Error {
  constructor(reason, remedy) {
    super(reason);
    this.remedy = remedy;
  }
}

const fits = (when, values) => Object.entries(when).every(([name, allowed]) => allowed.includes(values[name]));
const standing = (choice, values) => choice.defaults.find((one) => fits(one.when, values)).value;
const offered = (choice, values) => choice.options.filter((option) => fits(option.when, values));
const filled = (text, values) => text.replace(/\{([a-z-]+)\}/g, (_, name) => values[name]);

function check(choice, value, values) {
  const said = `${choice.flag} is '${value.replace(/\s+/g, " ")}'`;
  if (choice.options.length) {
    const known = offered(choice, values).map((option) => option.id);
    if (known.includes(value)) return;
    const elsewhere = choice.options.some((option) => option.id === value);
    throw new Wrong(said + (elsewhere ? `, which ${values.model} does not have` : ""), `give ${known.join(", ")}`);
  }
  if (value === "" && choice.may_be_empty) return;
  const right = new RegExp(`^(?:${choice.pattern})$`).test(value);
  const within = choice.least === null || (choice.least <= Number(value) && Number(value) <= choice.most);
  if (!right || !within) throw new Wrong(said, `give ${choice.expects}`);
}

function answers(asked) {
  const values = {};
  for (const choice of table.choices) {
    const value = asked[choice.id] ?? standing(choice, values);
    check(choice, value, values);
    values[choice.id] = value;
  }
  return values;
}

function launch(asked) {
  const values = answers(asked);
  const refusal = table.refusals.find((one) => fits(one.when, values));
  if (refusal) throw new Wrong(refusal.reason, refusal.remedy);
  const flags = [];
  for (const name of new Set(table.flags.map((row) => row.flag))) {
    const row = table.flags.find((one) => one.flag === name && fits(one.when, values));
    const value = row && filled(row.value, values);
    if (value) flags.push({ flag: name, value, why: filled(row.why, values) });
  }
  const notes = (rows) => rows.filter((note) => fits(note.when, values)).map((note) => note.text);
  const between = values.format === "line" ? " " : " \\\n  ";
  const command = [table.program, ...flags.map((one) => `${one.flag} ${one.value}`)].join(between);
  return { flags, command, changed: notes(table.changed), evidence: notes(table.evidence)[0] };
}

// ---- the page: `asked` is what somebody chose, here or in the address; all else follows the model
const asked = {};

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

// what the page shows: as asked where that is offered, else as unasked; texts as they were typed
function shown() {
  const values = {};
  for (const choice of table.choices) {
    const value = asked[choice.id] ?? standing(choice, values);
    const known = !choice.options.length || offered(choice, values).some((option) => option.id === value);
    values[choice.id] = known ? value : standing(choice, values);
  }
  return values;
}

function radios(choice, values) {
  const options = offered(choice, values).map((option) => {
    const input = element("input", { type: "radio", name: choice.id, value: option.id, id: `${choice.id}-${option.id}` });
    input.checked = values[choice.id] === option.id;
    const label = element("span", {}, option.label, ...(option.note ? [element("small", {}, ` ${option.note}`)] : []));
    return element("label", { className: "option" }, input, label);
  });
  return element("fieldset", { id: `choice-${choice.id}` }, element("legend", {}, choice.title), element("div", { className: "options" }, ...options));
}

function text(choice, values) {
  const input = element("input", { id: choice.id, name: choice.id, value: values[choice.id], autocomplete: "off", spellcheck: false });
  if (choice.least !== null) input.inputMode = "numeric";
  input.setAttribute("aria-describedby", `${choice.id}-help`);
  const help = element("p", { id: `${choice.id}-help` }, choice.help);
  return element("div", { className: "field", id: `choice-${choice.id}` }, element("label", { htmlFor: choice.id }, choice.title), input, help);
}

// options depend on the model, so one question is drawn anew when the model changes; the others keep their focus
function draw(values) {
  for (const choice of table.choices) {
    const old = at(`choice-${choice.id}`);
    const known = offered(choice, values).map((option) => option.id).join();
    if (!old || old.dataset.known !== known) {
      const made = choice.options.length ? radios(choice, values) : text(choice, values);
      made.dataset.known = known;
      old ? old.replaceWith(made) : at("choices").append(made);
    } else if (!choice.options.length) {
      const input = at(choice.id);
      if (input.value !== values[choice.id]) input.value = values[choice.id];
    } else {
      at(`${choice.id}-${values[choice.id]}`).checked = true;
    }
    for (const option of offered(choice, values)) mark(choice, option, values);
  }
}

// what a refusal names and would strike, if only this were chosen otherwise
function mark(choice, option, values) {
  const otherwise = { ...values, [choice.id]: option.id };
  const refused = choice.id !== "model" && table.refusals.some((one) => choice.id in one.when && fits(one.when, otherwise));
  const input = at(`${choice.id}-${option.id}`);
  input.parentElement.classList.toggle("refused", refused);
  refused ? input.setAttribute("aria-describedby", "mark-refused") : input.removeAttribute("aria-describedby");
}

function render(notice = "") {
  const values = shown();
  draw(values);
  let found = null;
  let wrong = null;
  try {
    found = launch(values);
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    wrong = error;
  }
  for (const choice of table.choices.filter((one) => !one.options.length)) {
    let right = true;
    try {
      check(choice, values[choice.id], values);
    } catch {
      right = false;
    }
    at(choice.id).setAttribute("aria-invalid", String(!right));
  }
  at("command").textContent = found ? found.command : "";
  at("command").hidden = at("why").hidden = !found;
  at("copy").disabled = !found;
  at("status").className = wrong ? "wrong" : "";
  const said = wrong ? [element("b", {}, "No command: "), wrong.message, element("span", {}, `Remedy: ${wrong.remedy}`)] : [found.evidence];
  // a live region: a screen reader says what is new in it, so what is the same stays
  if (at("status").textContent !== said.map((part) => part.textContent ?? part).join("")) at("status").replaceChildren(...said);
  at("notice").textContent = notice;
  if (found) {
    at("flags").replaceChildren(
      ...found.flags.map((one) => element("div", {}, element("dt", {}, `${one.flag} ${one.value}`), element("dd", {}, one.why))),
    );
    at("changed").replaceChildren(...found.changed.map((one) => element("li", {}, one)));
  }
  tell(found);
  return values;
}

// for who hears the page: the flags that came and went, not the whole command again
let told = null;
function tell(found) {
  const flags = found && found.flags.map((one) => `${one.flag} ${one.value}`);
  if (told && flags) {
    const came = flags.filter((one) => !told.includes(one));
    const names = found.flags.map((one) => one.flag);
    const went = told.map((one) => one.split(" ")[0]).filter((one) => !names.includes(one));
    const parts = [...came.map((one) => `now ${one}`), ...went.map((one) => `without ${one}`)];
    if (parts.length) at("heard").textContent = `Command: ${parts.join(", ")}.`;
  }
  if (flags) told = flags;
}

function keep(values) {
  const entries = table.choices.map((choice) => [choice.id, values[choice.id]]).filter(([, value]) => value);
  history.replaceState(null, "", `#${new URLSearchParams(entries)}`);
}

// the address wins over what was chosen before; what it asks for and the model lacks is said
function read() {
  for (const name of Object.keys(asked)) delete asked[name];
  const strange = [];
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (table.choices.some((choice) => choice.id === name)) asked[name] = value;
    else strange.push(`${name}=${value}`);
  }
  const values = shown();
  for (const choice of table.choices) {
    if (choice.options.length && choice.id in asked && asked[choice.id] !== values[choice.id]) {
      strange.push(`${choice.id}=${asked[choice.id]}`);
      delete asked[choice.id];
    }
  }
  render(strange.length ? `The address asks for what is not offered: ${strange.join(", ")}.` : "");
}

at("choices").addEventListener("input", ({ target }) => {
  asked[target.name] = target.value;
  keep(render());
});
at("choices").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", read);

at("copy").addEventListener("click", async () => {
  const command = at("command").textContent;
  try {
    await navigator.clipboard.writeText(command);
    at("notice").textContent = "Copied.";
  } catch {
    // without a secure address or permission: the command is selected, and a key copies it
    getSelection().selectAllChildren(at("command"));
    at("notice").textContent = document.execCommand("copy") ? "Copied." : "Selected: press Ctrl+C to copy.";
  }
});

// ---- colours: the system's, or the reader's own choice, kept where the browser keeps things
const THEMES = ["system", "dark", "light"];
let theme = "system";
try {
  theme = THEMES.find((one) => one === localStorage.getItem("theme")) ?? "system";
} catch {
  // a browser that keeps nothing
}

function paint() {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = `Colours: ${theme}`;
}

at("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // as above
  }
  paint();
});

paint();
read();
