// The studies of the server's store, page by page; one is opened as if it had been uploaded.
import { call, fault, h, number } from "./dom.js";

const TITLES = {
  study_id: "Study", patient_id: "Patient", split: "Split", age: "Age", sex: "Sex", scanner: "Scanner", view: "View", phase: "Phase",
  organs: "Organs", warnings: "Warnings", findings: "Findings of the report",
};

export async function cohortPage(main) {
  const state = { words: "", sort: "study_id", order: "up", page: 0, size: 50 };
  const out = h("div", { "aria-live": "polite" });
  let timer = 0;
  const filter = h("input", { type: "search", class: "wide-filter", "aria-label": "Filter studies", placeholder: "Words of a study’s id or findings" });
  filter.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { state.words = filter.value; state.page = 0; show(); }, 200);
  });
  const open = async (id) => {
    try {
      const found = await call("POST", `/api/cohort/${encodeURIComponent(id)}/open`);
      location.hash = `#/scan/${found.id}`;
    } catch (error) { out.prepend(fault(error)); }
  };
  const sorted = (column) => {
    state.order = state.sort === column && state.order === "up" ? "down" : "up";
    state.sort = column;
    state.page = 0;
    show();
  };
  async function show() {
    let found;
    try { found = await call("GET", `/api/cohort?${new URLSearchParams(state)}`); } catch (error) { return out.replaceChildren(fault(error)); }
    const numeric = new Set(["age", "organs", "warnings"]);
    const head = found.columns.map((column) => h("th", {
      scope: "col", class: numeric.has(column) ? "num" : "", "aria-sort": state.sort === column ? (state.order === "up" ? "ascending" : "descending") : "none",
    }, h("button", { type: "button", class: "sorter", onclick: () => sorted(column) }, TITLES[column] || column, state.sort === column ? (state.order === "up" ? " ▲" : " ▼") : "")));
    const rows = found.rows.map((row) => h("tr", {}, ...found.columns.map((column) => {
      if (column === "study_id") return h("th", { scope: "row" }, h("button", { type: "button", class: "linkish", onclick: () => open(row.study_id) }, row.study_id));
      return h("td", { class: numeric.has(column) ? "num" : "" }, row[column] === null ? "–" : String(row[column]));
    })));
    const last = Math.max(0, Math.ceil(found.total / state.size) - 1);
    const step = (by) => { state.page = Math.min(last, Math.max(0, state.page + by)); show(); };
    return out.replaceChildren(
      h("p", { class: "soft" }, `${number(found.total)} studies, page ${number(state.page + 1)} of ${number(last + 1)}.`),
      h("div", { class: "scroll", role: "region", "aria-label": "Studies", tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows))),
      h("p", { class: "buttons" }, h("button", { type: "button", disabled: state.page === 0, onclick: () => step(-1) }, "Page before"),
        h("button", { type: "button", disabled: state.page >= last, onclick: () => step(1) }, "Next page")));
  }
  main.replaceChildren(h("h1", {}, "Cohort"), h("p", { class: "lead" }, "The studies of the store. Findings are those that its reports affirm; choose a study to look at it and ask."), filter, out);
  await show();
  document.documentElement.dataset.page = "cohort";
  return () => clearTimeout(timer);
}
