// The page of a scan: its steps while it is read; then planes, organs, findings, questions.
import { answerList, askBox } from "./answers.js";
import { about, call, fault, h, number, seconds, WORDS } from "./dom.js";
import { dropPlace, sendAll } from "./home.js";
import { Viewer, VIEWS, WINDOWS } from "./viewer.js";

const STEPS = { read: "Read", check: "Check", segment: "Find organs", encode: "Encode" };
const PLANES = ["axial", "coronal", "sagittal"];

function stepList(scan) {
  const known = Object.fromEntries(scan.steps.map((step) => [step.name, step]));
  return h("ol", { class: "steps" }, ...Object.entries(STEPS).map(([name, title]) => {
    const step = known[name];
    const state = step ? step.state : "waiting";
    return h("li", { class: state }, h("b", {}, title), " ",
      h("span", { class: "soft" }, step ? `${state === "running" ? "running, " : state === "failed" ? "failed, " : ""}${seconds(step.seconds)}` : "waiting"),
      step && step.note ? h("span", { class: "small soft block" }, step.note) : null);
  }));
}

function checkList(checks) {
  const wanted = (checks || []).filter((check) => check.severity !== "info");
  return wanted.length ? h("ul", { class: "checks" }, ...wanted.map((check) => h("li", {},
    h("span", { class: check.severity === "error" ? "bad" : "warn" }, check.severity), " ", h("code", { class: "code" }, check.code), `: ${check.message}`))) : null;
}

function stills(scan, modality) {
  const names = modality === "cxr" ? ["radiograph"] : PLANES;
  return h("div", { class: "pictures" }, ...names.map((name) => {
    const image = h("img", { src: `/api/scans/${scan.id}/pictures/${name}.png`, alt: `${name} picture of the scan` });
    image.addEventListener("error", () => image.remove());
    return image;
  }));
}

function seriesTable(scan) {
  const said = h("div", {});
  const rows = scan.about.series.map((one, n) => h("tr", {},
    h("td", {}, h("input", { type: "radio", name: "series", value: String(n), checked: n === 0, "aria-label": `Series ${n + 1}` })),
    h("th", { scope: "row" }, one.number === null ? "without a number" : `Series ${one.number}`),
    h("td", { class: "num" }, number(one.slices)), h("td", { class: "num" }, `${one.columns} × ${one.rows}`),
    h("td", { class: "num" }, `${number(one.pixel_mm, 2)} mm`), h("td", { class: "num" }, `${number(one.slice_mm, 2)} mm`),
    h("td", { class: "num" }, `${number(one.height_mm)} mm`)));
  const heads = ["", "Series", "Slices", "Pixels", "Pixel", "Slice distance", "Height"];
  return h("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      const chosen = Number(new FormData(event.target).get("series"));
      try { await call("POST", `/api/scans/${scan.id}/series`, { series: chosen }); location.reload(); } catch (error) { said.replaceChildren(fault(error)); }
    },
  }, h("h2", {}, "Which series?"), h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map((head, n) => h("th", { scope: "col", class: n > 1 ? "num" : "" }, head)))),
    h("tbody", {}, ...rows))), h("p", {}, h("button", { class: "primary" }, "Read this series")), said);
}

function failed(scan, modality) {
  const said = h("div", {});
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Sent" });
  const masks = dropPlace("Give organ masks and try again", "A label map, DICOM SEG or a folder of one file per organ.", async (files) => {
    bar.hidden = false;
    try {
      await sendAll(scan.id, [["masks", files]], (done, total) => { bar.value = total ? done / total : 1; });
      location.reload();
    } catch (error) { said.replaceChildren(fault(error)); }
  });
  return h("div", {}, scan.error ? fault(scan.error) : null, checkList(scan.about.checks), stills(scan, modality), modality === "ct" ? masks : null, bar, said);
}

