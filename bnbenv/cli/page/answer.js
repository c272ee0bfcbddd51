// What the tables say about the machine that was picked. No rule stands here: what speaks against a candidate is looked
// up in the tables, which the rules themselves filled, and put together; a candidate against which nothing is said fits.
"use strict";

const D = JSON.parse(document.getElementById("data").textContent);
const BY_ARCH = new Map(D.archs.map((row, place) => [row.arch, place]));
const DRIVER_UNKNOWN = 0, DRIVER_FIRST = 1; // the classes of drivers before and from the bounds
const LIBC_UNKNOWN = 0, LIBC_OTHER = 1, LIBC_GLIBC = 2; // the classes of libc before and from those of glibc

function numbers(version) {
  return version.split(".").map((part) => parseInt(part, 10) || 0);
}

// The class of a version: the place of the last bound that is not above it.
function classOf(bounds, version) {
  const own = numbers(version);
  const above = (bound) => {
    const other = numbers(bound);
    for (let i = 0; i < Math.max(own.length, other.length); i++) {
      if ((own[i] || 0) !== (other[i] || 0)) return (other[i] || 0) > (own[i] || 0);
    }
    return false;
  };
  const first = bounds.findIndex(above);
  return first < 0 ? bounds.length - 1 : Math.max(first - 1, 0);
}

// A branch such as 580 is its newest known release, as for "bnbenv solve --driver".
function driverVersion(platform, text) {
  return D.drivers[platform.drivers].branches[text] || text;
}

function classOfLibc(libc) {
  if (!libc) return LIBC_UNKNOWN;
  return libc.name === "glibc" ? LIBC_GLIBC + classOf(D.glibc, libc.version) : LIBC_OTHER;
}

function outcomeAt(entry, cls) {
  const runs = D.entries[entry];
  let found = runs[0];
  for (let i = 1; i < runs.length && runs[i] <= cls; i += 2) found = runs[i + 1];
  return D.outcomes[found];
}

// What is said, each with the words that its places stand for.
function said(outcome, ...words) {
  return D.outcomes[outcome][1].map((reason) => ({ reason, words }));
}

function fill(text, words) {
  return text.replace(/\{(\w+)\}/g, (place, name) => {
    for (const some of words) if (name in some) return some[name];
    return place;
  });
}

// A reason as text: its rule, why, and where that is known from.
function told({ reason, words }) {
  const [rule, because, source] = D.reasons[reason];
  return { rule: fill(rule, words), because: fill(D.texts[because], words), source: fill(D.texts[source], words) };
}

function toldAll(reasons) {
  const found = new Map();
  for (const one of reasons.map(told)) if (!found.has(one.rule)) found.set(one.rule, one);
  return [...found.values()];
}

function countOf(reasons) {
  return new Set(reasons.map((one) => D.reasons[one.reason][0] + (one.words[0].index ?? ""))).size;
}

function torchKey(row) {
  return `${row.version}@${row.index || "default"}`;
}

// Everything that is looked up once for a machine.
class Lookup {
  constructor(picks) {
    this.platform = D.platforms.find((one) => one.id === picks.platform);
    this.rows = D.rows[this.platform.rows];
    const state = this.platform.states[picks.state || "ok"][picks.gpus.length && this.platform.gpus ? 1 : 0];
    this.backend = state[0];
    this.gpus = this.backend === "cuda" ? picks.gpus.map((gpu, index) => this.gpu(gpu, index, picks)) : [];
    const driver = driverVersion(this.platform, picks.driver || "");
    this.driver = driver ? DRIVER_FIRST + classOf(D.drivers[this.platform.drivers].bounds, driver) : DRIVER_UNKNOWN;
    this.libc = classOfLibc(picks.libc);
    this.words = { driver, libc: picks.libc ? picks.libc.version : "", libc_name: picks.libc ? picks.libc.name : "" };
    this.table = this.platform.backends[this.backend] || this.platform.backends.cpu;
    this.leader = this.gpus.length ? this.platform.leaders[Math.max(...this.gpus.map((gpu) => gpu.place))] : 0;
    this.against = this.host(state[1], picks);
    this.torch = this.candidates(picks.torch);
    this.wheel = this.against.length ? [] : this.table.wheel.map((entry, place) => this.wheelSays(entry, place));
    this.seen = new Map();
  }

  gpu(gpu, index, picks) {
    const place = BY_ARCH.get(gpu.arch);
    const words = { index: gpu.index ?? index, gpu: gpu.name || D.archs[place].generation, arch: gpu.arch };
    return { place, words };
  }

