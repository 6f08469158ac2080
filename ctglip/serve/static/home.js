// The first page: drop a scan, and the list of those that are here.
import { about, call, fault, h, number, size, WORDS } from "./dom.js";

const FEW = 50;

// Files of a drop, folders searched.
async function dropped(event) {
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  const found = [];
  async function walk(entry) {
    if (entry.isFile) found.push(await new Promise((done, failed) => entry.file(done, failed)));
    else {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (!some.length) break;
        for (const one of some) await walk(one);
      }
    }
  }
  for (const entry of entries) await walk(entry);
  return found.length ? found : [...event.dataTransfer.files];
}

const kept = (files) => [...files].filter((file) => !file.name.startsWith("."));

// A place that takes files: by drop, or by its two buttons.
export function dropPlace(title, hint, take) {
  const said = h("p", { class: "small soft", "aria-live": "polite" }, hint);
  const choose = (folder) => {
    const input = h("input", { type: "file", multiple: true, "aria-label": `${title}: ${folder ? "folder" : "files"}` });
    if (folder) input.webkitdirectory = true;
    input.className = "hidden";
    input.addEventListener("change", () => given(kept(input.files)));
    return [input, h("button", { type: "button", onclick: () => input.click() }, folder ? "Choose a folder" : "Choose files")];
  };
  function given(files) {
    if (!files.length) return;
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    said.textContent = `${files.length} ${files.length === 1 ? "file" : "files"}, ${size(bytes)}`;
    place.classList.add("full");
    take(files);
  }
  const place = h("div", { class: "drop" }, h("h3", {}, title), said, h("p", { class: "buttons" }, ...choose(false), ...choose(true)));
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", async (event) => {
    event.preventDefault();
    place.classList.remove("over");
    given(kept(await dropped(event)));
  });
  return place;
}

function send(address, file, token, progressed) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PUT", address);
    request.setRequestHeader("X-CTGLIP-Token", token);
    request.upload.addEventListener("progress", (event) => progressed(event.loaded));
    request.addEventListener("load", () => {
      if (request.status < 300) return done();
      let error = { message: "The file was not taken." };
      try { error = JSON.parse(request.responseText).error; } catch { /* the words above stay */ }
      failed(Object.assign(new Error(error.message), { fix: error.fix }));
    });
    request.addEventListener("error", () => failed(new Error("The server cannot be reached.")));
    request.send(file);
  });
}

// Sends files to an upload, one after the other, in place of those of their role that it has.
export async function sendAll(id, parts, progressed) {
  const all = parts.flatMap(([role, files]) => files.map((file, n) => [role, file, n === 0]));
  const total = all.reduce((sum, [, file]) => sum + file.size, 0);
  const { token } = await about(true);
  let sent = 0;
  for (const [role, file, replace] of all) {
    const address = `/api/scans/${id}/files?${new URLSearchParams({ role, name: file.name, replace })}`;
    await send(address, file, token, (loaded) => progressed(sent + loaded, total));
    sent += file.size;
    progressed(sent, total);
  }
  return call("POST", `/api/scans/${id}/start`);
}

function table(scans, again) {
  if (!scans.length) return h("p", { class: "soft" }, "No scan is here yet.");
  const row = (scan) => {
    const facts = scan.about.image || {};
    const grid = (facts.voxels || facts.pixels || []).join(" × ");
    return h("tr", {},
      h("th", { scope: "row" }, h("a", { href: `#/scan/${scan.id}` }, `Scan ${scan.id.slice(0, 4)}`)),
      h("td", {}, h("span", { class: `state ${scan.state}` }, WORDS[scan.state]), scan.state === "queued" && scan.ahead ? `, ${scan.ahead} before it` : ""),
      h("td", {}, new Date(scan.created * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })),
      h("td", {}, grid || "–"),
      h("td", { class: "num" }, number(scan.about.organs)),
      h("td", { class: "num" }, h("button", {
        type: "button", "aria-label": `Delete scan ${scan.id.slice(0, 4)}`,
        onclick: async () => { await call("DELETE", `/api/scans/${scan.id}`); again(); },
      }, "Delete")));
  };
  const heads = ["Scan", "State", "Sent at", "Voxels or pixels", "Organs", ""];
  return h("div", { class: "scroll", role: "region", "aria-label": "Scans", tabindex: "0" }, h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map((head, n) => h("th", { scope: "col", class: n > 3 ? "num" : "" }, head)))),
    h("tbody", {}, ...scans.slice(0, FEW).map(row))));
}

export async function home(main) {
  const server = await about(true);
  const first = server.models[0] || {};
  let scan = [], masks = [];
  const said = h("div", { "aria-live": "polite" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Sent" });
  const button = h("button", { class: "primary", type: "button", disabled: true, onclick: upload }, "Read this scan");
  async function upload() {
    button.disabled = true;
    bar.hidden = false;
    try {
      const { id } = await call("POST", "/api/scans");
      await sendAll(id, [["masks", masks], ["scan", scan]], (done, total) => { bar.value = total ? done / total : 1; });
      location.hash = `#/scan/${id}`;
    } catch (error) {
      said.replaceChildren(fault(error));
      button.disabled = false;
    }
  }
  const radiographs = first.modality === "cxr";
  const places = h("div", { class: "drops" },
    dropPlace(radiographs ? "Drop a radiograph" : "Drop a scan",
      radiographs ? "PNG, JPEG or DICOM." : "A DICOM folder or zip, .nii.gz or .nrrd.",
      (files) => { scan = files; button.disabled = false; }),
    dropPlace("Organ masks, if you have them",
      radiographs ? "A PNG of the lungs." : server.segmenter
        ? "A label map, DICOM SEG or a folder; else TotalSegmentator finds the organs."
        : "A label map, DICOM SEG or a folder. TotalSegmentator's weights are not on this machine.",
      (files) => { masks = files; }));
  const list = h("div", {});
  let alive = true;
  const again = async () => {
    if (alive) list.replaceChildren(table(await call("GET", "/api/scans"), again));
  };
  main.replaceChildren(
    h("h1", {}, "Ask about a scan"),
    h("p", { class: "lead" }, "What is dropped here stays on this machine, in one private folder",
      server.keep_hours ? `, and is deleted after ${number(server.keep_hours)} hours` : "", "."),
    places, h("p", { class: "go" }, button, bar), said,
    h("section", { "aria-labelledby": "scans" }, h("h2", { id: "scans" }, "Scans"), list),
    h("section", { "aria-labelledby": "models" }, h("h2", { id: "models" }, "Models"),
      h("dl", { class: "facts" }, ...server.models.map((model) => h("div", {}, h("dt", {}, model.name),
        h("dd", {}, `${model.organs} organs, ${model.findings} findings taught`,
          h("span", { class: "note" }, model.calibrated ? `calibrated on ${model.fitted_on}` : "not calibrated")))))));
  await again();
  const timer = setInterval(() => again().catch(() => {}), 3000);
  return () => { alive = false; clearInterval(timer); };
}