// Everything of one scan as one model encoded it; the page may hold two of them.
class Panel {
  constructor(scan, model, organs, place) {
    Object.assign(this, { scan, model, organs, place, modality: model.modality });
    this.base = `/api/scans/${scan.id}`;
    this.query = `model=${model.key}`;
    this.chosen = null;
    this.said = h("p", { class: "small soft at", "aria-live": "polite" });
    this.canvas = h("div", { class: "canvas" });
    this.card = h("div", { class: "card", "aria-live": "polite" });
    this.places = h("div", { class: "viewer" }, this.canvas);
  }

  async start() {
    if (this.modality === "cxr") return this.radiograph();
    const low = WINDOWS.findIndex(([, from]) => from === this.organs.window[0]);
    this.viewer = new Viewer(this.canvas, this.organs, this.place, (at, clicked) => this.moved(at, clicked));
    try {
      await this.viewer.start(this.base, this.query, WINDOWS[Math.max(0, low)].slice(1));
    } catch (error) {
      this.viewer = null;
      this.canvas.replaceChildren(fault({ message: error.message, fix: "The still pictures are below." }), stills(this.scan, "ct"));
      this.canvas.classList.add("still");
      return undefined;
    }
    this.places.append(this.said, this.controls(Math.max(0, low)));
    const first = this.organs.organs.find((organ) => organ.shown);
    this.viewer.go(first ? first.shown.centre : [0.5, 0.5, 0.5]);
    return undefined;
  }

  radiograph() {
    const image = h("img", { src: `${this.base}/views/image.png?${this.query}`, alt: "The radiograph. The patient’s right is on the left." });
    this.over = h("img", { class: "heat", alt: "", hidden: true });
    this.canvas.classList.add("flat");
    this.canvas.append(h("div", { class: "layers" }, image, this.over));
  }

  controls(window) {
    const viewer = this.viewer;
    this.windows = h("select", { name: "window", onchange: (event) => viewer.window(...WINDOWS[event.target.value].slice(1)) },
      ...WINDOWS.map(([name, low, high], n) => h("option", { value: String(n), selected: n === window }, `${n + 1} ${name} (${number(low)} to ${number(high)} HU)`)));
    this.views = h("select", { name: "view", onchange: (event) => viewer.set({ sliceType: Number(event.target.value) }) },
      ...VIEWS.map(([name, type]) => h("option", { value: String(type) }, name)));
    this.sliders = ["Left to right", "Back to front", "Feet to head"].map((name) => h("input", {
      type: "range", min: "0", max: "1000", value: "500", "aria-label": name,
      oninput: () => viewer.go(this.sliders.map((slider) => slider.value / 1000)),
    }));
    return h("div", { class: "controls-of" },
      h("label", {}, "Window ", this.windows), h("label", {}, "View ", this.views),
      ...this.sliders.map((slider) => h("label", {}, slider.getAttribute("aria-label"), slider)),
      h("label", {}, "Strength of the heat map", h("input", { type: "range", min: "0", max: "100", value: "50", oninput: (event) => viewer.strength(event.target.value / 100) })),
      h("label", { class: "check" }, h("input", { type: "checkbox", checked: true, onchange: (event) => viewer.outline(event.target.checked) }), " Outlines"));
  }

  moved(at, clicked) {
    if (this.sliders) this.sliders.forEach((slider, axis) => { slider.value = Math.round(at.fractions[axis] * 1000); });
    const here = this.organs.organs.filter((organ) => organ.shown && organ.shown.numbers.includes(at.label))
      .sort((a, b) => (b.askable - a.askable) || (a.shown.numbers.length - b.shown.numbers.length));
    this.said.textContent = `At the cross: ${here.length ? here[0].display : "no outlined organ"}, ${number(at.hu)} HU. The patient’s right is on the left.`;
    if (clicked && here.length && here[0] !== this.chosen) this.choose(here[0], false);
  }

