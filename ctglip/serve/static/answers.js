// How answers are written: a probability with its state, never a bare yes.
import { call, fault, h, number } from "./dom.js";

const LISTED = 8;

function state(answer) {
  if (answer.sentence) return "a sentence of your own: outside what was calibrated";
  if (answer.probability === null) return "";
  if (answer.calibrated) return answer.threshold === null || answer.threshold === undefined ? "calibrated"
    : `calibrated; the threshold for this finding is ${Math.round(100 * answer.threshold)} %, this is ${answer.probability >= answer.threshold ? "above" : "below"} it`;
  return "not calibrated";
}

function bar(answer) {
  const track = h("span", { class: "meter", "aria-hidden": "true" });
  const fill = h("span", {});
  fill.style.width = `${100 * answer.probability}%`;
  if (!answer.calibrated) track.classList.add("plain");
  track.append(fill);
  return track;
}

function details(answer) {
  const lines = [];
  if (answer.rank) lines.push(answer.sentence ? `Nearer than all but ${answer.rank - 1} of ${answer.of - 1} dictionary sentences.`
    : `Rank ${answer.rank} of the ${answer.of} findings learned of this organ.`);
  if (!answer.sentence && answer.probability !== null) lines.push(answer.taught ? "The model was taught this finding of this organ." : "The model was never taught this finding of this organ.");
  if (answer.familiar === null && answer.probability !== null) lines.push("How far the organ lies from those of training was not measured.");
  if (answer.read_from) lines.push(`Read from ${answer.read_from}.`);
  const texts = answer.texts.map((one) => h("li", {}, `${one.text} `, h("span", { class: "soft" }, number(one.similarity, 2))));
  return h("details", {}, h("summary", {}, "What this rests on"), ...lines.map((line) => h("p", { class: "small" }, line)),
    texts.length ? h("p", { class: "small soft" }, "Nearest sentences of the dictionary:") : null, h("ul", { class: "small" }, ...texts));
}

// One answer; `map` is called to switch its heat map.
export function answerItem(answer, map, named = true) {
  const name = named ? [answer.organ_display, answer.abnormality_display].filter(Boolean).join(": ") : answer.abnormality_display;
  if (answer.probability === null && answer.similarity === null) {
    return h("li", { class: "finding" }, h("p", { class: "name" }, name || answer.question), h("p", { class: "none" }, "No answer"),
      h("p", { class: "small wide" }, answer.reason));
  }
  const value = answer.sentence ? number(answer.similarity, 2) : answer.words;
  const button = map && !answer.sentence ? h("button", {
    type: "button", class: "mapper", "aria-pressed": "false", "data-map": `${answer.organ}/${answer.abnormality}`,
    "aria-label": `Heat map of ${name}`, onclick: (event) => map(answer, event.currentTarget),
  }, "Map") : null;
  return h("li", { class: "finding" },
    h("p", { class: "name" }, answer.sentence ? answer.question : name),
    h("p", { class: "value" }, value, answer.sentence ? h("span", { class: "small soft" }, " similarity") : null),
    button, answer.sentence ? null : bar(answer),
    h("div", { class: "wide" },
      h("p", { class: `small ${answer.calibrated ? "good" : "warn"}` }, [state(answer), ...answer.caveats].filter(Boolean).join("; ")),
      answer.remark ? h("p", { class: "small soft" }, answer.remark) : null, details(answer)));
}

// A list of answers: the first few, the rest on demand.
export function answerList(answers, map, named = true) {
  const items = answers.map((answer) => answerItem(answer, map, named));
  const list = h("ul", { class: "findings" }, ...items.slice(0, LISTED));
  if (items.length <= LISTED) return list;
  const more = h("details", {}, h("summary", {}, `${items.length - LISTED} more`), h("ul", { class: "findings" }, ...items.slice(LISTED)));
  return h("div", {}, list, more);
}

// A box that asks one or several scans and models: `targets` are [{scan, model, title, map}].
export function askBox(targets, completions) {
  const list = h("datalist", { id: "completions" });
  const input = h("input", {
    type: "text", name: "question", list: "completions", autocomplete: "off", maxlength: "500", id: "question",
    placeholder: "gallstones?  ·  left kidney: cyst  ·  liver",
  });
  const free = h("input", { type: "checkbox", name: "free" });
  const out = h("div", { class: "said", "aria-live": "polite" });
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length ? completions.filter((one) => words.every((word) => one.toLowerCase().includes(word))) : [];
    list.replaceChildren(...found.slice(0, 12).map((one) => h("option", { value: one })));
  });
  async function ask(event) {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    const body = free.checked ? { sentences: [text] } : { questions: [text] };
    const parts = await Promise.all(targets.map(async (target) => {
      const title = targets.length > 1 ? h("h4", {}, target.title) : null;
      try {
        const found = await call("POST", `/api/scans/${target.scan}/ask`, { ...body, model: target.model });
        return h("div", { class: "column" }, title, answerList(found.answers, target.map), ...found.notes.map((note) => h("p", { class: "small soft" }, note)));
      } catch (error) {
        return h("div", { class: "column" }, title, fault(error));
      }
    }));
    out.prepend(h("article", { class: "asked" }, h("h3", {}, text), h("div", { class: targets.length > 1 ? "columns" : "" }, ...parts)));
    input.select();
  }
  return h("section", { class: "ask", "aria-labelledby": "ask" }, h("h2", { id: "ask" }, "Ask"),
    h("form", { onsubmit: ask },
      h("label", { for: "question" }, "A question in the dictionary’s words, an organ, or “any abnormality?”"),
      h("div", { class: "line" }, input, h("button", { class: "primary" }, "Ask")), list,
      h("label", { class: "check" }, free, " It is a sentence of my own: compare the organ with it (no probability)")),
    out);
}
