// What is picked: the controls, the fragment of the address, and the keys.
"use strict";

const DEFAULTS = "platform=linux-x86_64&gpu=sm_89:GeForce+RTX+4090";
const MOST_FOUND = 12;
let picks = null, result = null, selected = "";

const platformOf = (id) => D.platforms.find((one) => one.id === id) || D.platforms[0];

function newestDriver(platform) {
  return D.drivers[platform.drivers].known.at(-1);
}

const isVersion = (text) => text !== null && /^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$/.test(text);

function fromFragment(fragment) {
  const words = new URLSearchParams(fragment || DEFAULTS);
  const platform = platformOf(words.get("platform"));
  const gpus = words.getAll("gpu").map((word) => {
    const [arch, ...name] = word.split(":");
    return { arch, name: name.join(":") };
  }).filter((gpu) => BY_ARCH.has(gpu.arch));
  const driver = words.get("driver"), libc = /^(glibc|musl)-([0-9.]+)$/.exec(words.get("libc") || "");
  const torch = words.get("torch");
  const known = D.rows[platform.rows].torch.some((row) => torchKey(row) === torch);
  return {
    platform: platform.id,
    state: Object.hasOwn(platform.states, words.get("state")) ? words.get("state") : "ok",
    driver: driver === "" || isVersion(driver) ? driver : newestDriver(platform),
    gpus: platform.gpus ? gpus : [],
    libc: libc && platform.libc && isVersion(libc[2]) ? { name: libc[1], version: libc[2] } : null,
    torch: known ? torch : null,
    cell: words.get("cell") || "",
  };
}

function toFragment() {
  const words = new URLSearchParams({ platform: picks.platform });
  if (platformOf(picks.platform).gpus) {
    if (picks.state !== "ok") words.set("state", picks.state);
    else words.set("driver", picks.driver);
  }
  for (const gpu of picks.gpus) words.append("gpu", gpu.name ? `${gpu.arch}:${gpu.name}` : gpu.arch);
  if (picks.libc) words.set("libc", `${picks.libc.name}-${picks.libc.version}`);
  if (picks.torch) words.set("torch", picks.torch);
  if (selected) words.set("cell", selected);
  return words.toString();
}

function option(value, text, chosen) {
  return make("option", { value, selected: value === chosen }, text);
}

function showControls() {
  const platform = platformOf(picks.platform);
  replace(byId("platform"), ...D.platforms.map((one) => option(one.id, one.title, picks.platform)));
  byId("driver-field").hidden = byId("gpu-field").hidden = !platform.gpus;
  byId("libc-field").hidden = !platform.libc;
  byId("state").value = picks.state;
  byId("driver").hidden = picks.state !== "ok";
  byId("driver").value = picks.driver;
  replace(byId("releases"), ...D.drivers[platform.drivers].known.toReversed().map((text) => option(text, text)));
  byId("libc-name").value = picks.libc ? picks.libc.name : byId("libc-name").value;
  byId("libc").value = picks.libc ? picks.libc.version : "";
  showGpus();
}

// The torch builds of what was picked last: those for CUDA where there is a GPU.
function showTorch() {
  const { lookup } = result;
  const groups = new Map();
  const places = [...lookup.table.torch].sort((one, other) => one - other);
  const order = new Map(lookup.table.torch.map((row, place) => [row, place]));
  places.sort((one, other) => order.get(one) - order.get(other));
  for (const place of places) {
    const row = lookup.rows.torch[place], release = row.version.split("+")[0];
    if (!groups.has(release)) groups.set(release, new Map());
    groups.get(release).set(torchKey(row), torchName(row).replace(/^torch /, ""));
  }
  replace(byId("torch"), option("", "any: the best one", picks.torch || ""), ...[...groups].map(([release, rows]) =>
    make("optgroup", { label: `torch ${release}` }, ...[...rows].map(([key, text]) => option(key, text, picks.torch)))));
}