  list() {
    const filter = h("input", { type: "search", name: "organ", placeholder: "Filter organs", "aria-label": "Filter organs" });
    this.buttons = this.organs.organs.map((organ) => {
      const swatch = h("span", { class: "dot" });
      if (organ.shown) swatch.style.background = organ.shown.colour;
      return h("button", {
        type: "button", "aria-pressed": "false", class: organ.askable ? "" : "mute", "data-organ": organ.organ,
        onclick: () => this.choose(organ === this.chosen ? null : organ, true),
      }, swatch, organ.display);
    });
    filter.addEventListener("input", () => this.buttons.forEach((button) => {
      button.hidden = !button.textContent.toLowerCase().includes(filter.value.trim().toLowerCase());
    }));
    this.filter = filter;
    const absent = this.organs.absent;
    return h("section", { class: "organs-of", "aria-label": "Organs" }, h("h2", {}, "Organs"), filter,
      h("div", { class: "organs", role: "group", "aria-label": "Organs" }, ...this.buttons),
      absent.length ? h("details", {}, h("summary", {}, `${absent.length} that cannot be read`),
        h("ul", { class: "small" }, ...absent.map((one) => h("li", {}, one.reason)))) : null,
      this.card);
  }

  // A button that has the model draft the report; a click on a sentence chooses its organ.
  draft() {
    if (!this.model.writes_reports) return null;
    const result = h("div", { class: "drafted", "aria-live": "polite" });
    const button = h("button", { type: "button", name: "draft", onclick: async () => {
      button.disabled = true;
      try {
        const found = await call("GET", `${this.base}/report?${this.query}`);
        const lines = found.organs.map((one) => this.passage(one));
        result.replaceChildren(h("p", { class: "warn" }, found.disclaimer), h("h3", {}, "Findings"), ...lines, h("h3", {}, "Impression"), h("p", {}, found.impression));
      } catch (error) { result.replaceChildren(fault(error)); }
      button.disabled = false;
    } }, "Draft a report");
    return h("section", { class: "draft-of", "aria-label": "Draft of a report" }, button, result);
  }

  // What a draft says of one organ, with all that speaks against it.
  passage(one) {
    const sentences = one.sentences.flatMap((sentence) => [
      h("button", {
        type: "button", class: "sentence", "data-organ": one.organ,
        onclick: () => { const organ = this.organs.organs.find((known) => known.organ === one.organ); if (organ) this.choose(organ, true); },
      }, sentence.affirmed.length ? h("b", {}, sentence.text) : sentence.text),
      sentence.fault ? h("span", { class: "warn" }, `(the dictionary contradicts it: ${sentence.fault}) `) : null,
    ]);
    const remarks = one.remarks.map((remark) => h("span", { class: "small warn" }, `${remark} `));
    return h("p", {}, ...sentences, ...remarks, one.reason ? h("span", { class: "soft" }, one.reason) : null);
  }

