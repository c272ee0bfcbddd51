// How an answer is written down. Text goes in as text, never as markup.
"use strict";

const STATES = {
  good: ["\u2713", "runs", "runs native code (SASS)"],
  ptx: ["\u2248", "PTX", "runs, and the driver compiles PTX for it"],
  override: ["!", "told to", "runs if BNB_CUDA_VERSION names this library"],
  no: ["\u2717", "no", "does not fit"],
  idle: ["\u2013", "unused", "is not what bitsandbytes loads there"],
};

// Rules in a word, for the cells; a rule that is not here goes by its name.
const SHORT = {
  "driver-state": "driver", "driver-arch": "driver", "driver-cuda": "driver", "reboot-required": "reboot",
  "torch-arch": "torch", "torch-ptx": "torch", "torch-requirement": "torch", "torch-cuda": "torch",
  "library-arch": "no code", "library-ptx": "driver", "library-libc": "libc", loader: "loader", advisory: "known bad",
};

const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function replace(parent, ...children) {
  parent.replaceChildren(...children.filter(Boolean));
}

const digits = (column) => column.replace(".", "");

function nameOf(column) {
  return column === "CPU" ? "CPU" : `CUDA ${column}`;
}

function shortOf(cell) {
  if (cell.state === "no") {
    const rules = toldAll(cell.against).map((one) => one.rule.replace(/[[:].*/s, ""));
    return SHORT[rules[0]] || rules[0];
  }
  if (cell.state === "override") return `set ${digits(cell.column)}`;
  return STATES[cell.state][1];
}

function torchName(row) {
  return row.words.label;
}

function code(text) {
  const [kind, target] = text.split(" ");
  return kind === "sass" ? `native code (SASS ${target})` : `PTX ${target}, which the driver compiles`;
}

function coverage(lookup, pair) {
  return lookup.gpus.map((gpu, place) => {
    const [torch, own] = [pair.torch.codes[place], pair.codes[place]];
    const name = `GPU ${gpu.words.index} (${gpu.words.gpu}, ${gpu.words.arch})`;
    return `${name}: torch runs ${code(torch)}, bitsandbytes ${code(own)}`;
  });
}

function commandFor(lookup, pair, gpus = []) {
  const words = {
    torch: lookup.rows.torch[pair.torch.row].version, bitsandbytes: lookup.rows.wheels[pair.wheel].version,
  };
  const cpu = lookup.backend === "cpu" && lookup.platform.gpus ? " --backend cpu" : "";
  return fill(D.command, [words]) + cpu + (gpus.length ? ` --gpus ${gpus.join(",")}` : "");
}

function commandNode(lookup, pair, gpus) {
  const text = commandFor(lookup, pair, gpus);
  const node = make("p", { class: "command" }, make("code", {}, text));
  if (navigator.clipboard) {
    const button = make("button", { type: "button" }, "Copy");
    button.addEventListener("click", () => {
      navigator.clipboard.writeText(text).then(() => { button.textContent = "Copied"; }, () => {});
    });
    node.append(button);
  }
  return node;
}

function evidence(row) {
  const [level, date, source] = row.evidence;
  return `${level} ${date}, from ${fill(D.texts[source], [row.words])}`;
}

function facts(pairs) {
  const list = make("dl");
  for (const [name, ...values] of pairs) {
    if (values.length) list.append(make("dt", {}, name), ...values.map((value) => make("dd", {}, value)));
  }
  // A name with several values spans them.
  for (const term of list.querySelectorAll("dt")) {
    let count = 0;
    for (let next = term.nextElementSibling; next && next.tagName === "DD"; next = next.nextElementSibling) count++;
    if (count > 1) term.style.gridRow = `span ${count}`;
  }
  return list;
}

function reasonList(reasons) {
  return make("ul", {}, ...toldAll(reasons).map((one) =>
    make("li", {}, one.because, make("span", { class: "source" }, `from ${one.source}`))));
}

function needs(lookup, pair, taken) {
  const { libraries } = lookup.rows.wheels[pair.wheel];
  const own = `${pair.override}=${digits(libraries[pair.library].column)} in the environment`;
  if (taken === pair) return `${own}, which bnbenv sync sets`;
  return `${own}, set by yourself: for these two bnbenv sync takes ${libraries[taken.library].words.library}`;
}

function pairFacts(lookup, pair, taken = pair) {
  const torch = lookup.rows.torch[pair.torch.row], wheel = lookup.rows.wheels[pair.wheel];
  const library = pair.library < 0 ? null : wheel.libraries[pair.library];
  const good = !pair.against.length;
  return facts([
    ["with", good && pair.python ? `${torchName(torch)}, Python ${pair.python}` : torchName(torch)],
    ["loads", ...(library ? [library.words.library] : [])],
    ["needs", ...(good && pair.override ? [needs(lookup, pair, taken)] : [])],
    ["covers", ...(good ? coverage(lookup, pair) : [])],
    ["note", ...(good ? toldAll(pair.notes).map((one) => `${one.because} [${one.source}]`) : [])],
    ["evidence", `${wheel.words.bitsandbytes}: ${evidence(wheel)}`, `${torch.words.torch}: ${evidence(torch)}`],
  ]);
}

function aloneNodes({ lookup, choice }) {
  const gpus = lookup.gpus.map((gpu) => gpu.words.index);
  const torch = lookup.rows.torch[choice.torch.row], wheel = lookup.rows.wheels[choice.wheel];
  const what = `${wheel.words.bitsandbytes} with ${torchName(torch)}`;
  return [make("p", {}, `GPU ${gpus.join(", ")} alone: ${what}`), commandNode(lookup, choice, gpus)];
}

function showChoice(result) {
  const { lookup, choice, closest } = result;
  const body = byId("choice-body");
  // The tables are of published wheels alone; on Linux bnbenv compiles what they lack.
  const compiles = closest && lookup.platform.id.startsWith("linux") && lookup.gpus.length > 0;
  const tells = compiles ? " says whether bitsandbytes can be compiled for it, or names what else would change it."
    : " names what would change it.";
  const more = [
    ...(choice ? [] : alone(result.picks).flatMap(aloneNodes)),
    make("p", {}, "On that machine ", make("code", {}, "bnbenv solve"), tells),
  ];
  if (choice) {
    const torch = lookup.rows.torch[choice.torch.row], wheel = lookup.rows.wheels[choice.wheel];
    const what = `${wheel.words.bitsandbytes} with ${torchName(torch)}`;
    replace(body, make("p", { class: "verdict" }, what), commandNode(lookup, choice), pairFacts(lookup, choice));
  } else if (result.against.length) {
    replace(body, make("p", { class: "verdict" }, "Nothing fits, whatever the version:"), reasonList(result.against),
      ...(result.lookup.platform.missing === null ? more : []));
  } else if (closest) {
    const torch = lookup.rows.torch[closest.torch.row], wheel = lookup.rows.wheels[closest.wheel];
    const near = `The closest is ${wheel.words.bitsandbytes} with ${torchName(torch)}, against which stands:`;
    replace(body, make("p", { class: "verdict" }, "No published wheel fits."), make("p", {}, near),
      reasonList(closest.against), ...more);
  } else {
    replace(body, make("p", { class: "verdict" }, "No torch build that was picked can be had there."));
  }
}

// For those who hear the page: in a sentence what an update or a cell says.
function sayChoice() {
  byId("said").textContent = byId("choice-body").querySelector(".verdict").textContent;
}

function sayDetail() {
  const reasons = [...byId("detail-body").querySelectorAll("li")].map((one) => one.firstChild.textContent);
  const verdict = byId("detail-body").querySelector(".verdict").textContent;
  byId("said").textContent = [byId("detail-title").textContent, verdict, ...reasons].join(". ");
}

function showLegend(result) {
  const used = new Set(result.rows.flatMap((row) => row.cells.map((cell) => cell.state)));
  const rows = Object.entries(STATES).filter(([state]) => used.has(state));
  replace(byId("legend"), ...rows.map(([state, [sign, , text]]) =>
    make("li", { class: state }, make("span", { class: "sign", "aria-hidden": "true" }, sign), ` ${text}`)));
}

function showGrid(result, selected) {
  const head = make("tr", {}, make("th", { scope: "col" }, "version"),
    ...result.columns.map((column) => make("th", { scope: "col" }, nameOf(column))));
  const body = result.rows.map(({ wheel, cells }) => {
    const { version } = result.lookup.rows.wheels[wheel];
    return make("tr", {}, make("th", { scope: "row" }, version), ...cells.map((cell) => {
      if (cell.state === "none") return make("td", {}, make("span", { class: "unseen" }, "no such library"));
      const [sign, , text] = STATES[cell.state];
      const short = shortOf(cell), key = `${version},${cell.column}`;
      const label = `bitsandbytes ${version}, ${nameOf(cell.column)}: ${text}${cell.state === "no" ? ` (${short})` : ""}`;
      return make("td", {}, make("button", {
        type: "button", class: cell.state, tabindex: "-1", "aria-label": label, "aria-pressed": String(key === selected),
        "data-key": key,
      }, make("span", { class: "sign" }, sign), ` ${short}`));
    }));
  });
  replace(byId("grid"), make("thead", {}, head), make("tbody", {}, ...body));
}

function showDetail(result, key) {
  const [version, column] = (key || "").split(",");
  const row = result.rows.find((one) => result.lookup.rows.wheels[one.wheel].version === version);
  const cell = row && row.cells.find((one) => one.column === column && one.state !== "none");
  byId("detail").hidden = !cell;
  if (!cell) return;
  const { lookup } = result, wheel = lookup.rows.wheels[row.wheel];
  byId("detail-title").textContent = `bitsandbytes ${version}, ${nameOf(column)}`;
  const [sign, , text] = STATES[cell.state];
  const library = wheel.libraries[cell.library];
  const held = library.words.codes ? `It holds ${library.words.codes}.` : null;
  const verdict = make("p", { class: "verdict" }, `${sign} ${library.words.library} ${text}.`);
  const parts = [verdict, held && make("p", {}, held)];
  if (cell.state === "idle" && cell.taken) {
    const torch = lookup.rows.torch[cell.taken.torch.row];
    const taken = cell.taken.library < 0 ? "no library" : wheel.libraries[cell.taken.library].words.library;
    parts.push(make("p", {}, `With ${torchName(torch)} it loads ${taken}.`));
  }
  if (cell.against.length) parts.push(reasonList(cell.against));
  if (cell.pair && !cell.against.length) parts.push(commandNode(lookup, cell.pair));
  parts.push(cell.pair ? pairFacts(lookup, cell.pair, cell.taken) : facts([["evidence", evidence(wheel)]]));
  replace(byId("detail-body"), ...parts);
}

// Every verdict in words, libraries of a version that share one together.
function showList(result) {
  if (result.against.length) return replace(byId("list-body"), reasonList(result.against));
  const parts = result.rows.map(({ wheel, cells }) => {
    const groups = new Map();
    for (const cell of cells) {
      if (cell.state === "none") continue;
      const why = toldAll(cell.against).map((one) => one.because).join("; ");
      const pair = cell.pair && !cell.against.length ? `, with ${torchName(result.lookup.rows.torch[cell.pair.torch.row])}` : "";
      const text = `${STATES[cell.state][2]}${pair}${why ? `: ${why}` : ""}`;
      groups.set(text, [...(groups.get(text) || []), nameOf(cell.column)]);
    }
    const lines = [...groups].map(([text, columns]) => make("li", {}, `${columns.join(", ")}: ${text}`));
    return [make("h3", {}, `bitsandbytes ${result.lookup.rows.wheels[wheel].version}`), make("ul", {}, ...lines)];
  });
  replace(byId("list-body"), ...parts.flat());
}