function showGpus() {
  replace(byId("gpus"), ...picks.gpus.map((gpu, place) => {
    const text = gpu.name ? `${gpu.name} (${gpu.arch})` : gpu.arch;
    const button = make("button", { type: "button", "aria-label": `Remove GPU ${place}, ${text}` }, `GPU ${place}: ${text} \u00d7`);
    button.addEventListener("click", () => {
      picks.gpus = picks.gpus.filter((_, other) => other !== place);
      update();
      byId("search").focus();
    });
    return make("li", {}, button);
  }));
}

const squeezed = (text) => text.toLowerCase().replace(/[\s_-]+/g, "");

// The GPUs whose name or architecture holds every word that was typed, whatever the spaces; as a driver reports them.
function search(text) {
  const words = text.toLowerCase().replace(/\bnvidia\b/g, " ").split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const all = D.archs.flatMap((row) => [
    { arch: row.arch, name: "", text: `${row.arch} (${row.generation}, compute capability ${row.capability})` },
    ...row.products.map((name) => ({ arch: row.arch, name, text: `${name} (${row.arch})` })),
  ]);
  const found = all.filter((one) => words.every((word) => squeezed(one.text).includes(squeezed(word))));
  const wanted = squeezed(words.join(" "));
  const far = (one) => ([one.arch, one.name].some((name) => squeezed(name) === wanted) ? 0 : squeezed(one.text).indexOf(wanted) < 0 ? 2 : 1);
  return found.map((one) => [far(one), one]).sort(([one], [other]) => one - other).map(([, one]) => one);
}

function showFound() {
  const text = byId("search").value, found = search(text);
  const more = found.length > MOST_FOUND ? `, the first ${MOST_FOUND} are shown` : "";
  byId("search-hint").textContent = text.trim() ? `${found.length || "No"} GPU${found.length === 1 ? "" : "s"} found${more}; Enter adds the first` : "";
  replace(byId("found"), ...found.slice(0, MOST_FOUND).map((one) => {
    const button = make("button", { type: "button" }, `+ ${one.text}`);
    button.addEventListener("click", () => add(one));
    return make("li", {}, button);
  }));
}

function add({ arch, name }) {
  picks.gpus = [...picks.gpus, { arch, name }];
  byId("search").value = "";
  showFound();
  update();
  byId("search").focus();
}

function summary() {
  const platform = platformOf(picks.platform);
  const gpus = picks.gpus.map((gpu) => (gpu.name ? `${gpu.name} (${gpu.arch})` : gpu.arch)).join(" + ") || "no GPU";
  const driver = picks.state === "ok" ? `driver ${picks.driver || "of unknown version"}` : `driver: ${byId("state").selectedOptions[0].text}`;
  const parts = [platform.title, ...(platform.gpus ? [driver, gpus] : [])];
  if (platform.libc) parts.push(picks.libc ? `${picks.libc.name} ${picks.libc.version}` : "C library not judged");
  return [...parts, picks.torch ? `torch ${picks.torch.replace("@", " from ")}` : "any torch"].join(", ");
}

// Judge what is picked and show it. What was picked of torch stays only where it is a candidate.
function update() {
  result = answer(picks);
  const rows = result.lookup.rows.torch;
  if (picks.torch && !result.lookup.table.torch.some((place) => torchKey(rows[place]) === picks.torch)) {
    picks.torch = null;
    result = answer(picks);
  }
  showGpus();
  showTorch();
  showChoice(result);
  showLegend(result);
  showGrid(result, selected);
  showDetail(result, selected);
  showList(result);
  sayChoice();
  byId("summary").textContent = summary();
  enter(document.querySelector(`[data-key="${CSS.escape(selected)}"]`) || document.querySelector("#grid button"));
  remember();
}

function remember() {
  const fragment = `#${toFragment()}`;
  if (location.hash !== fragment) history.replaceState(null, "", fragment);
}