  async choose(organ, go) {
    this.chosen = organ;
    this.buttons.forEach((button) => button.setAttribute("aria-pressed", String(Boolean(organ) && button.dataset.organ === organ.organ)));
    if (this.viewer) go ? this.viewer.choose(organ) : (this.viewer.filled = organ.shown.numbers, this.viewer.recolour());
    if (!organ) return this.card.replaceChildren();
    const facts = organ.volume_ml === null ? [] : [["Volume", `${number(organ.volume_ml, organ.volume_ml < 100 ? 1 : 0)} ml`],
      ["Mean HU", `${number(organ.mean_hu)} ± ${number(organ.sd_hu)}`], ["Field of view", organ.cut_off ? "reaches its border" : "whole"]];
    const head = [h("h3", {}, organ.display), h("dl", { class: "facts tight" }, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      organ.mark ? h("p", { class: "small warn" }, organ.mark) : null];
    this.card.replaceChildren(...head.filter(Boolean));
    if (!organ.askable) return this.card.append(h("p", { class: "small soft" }, organ.reason || "This model cannot be asked about it."));
    try {
      const found = await call("GET", `${this.base}/findings?organ=${organ.organ}&${this.query}`);
      if (this.chosen === organ) this.card.append(answerList(found.answers, (answer, button) => this.map(answer, button), false), ...found.notes.map((note) => h("p", { class: "small soft" }, note)));
    } catch (error) { this.card.append(fault(error)); }
    return undefined;
  }

  // Switches the heat map of an answer on, or off again.
  async map(answer, button) {
    const on = button.getAttribute("aria-pressed") === "true";
    document.querySelectorAll(".mapper").forEach((one) => { if (this.root.contains(one) || one === button) one.setAttribute("aria-pressed", "false"); });
    if (on) return this.viewer ? this.viewer.lay(null) : (this.over && (this.over.hidden = true));
    button.disabled = true;
    const query = `organ=${answer.organ}&abnormality=${answer.abnormality}&${this.query}`;
    try {
      const found = await call("GET", `${this.base}/map?${query}`);
      if (!found.speaks) this.tell(button, "No place in the organ adds to this answer: what does, such as its size or HU as a whole, has no place.");
      const address = `${this.base}/map/file?${query}`;
      if (this.viewer) await this.viewer.lay(address, found.peak);
      else if (this.over) { this.over.src = address; this.over.hidden = false; }
      button.setAttribute("aria-pressed", "true");
    } catch (error) { this.tell(button, `${error.message} ${error.fix || ""}`); }
    button.disabled = false;
    return undefined;
  }

  tell(button, text) { button.closest("li").append(h("p", { class: "small warn wide", role: "status" }, text)); }
}

function keys(panels) {
  return (event) => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = Number(event.key);
    if (event.key === "/") document.getElementById("question").focus();
    else if (event.key === "o") panels[0].filter.focus();
    else if (event.key === "v") panels.forEach(({ views }) => { if (views) { views.selectedIndex = (views.selectedIndex + 1) % views.length; views.dispatchEvent(new Event("change")); } });
    else if (number >= 1 && number <= WINDOWS.length) panels.forEach(({ windows }) => { if (windows) { windows.value = String(number - 1); windows.dispatchEvent(new Event("change")); } });
    else return;
    event.preventDefault();
  };
}

async function panelOf(id, key, server, place) {
  const scan = await call("GET", `/api/scans/${id}`);
  const model = server.models.find((one) => one.key === key) || server.models[0];
  const organs = await call("GET", `/api/scans/${id}/organs?model=${model.key}`);
  return new Panel(scan, model, organs, place);
}

// One or two (scan, model) side by side, with one box that asks them all.
export async function ready(main, pairs) {
  const server = await about();
  const panels = await Promise.all(pairs.map(([id, key], place) => panelOf(id, key, server, place)));
  const completions = await call("GET", `/api/completions?model=${panels[0].model.key}`);
  const titles = panels.map((panel) => `Scan ${panel.scan.id.slice(0, 4)}${server.models.length > 1 ? `, ${panel.model.name}` : ""}`);
  const targets = panels.map((panel, n) => ({ scan: panel.scan.id, model: panel.model.key, title: titles[n], map: (answer, button) => panel.map(answer, button) }));
  const box = askBox(targets, completions);
  const several = panels.length > 1;
  const columns = panels.map((panel, n) => {
    const printed = h("div", { class: "print-only" }, stills(panel.scan, panel.modality));
    const warnings = checkList(panel.organs.checks);
    const parts = [several ? h("h2", {}, titles[n]) : null, panel.places, several ? null : box, printed, warnings, panel.list(), panel.draft()];
    panel.root = h("div", { class: several ? "panel-of" : "one-of" }, ...parts);
    return panel.root;
  });
  const total = panels[0].scan.step_seconds;
  main.replaceChildren(h("h1", {}, several ? "Side by side" : titles[0]),
    h("p", { class: "soft facts-line" }, several ? "" : `Read in ${seconds(total)}. ${panels[0].organs.masks === "none" ? "" : `Organs from ${panels[0].organs.masks}. `}`, several ? null : await choices(panels[0], server)),
    several ? h("div", { class: "pair-of" }, box, ...columns) : columns[0],
    h("p", { class: "small soft keys" }, panels[0].modality === "cxr" ? "Keys: / ask, o organs." : "Keys: / ask, o organs, 1 to 7 windows, v view. Click the scan to choose an organ, scroll for other slices, drag with the right button for contrast."));
  document.documentElement.dataset.page = "drawing";
  for (const panel of panels) await panel.start();
  document.documentElement.dataset.page = "ready";
  const listener = keys(panels);
  document.addEventListener("keydown", listener);
  return () => { document.removeEventListener("keydown", listener); panels.forEach((panel) => panel.viewer && panel.viewer.end && panel.viewer.end()); };
}

