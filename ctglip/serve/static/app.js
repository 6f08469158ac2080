// Which page is shown: by what stands behind # in the address.
import { cohortPage } from "./cohort.js";
import { about, fault, h } from "./dom.js";
import { home } from "./home.js";
import { ready, scanPage } from "./scan.js";

const main = document.getElementById("main");
let leave = () => {};
let turn = 0;

async function navigation() {
  const server = await about();
  const links = [["#/", "Scans"], ...(server.store ? [["#/cohort", "Cohort"]] : [])];
  document.getElementById("nav").replaceChildren(...links.map(([address, name]) => h("a", { href: address }, name)));
}

async function route() {
  leave();
  leave = () => {};
  const mine = ++turn;
  const place = h("div"); // each page its own: one that was left while it loaded writes where nobody looks
  main.replaceChildren(place);
  const [page, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  document.documentElement.dataset.page = "loading";
  try {
    await navigation();
    const show = page === "scan" ? () => scanPage(place, rest[0], rest[1]) : page === "cohort" ? () => cohortPage(place)
      : page === "beside" ? () => ready(place, [[rest[0], rest[1]], [rest[2], rest[3]]]) : () => home(place);
    const left = await show();
    if (mine !== turn) return left();
    leave = left;
    if (!["scan", "beside", "cohort"].includes(page)) document.documentElement.dataset.page = "home";
  } catch (error) {
    place.replaceChildren(fault(error));
  }
  return undefined;
}

addEventListener("hashchange", () => { route(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
route();