  host(state, picks) {
    const found = said(state, this.words);
    if (this.platform.missing !== null && !found.length) found.push(...said(this.platform.missing, this.words));
    if ((picks.state || "ok") === "ok" && this.backend === "cuda") {
      for (const gpu of this.gpus) found.push(...this.about(this.platform.host[gpu.place], gpu));
    }
    return found;
  }

  about(entry, gpu, ...words) {
    return outcomeAt(entry, this.driver)[1].map((reason) => ({ reason, words: [gpu.words, this.words, ...words] }));
  }

  // The torch builds in the order of preference, all or those that were picked.
  candidates(key) {
    if (this.against.length) return [];
    const all = this.table.torch.map((row, order) => ({ row, order }));
    const picked = all.filter(({ row }) => !key || torchKey(this.rows.torch[row]) === key);
    return picked.map(({ row, order }) => {
      const words = this.rows.torch[row].words;
      const entries = this.table.codes[this.table.of[order]];
      const libc = outcomeAt(this.table.libc[order], this.libc)[1];
      return {
        row, order, kind: this.table.kind[order],
        codes: this.gpus.map((gpu) => outcomeAt(entries[gpu.place], this.driver)[0]),
        against: [
          ...libc.map((reason) => ({ reason, words: [this.words, words] })),
          ...this.gpus.flatMap((gpu) => this.about(entries[gpu.place], gpu, words)),
        ],
      };
    });
  }

  wheelSays(entry, place) {
    const words = [this.words, this.rows.wheels[place].words, { jetson: "" }];
    return outcomeAt(entry, this.libc)[1].map((reason) => ({ reason, words }));
  }

  // What of a library runs on each GPU, and what stands against it.
  library(wheel, place) {
    const key = `${wheel}/${place}`;
    if (!this.seen.has(key)) {
      const tables = this.platform.libraries, row = this.rows.wheels[wheel];
      const words = [row.libraries[place].words, row.words];
      const entries = tables.codes[tables.of[wheel][place]];
      const against = this.gpus.flatMap((gpu) => this.about(entries[gpu.place], gpu, ...words));
      const libc = outcomeAt(tables.libc[wheel][place], this.libc)[1];
      against.push(...libc.map((reason) => ({ reason, words: [this.words, ...words] })));
      this.seen.set(key, {
        codes: this.gpus.map((gpu) => outcomeAt(entries[gpu.place], this.driver)[0]), against,
      });
    }
    return this.seen.get(key);
  }

  // Known-bad combinations: the first that refuses, and all that are notes.
  advisories(wheel, torch, library, override) {
    const against = [], notes = [];
    for (const row of this.platform.advisories) {
      if (row.wheels && !row.wheels.includes(wheel)) continue;
      if (row.torch && !row.torch.includes(torch)) continue;
      if (row.libraries && !row.libraries.includes(library)) continue;
      if (row.libc && !row.libc.includes(this.libc)) continue;
      if (row.override !== null && row.override !== (override !== "")) continue;
      if (row.archs && !this.gpus.some((gpu) => row.archs.includes(gpu.place))) continue;
      if (!row.refuses) notes.push(...said(row.outcome, this.words));
      else if (!against.length) against.push(...said(row.outcome, this.words));
    }
    return { against, notes };
  }

  // A wheel with a torch build: every library that could be loaded, each with what stands against the pair itself.
  pairings(wheel, torch) {
    const [python, variants] = D.pairs[this.table.pairs[this.leader % this.table.pairs.length][wheel][torch.order]];
    const row = this.rows.wheels[wheel], words = [this.rows.torch[torch.row].words, row.words];
    const all = variants.map(([library, override, outcome], variant) => {
      const own = said(outcome, {}, ...words);
      if (library < 0) return { wheel, torch, python, variant, library, override, ptx: false, codes: [], own, notes: [] };
      const code = this.library(wheel, library);
      const more = this.advisories(wheel, torch.row, row.libraries[library].words.library, override);
      own.push(...code.against, ...more.against);
      const ptx = [...torch.codes, ...code.codes].some((one) => one && one.startsWith("ptx"));
      return { wheel, torch, python, variant, library, override, ptx, codes: code.codes, own, notes: more.notes };
    });
    // What is loaded without being told to, if that is all right, leaves no reason to tell it anything.
    const first = all.find((one) => one.override === "");
    return first && !first.own.length && !first.ptx ? [first] : all;
  }