// Links to other models, and to this scan beside others.
async function choices(panel, server) {
  const scans = (await call("GET", "/api/scans")).filter((scan) => scan.state === "ready");
  const here = `${panel.scan.id}/${panel.model.key}`;
  const options = scans.flatMap((scan) => server.models.map((model) => [`${scan.id}/${model.key}`,
    `Scan ${scan.id.slice(0, 4)}${server.models.length > 1 ? `, ${model.name}` : ""}`])).filter(([key]) => key !== here);
  const models = server.models.length > 1 ? h("label", {}, " Model ", h("select", { onchange: (event) => { location.hash = `#/scan/${panel.scan.id}/${event.target.value}`; } },
    ...server.models.map((model) => h("option", { value: model.key, selected: model.key === panel.model.key }, model.name)))) : null;
  const beside = options.length ? h("label", {}, " Beside ", h("select", { onchange: (event) => { location.hash = `#/beside/${here}/${event.target.value}`; } },
    h("option", { value: "" }, "nothing"), ...options.map(([key, name]) => h("option", { value: key }, name)))) : null;
  const remove = h("button", { type: "button", onclick: async () => { await call("DELETE", `/api/scans/${panel.scan.id}`); location.hash = "#/"; } }, "Delete this scan");
  return h("span", { class: "choices" }, models, beside, " ", remove);
}

export async function scanPage(main, id, key) {
  const server = await about(true);
  const modality = (server.models[0] || {}).modality;
  let leave = () => {};
  let gone = false;
  const show = async (scan) => {
    if (gone) return;
    if (scan.state === "ready") {
      const left = await ready(main, [[id, key]]);
      if (gone) left(); else leave = left;
      return;
    }
    const busy = ["queued", "running", "uploading"].includes(scan.state);
    const cancel = busy ? h("button", { type: "button", onclick: () => call("POST", `/api/scans/${id}/cancel`) }, "Cancel") : null;
    const retry = scan.state === "cancelled" ? h("button", { type: "button", onclick: async () => { await call("POST", `/api/scans/${id}/start`); location.reload(); } }, "Read it after all") : null;
    const remove = h("button", { type: "button", onclick: async () => { await call("DELETE", `/api/scans/${id}`); location.hash = "#/"; } }, "Delete this scan");
    const words = scan.state === "queued" && scan.ahead ? `waiting, ${scan.ahead} before it` : WORDS[scan.state];
    main.replaceChildren(h("h1", {}, `Scan ${id.slice(0, 4)}`), h("p", { class: `lead state ${scan.state}`, role: "status" }, words), stepList(scan),
      ...[scan.state === "choose" ? seriesTable(scan) : null, scan.state === "failed" ? failed(scan, modality) : null].filter(Boolean),
      h("p", { class: "buttons" }, ...[cancel, retry, remove].filter(Boolean)));
    document.documentElement.dataset.page = scan.state;
  };
  const source = new EventSource(`/api/scans/${id}/events`);
  let last = null;
  const timer = setInterval(() => { if (last && last.state === "running") { last.steps.filter((step) => step.state === "running").forEach((step) => { step.seconds += 0.5; }); show(last); } }, 500);
  source.addEventListener("scan", (event) => {
    last = JSON.parse(event.data);
    if (!["queued", "running", "uploading"].includes(last.state)) source.close();
    show(last).catch((error) => main.replaceChildren(fault(error)));
  });
  source.addEventListener("deleted", () => { source.close(); main.replaceChildren(fault({ message: "This scan was deleted." })); });
  call("GET", `/api/scans/${id}`).catch((error) => { source.close(); main.replaceChildren(fault(error)); });
  return () => { gone = true; clearInterval(timer); source.close(); leave(); };
}