// One cell can be tabbed to; the arrow keys move on from there.
function enter(button) {
  for (const other of document.querySelectorAll('#grid button[tabindex="0"]')) other.tabIndex = -1;
  if (button) button.tabIndex = 0;
}

function select(button) {
  selected = button.dataset.key;
  for (const other of document.querySelectorAll('#grid button[aria-pressed="true"]')) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", "true");
  enter(button);
  showDetail(result, selected);
  sayDetail();
  remember();
}

function close() {
  const button = document.querySelector('#grid button[tabindex="0"]');
  if (button) button.setAttribute("aria-pressed", "false");
  selected = "";
  showDetail(result, selected);
  remember();
  if (button) button.focus();
}

function step(button, key) {
  const cell = button.parentElement, row = cell.parentElement;
  const inRow = [...row.querySelectorAll("button")];
  const column = (one) => [...one.parentElement.parentElement.children].indexOf(one.parentElement);
  if (key === "Home") return inRow[0];
  if (key === "End") return inRow.at(-1);
  if (key === "ArrowLeft" || key === "ArrowRight") return inRow[inRow.indexOf(button) + (key === "ArrowLeft" ? -1 : 1)];
  const way = key === "ArrowUp" ? "previousElementSibling" : "nextElementSibling";
  for (let next = row[way]; next; next = next[way]) {
    const there = [...next.querySelectorAll("button")];
    if (there.length) {
      const far = (one) => Math.abs(column(one) - column(button));
      return there.reduce((best, one) => (far(one) < far(best) ? one : best));
    }
  }
  return null;
}

function typed(input, hint, accept) {
  const text = input.value.trim(), right = accept(text);
  input.setAttribute("aria-invalid", String(!right));
  hint.textContent = right ? "" : `Not a version: ${text}. What is shown is for the last one.`;
  if (right) update();
}

function listen() {
  byId("picks").addEventListener("submit", (event) => event.preventDefault());
  byId("platform").addEventListener("change", (event) => {
    const words = new URLSearchParams(toFragment());
    const same = platformOf(event.target.value).drivers === platformOf(picks.platform).drivers;
    words.set("platform", event.target.value);
    if (!same) words.delete("driver");
    picks = fromFragment(words.toString());
    showControls();
    update();
  });
  byId("state").addEventListener("change", (event) => {
    picks.state = event.target.value;
    byId("driver").hidden = picks.state !== "ok";
    update();
  });
  byId("driver").addEventListener("input", (event) => typed(event.target, byId("driver-hint"), (text) => {
    const right = !text || isVersion(text);
    if (right) picks.driver = text;
    return right;
  }));
  const libc = () => typed(byId("libc"), byId("libc-hint"), (text) => {
    if (!text) picks.libc = null;
    else if (isVersion(text)) picks.libc = { name: byId("libc-name").value, version: text };
    return !text || isVersion(text);
  });
  byId("libc").addEventListener("input", libc);
  byId("libc-name").addEventListener("change", libc);
  byId("torch").addEventListener("change", (event) => { picks.torch = event.target.value || null; update(); });
  byId("search").addEventListener("input", showFound);
  byId("search").addEventListener("keydown", (event) => {
    const found = event.key === "Enter" ? search(event.target.value) : [];
    if (event.key === "Enter") event.preventDefault();
    if (found.length) add(found[0]);
  });
  byId("close").addEventListener("click", close);
  const grid = byId("grid");
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) select(button);
  });
  grid.addEventListener("focusin", (event) => enter(event.target.closest("button")));
  grid.addEventListener("keydown", (event) => {
    if (!/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) return;
    event.preventDefault();
    const next = step(event.target, event.key);
    if (next) next.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && selected && event.target.id !== "search") close();
  });
  window.addEventListener("hashchange", start);
}

function start() {
  picks = fromFragment(location.hash.slice(1));
  selected = picks.cell;
  showControls();
  update();
}

listen();
start();
document.documentElement.dataset.ready = "yes"; // for those that wait for it