  // Of one wheel all pairs with the torch builds at hand, with everything that stands against each.
  pairsOf(wheel) {
    const found = [];
    for (const torch of this.torch) {
      for (const one of this.pairings(wheel, torch)) {
        one.against = [...this.wheel[wheel], ...torch.against, ...one.own];
        found.push(one);
      }
    }
    return found;
  }

  // The values by which a pair is preferred, in the order that the tables name; the smaller ones win.
  rank(pair) {
    const values = {
      kind: pair.torch.kind, ptx: Number(pair.ptx), override: Number(pair.override !== ""),
      wheel: pair.wheel, torch: pair.torch.order, variant: pair.variant,
    };
    return D.preference.map((name) => values[name]);
  }
}

function before(one, other) {
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return one[i] < other[i];
  return false;
}

// Of several pairs the one with nothing against it that is preferred, else the one that comes closest to fitting.
function bestOf(lookup, pairs) {
  let best = null, rank = null;
  for (const pair of pairs) {
    const own = [countOf(pair.against), ...lookup.rank(pair)];
    if (rank === null || before(own, rank)) [best, rank] = [pair, own];
  }
  return best;
}

// Whether a pair has the torch release that is asked for by the version of another pair's.
function isRelease(lookup, pair, asked) {
  const [own, wanted] = [pair, asked].map((one) => lookup.rows.torch[one.torch.row].version);
  return own === wanted || own.startsWith(`${wanted}+`);
}

function stateOf(pair) {
  if (pair.against.length) return "no";
  return pair.override ? "override" : pair.ptx ? "ptx" : "good";
}

// The whole answer: what the solver would choose, and for each wheel and column what comes of it.
function answer(picks) {
  const lookup = new Lookup(picks);
  const on = (library) => (lookup.backend === "cpu" ? library.column === "CPU" : library.column !== "CPU");
  const columns = [...new Set(lookup.rows.wheels.flatMap((row) => row.libraries.filter(on).map((one) => one.column)))];
  columns.sort((one, other) => (before(numbers(other), numbers(one)) ? -1 : 1)); // the newest first
  const fitting = [], closest = [];
  const rows = lookup.rows.wheels.map((row, wheel) => {
    const pairs = lookup.against.length ? [] : lookup.pairsOf(wheel);
    fitting.push(...pairs.filter((pair) => !pair.against.length));
    const near = bestOf(lookup, pairs);
    if (near) closest.push(near);
    return { wheel, cells: columns.map((column) => cellOf(lookup, row, pairs, column)) };
  });
  return {
    picks, lookup, columns, rows, backend: lookup.backend, against: lookup.against,
    choice: bestOf(lookup, fitting), closest: bestOf(lookup, closest),
  };
}

// Where nothing fits all GPUs: what fits those of one architecture alone.
function alone(picks) {
  const gpus = picks.gpus.map((gpu, index) => ({ ...gpu, index: gpu.index ?? index }));
  const archs = [...new Set(gpus.map((gpu) => gpu.arch))];
  if (archs.length < 2) return [];
  const some = archs.map((arch) => answer({ ...picks, gpus: gpus.filter((gpu) => gpu.arch === arch) }));
  return some.filter((one) => one.choice);
}

function cellOf(lookup, row, pairs, column) {
  const here = row.libraries.flatMap((library, place) => (library.column === column ? [place] : []));
  if (!here.length) return { state: "none", column };
  if (lookup.against.length) return { state: "no", column, library: here[0], against: lookup.against };
  const those = pairs.filter((pair) => here.includes(pair.library));
  const loaded = bestOf(lookup, those);
  // What nothing loads by itself, and what does not fit if it is told to, says nothing where another one fits.
  const idle = those.every((pair) => pair.override && pair.against.length) && pairs.some((pair) => !pair.against.length);
  if (loaded && !idle) {
    const found = { state: stateOf(loaded), column, library: loaded.library, pair: loaded, against: loaded.against };
    // Which library these two releases get where nobody says which one.
    return { ...found, taken: bestOf(lookup, pairs.filter((pair) => isRelease(lookup, pair, loaded))) };
  }
  const taken = bestOf(lookup, pairs);
  // The loader finds nothing for this torch, or it takes another one.
  if (taken && taken.library < 0) return { state: "no", column, library: here[0], pair: taken, against: taken.against };
  return { state: "idle", column, library: here[0], against: [], taken };
}
